"""Groups of devices that people put together by hand."""

from __future__ import annotations

import time
from typing import Annotated

import pydantic
from fastapi import APIRouter
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tbserver import audit
from tbserver.access import Here, Operator, Viewer
from tbserver.accounts import Caller
from tbserver.api import devices
from tbserver.api.devices import DeviceShown
from tbserver.api.shapes import Moment, Name, Number, Order, Shape
from tbserver.database import insert_into
from tbserver.paging import Page, Paging, read_page
from tbserver.records import Device, Group, Member
from tbserver.refusals import NotThere, Refusal

router = APIRouter(tags=["devices"])
PUT_MOST = 500
# Whatever a device that is known may be called.
Known = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]


def _can_be_meant(name: str) -> str:
    if set(name) & set('"*'):
        raise ValueError('a filter could not mean it: a name has no " and no *')
    return name


class GroupShown(Shape):
    """Devices that were put together by hand."""

    id: int
    """Its number."""
    name: str
    """Its name."""
    created: Moment
    """When it was made."""


class NewGroup(Order):
    """A group to be made."""

    name: Annotated[Name, pydantic.AfterValidator(_can_be_meant)]


class NewMembers(Order):
    """Devices to be put into a group, by their ids."""

    controllers: Annotated[list[Known], pydantic.Field(min_length=1, max_length=PUT_MOST)]


@router.get("/groups")
def list_groups(server: Here, caller: Viewer, paging: Paging) -> Page[GroupShown]:
    """The groups."""
    with server.database.reading() as session:
        query = select(Group).where(Group.tenant_id == caller.tenant_id)
        rows, following = read_page(session, query, paging, [Group.id])
        return Page(items=[GroupShown.model_validate(row) for row in rows], next=following)


@router.post("/groups", status_code=201)
def create_group(server: Here, caller: Operator, given: NewGroup) -> GroupShown:
    """Make a group."""
    row = Group(tenant_id=caller.tenant_id, name=given.name, created=int(time.time()))
    try:
        with server.database.writing() as session:
            session.add(row)
            session.flush()
            audit.note(session, caller.tenant_id, caller.name, "group.create", given.name)
    except IntegrityError:
        raise Refusal(f"there is a group {given.name} already", "Choose another name.") from None
    return GroupShown.model_validate(row)


@router.get("/groups/{group_id}")
def show_group(server: Here, caller: Viewer, group_id: Number) -> GroupShown:
    """A group."""
    with server.database.reading() as session:
        return GroupShown.model_validate(_get(session, caller, group_id))


@router.delete("/groups/{group_id}", status_code=204)
def remove_group(server: Here, caller: Operator, group_id: Number) -> None:
    """Remove a group; its devices stay. A filter that names it means nobody by that any more."""
    with server.database.writing() as session:
        row = _get(session, caller, group_id)
        session.delete(row)
        audit.note(session, caller.tenant_id, caller.name, "group.delete", row.name)


@router.get("/groups/{group_id}/devices")
def list_members(server: Here, caller: Viewer, group_id: Number, paging: Paging) -> Page[DeviceShown]:
    """The devices of a group, by their numbers."""
    with server.database.reading() as session:
        inside = select(Member.device_id).where(Member.group_id == _get(session, caller, group_id).id)
        rows, following = read_page(session, select(Device).where(Device.id.in_(inside)), paging, [Device.id])
        return Page(items=[DeviceShown.model_validate(row) for row in rows], next=following)


@router.post("/groups/{group_id}/devices", status_code=204)
def put_many_into_group(server: Here, caller: Operator, group_id: Number, given: NewMembers) -> None:
    """Put devices into a group, all of them or, if one is not known, none."""
    with server.database.writing() as session:
        row = _get(session, caller, group_id)
        query = select(Device.controller, Device.id).where(
            Device.tenant_id == caller.tenant_id, Device.controller.in_(given.controllers)
        )
        known = {controller: number for controller, number in session.execute(query)}
        strange = [one for one in given.controllers if one not in known]
        if strange:
            raise Refusal(
                f"there is no device {strange[0]}", "Nothing was changed. Correct its name, or enrol it first."
            )
        _put(session, caller, row, known)


@router.put("/groups/{group_id}/devices/{device_id}", status_code=204)
def put_into_group(server: Here, caller: Operator, group_id: Number, device_id: Number) -> None:
    """Put a device into a group."""
    with server.database.writing() as session:
        row = _get(session, caller, group_id)
        device = devices.get(session, caller, device_id)
        _put(session, caller, row, {device.controller: device.id})


def _put(session: Session, caller: Caller, row: Group, known: dict[str, int]) -> None:
    members = [
        {"group_id": row.id, "device_id": number, "tenant_id": caller.tenant_id} for number in sorted(known.values())
    ]
    new = insert_into(session, Member).on_conflict_do_nothing().returning(Member.device_id)
    put = set(session.scalars(new, members))
    for controller, number in sorted(known.items()):
        if number in put:
            audit.note(session, caller.tenant_id, caller.name, "group.add", row.name, device=controller)


@router.delete("/groups/{group_id}/devices/{device_id}", status_code=204)
def take_from_group(server: Here, caller: Operator, group_id: Number, device_id: Number) -> None:
    """Take a device out of a group."""
    with server.database.writing() as session:
        row = _get(session, caller, group_id)
        device = devices.get(session, caller, device_id)
        session.execute(delete(Member).where(Member.group_id == group_id, Member.device_id == device_id))
        audit.note(session, caller.tenant_id, caller.name, "group.remove", row.name, device=device.controller)


def _get(session: Session, caller: Caller, group_id: Number) -> Group:
    found = session.scalar(select(Group).where(Group.id == group_id, Group.tenant_id == caller.tenant_id))
    if found is None:
        raise NotThere("there is no such group")
    return found
