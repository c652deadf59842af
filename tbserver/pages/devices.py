"""Devices: found, and looked at one by one."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi import Form as Sent

from tbserver.access import Here, Operator, Viewer
from tbserver.api import devices
from tbserver.api.devices import ListedDevices
from tbserver.api.shapes import Number
from tbserver.pages.sheet import Form, go, show
from tbserver.paging import Page
from tbserver.refusals import NotValid

router = APIRouter()


class Change(Form):
    """Whether a device may ask no more."""

    revoked: Literal["yes", "no"]


@router.get("/devices")
def list_devices(server: Here, request: Request, caller: Viewer, asked: Annotated[ListedDevices, Query()]) -> Response:
    """Devices that a filter means; a word alone means those with it in their id."""
    said, why, remedy = asked.filter.strip(), "", ""
    wanted = f'id = "*{said}*"' if said and not set(said) & set('="()') else said
    try:
        found = devices.list_devices(server, caller, asked.model_copy(update={"filter": wanted}))
    except NotValid as error:
        found, why, remedy = Page[devices.DeviceShown](items=[]), str(error), error.remedy
    counted = devices.count_devices(server, caller).states
    about = {"why": why, "remedy": remedy, "states": counted}
    return show(request, caller, "devices.html", 422 if why else 200, found=found, asked=asked, **about)


@router.get("/devices/{device_id}")
def show_device(server: Here, request: Request, caller: Viewer, device_id: Number) -> Response:
    """One device: what it runs, what it is to do and why not yet, what it said."""
    return show(request, caller, "device.html", whole=devices.show_device(server, caller, device_id))


@router.post("/devices/{device_id}")
def change_device(server: Here, caller: Operator, device_id: Number, given: Annotated[Change, Sent()]) -> Response:
    """Let a device ask no more, or again."""
    devices.change_device(server, caller, device_id, devices.Change(revoked=given.revoked == "yes"))
    return go(f"/devices/{device_id}")
