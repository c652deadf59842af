"""Groups of devices: made, filled by hand, and used as a filter."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi import Form as Sent

from tbserver.access import Here, Operator, Viewer
from tbserver.accounts import Caller
from tbserver.api import groups
from tbserver.api.shapes import Number
from tbserver.pages.sheet import Form, go, show, take
from tbserver.paging import Asked, Paging
from tbserver.refusals import Refusal
from tbserver.server import Server

router = APIRouter()


class NewGroup(Form):
    """A group to be made."""

    name: str


class NewMembers(Form):
    """Ids of devices, with spaces, commas or lines between them."""

    devices: str


@router.get("/groups")
def list_groups(server: Here, request: Request, caller: Viewer, paging: Paging) -> Response:
    """All groups."""
    return show(request, caller, "groups.html", found=groups.list_groups(server, caller, paging))


@router.post("/groups")
def create_group(server: Here, caller: Operator, given: Annotated[NewGroup, Sent()]) -> Response:
    """Make a group."""
    made = groups.create_group(server, caller, take(groups.NewGroup, name=given.name.strip()))
    return go(f"/groups/{made.id}")


@router.get("/groups/{group_id}")
def show_group(server: Here, request: Request, caller: Viewer, group_id: Number, paging: Paging) -> Response:
    """One group, and the devices in it."""
    return _shown(server, request, caller, group_id, paging)


def _shown(
    server: Server,
    request: Request,
    caller: Caller,
    group_id: Number,
    paging: Asked,
    given: str = "",
    error: Refusal | None = None,
) -> Response:
    one = groups.show_group(server, caller, group_id)
    found = groups.list_members(server, caller, group_id, paging)
    why, remedy, status = ("", "", 200) if error is None else (str(error), error.remedy, error.status)
    about = {"found": found, "given": given, "why": why, "remedy": remedy, "kept": {"after": paging.after or ""}}
    return show(request, caller, "group.html", status, one=one, meant=f'group = "{one.name}"', **about)


@router.post("/groups/{group_id}/devices")
def put_into_group(
    server: Here, request: Request, caller: Operator, group_id: Number, given: Annotated[NewMembers, Sent()]
) -> Response:
    """Put devices into a group."""
    words = given.devices.replace(",", " ").split()
    try:
        groups.put_many_into_group(server, caller, group_id, take(groups.NewMembers, controllers=words))
    except Refusal as error:
        return _shown(server, request, caller, group_id, Asked(), given.devices, error)
    return go(f"/groups/{group_id}")


@router.post("/groups/{group_id}/devices/{device_id}/remove")
def take_from_group(server: Here, caller: Operator, group_id: Number, device_id: Number) -> Response:
    """Take a device out of a group."""
    groups.take_from_group(server, caller, group_id, device_id)
    return go(f"/groups/{group_id}")


@router.post("/groups/{group_id}/remove")
def remove_group(server: Here, caller: Operator, group_id: Number) -> Response:
    """Remove a group."""
    groups.remove_group(server, caller, group_id)
    return go("/groups")
