"""Devices, and the tokens by which they become known."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import pydantic
from fastapi import APIRouter, Query
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tbserver import audit, devices, filters, selection, steering, tallies
from tbserver.access import Admin, Here, Operator, Viewer
from tbserver.accounts import Caller
from tbserver.api.shapes import Moment, Name, Number, Order, Shape
from tbserver.paging import Asked, Page, Paging, read_page
from tbserver.records import Assignment, AutoConfirm, Device, DeviceToken, Group, Member, Report, Rollout
from tbserver.refusals import NotThere
from tbserver.tokens import create_secret, ends
from tbupdate.protocol import ControllerId

router = APIRouter(tags=["devices"])
REPORTS = 50


class DeviceShown(Shape):
    """A device, and what it runs."""

    id: int
    """Its number."""
    controller: str
    """What it is called; by this it asks."""
    state: str
    """new, idle, updating, or failed."""
    system: str
    """The name of the system that it runs; empty if it did not say."""
    release: str
    """The release that it runs; empty if it did not say."""
    health: str
    """What it says of its checks; empty if it did not say."""
    revoked: bool
    """Whether it may ask no more."""
    address: str
    """Where it asked from last."""
    created: Moment
    """When it became known."""
    seen: Moment
    """When it asked last; 1970-01-01T00:00:00Z if it never did."""


class Todo(Shape):
    """What a device has to do with a rollout, and why it stands there."""

    action: int
    """The number by which the device reports on it."""
    rollout_id: int
    """The number of the rollout."""
    rollout: str
    """Its name."""
    state: str
    """How far the device is with it."""
    why: str
    """Why it stands there, in words."""


class Said(Shape):
    """What a device reported."""

    id: int
    """Its number."""
    at: Moment
    """When it came."""
    assignment_id: int | None
    """The action that it is about; `null` if about none."""
    execution: str
    """How far the device said it was, by a word of DDI."""
    finished: str
    """How it said that it ended, by a word of DDI."""
    code: int | None
    """A number that it gave, or `null`."""
    details: list[str]
    """What it said, in lines."""


class Unasked(Shape):
    """That no person at a device is asked; who said so there, and why."""

    initiator: str
    """Who said so there."""
    remark: str
    """Why."""
    since: Moment
    """When."""


class DeviceWhole(Shape):
    """All that is known of a device."""

    device: DeviceShown
    """What it is."""
    groups: list[str]
    """The groups that it was put into by hand, by their names."""
    auto_confirm: Unasked | None
    """That no person there is asked; `null` where one may be."""
    attributes: dict[str, str]
    """What it said of itself."""
    todo: list[Todo]
    """What it is to do, the newest first."""
    reports: list[Said]
    """What it reported last, the newest first."""


class Counted(Shape):
    """How many devices there are, by their states and by what they run."""

    states: dict[str, int]
    releases: dict[str, int]


class ListedDevices(Asked):
    """Which devices are asked for, and which part of the list."""

    filter: Annotated[str, pydantic.Field(max_length=filters.LENGTH_MAX)] = ""
    state: Literal["", "new", "idle", "updating", "failed"] = ""


class NewDeviceToken(Order):
    """A token for devices: "gateway" acts for any, "enrolment" makes one known, once; a certain one, if named."""

    kind: Literal["gateway", "enrolment"]
    name: Name
    controller: ControllerId | None = None
    days: Annotated[int, pydantic.Field(ge=1, le=3650)] | None = None


class DeviceTokenShown(Shape):
    """A token for devices; itself it is shown only when it is made."""

    id: int
    """Its number."""
    kind: str
    """gateway or enrolment."""
    name: str
    """What it is for."""
    controller: str | None
    """The only device that it is for, or `null`."""
    is_used: bool
    """Whether a device became known by it."""
    created: Moment
    """When it was made."""
    expires: Moment | None
    """Until when it is good; `null`: for ever."""


class DeviceTokenMade(Shape):
    """The token, and what devices send, which is shown here only."""

    token: DeviceTokenShown
    """What it is."""
    secret: str
    """What devices send."""


class Change(Order):
    """What is to be different about a device: whether it may ask at all."""

    revoked: bool


@router.get("/devices")
def list_devices(server: Here, caller: Viewer, asked: Annotated[ListedDevices, Query()]) -> Page[DeviceShown]:
    """Devices that a filter means, by their numbers."""
    with server.database.reading() as session:
        query = select(Device).where(Device.tenant_id == caller.tenant_id)
        if asked.filter:
            query = query.where(selection.meant(filters.parse(asked.filter)))
        if asked.state:
            query = query.where(Device.state == asked.state)
        rows, following = read_page(session, query, asked, [Device.id])
        return Page(items=[DeviceShown.model_validate(row) for row in rows], next=following)


@router.get("/devices/counts")
def count_devices(server: Here, caller: Viewer) -> Counted:
    """How many devices there are."""
    with server.database.reading() as session:
        states = tallies.read(session, caller.tenant_id, tallies.DEVICES)
        return Counted(states=states, releases=tallies.read(session, caller.tenant_id, tallies.RELEASES))


@router.get("/devices/{device_id}")
def show_device(server: Here, caller: Viewer, device_id: Number) -> DeviceWhole:
    """A device, and what it is waiting for."""
    now = int(time.time())
    with server.database.reading() as session:
        device = get(session, caller, device_id)
        groups = select(Group.name).join(Member, Member.group_id == Group.id).where(Member.device_id == device.id)
        reports = session.scalars(
            select(Report).where(Report.device_id == device.id).order_by(Report.id.desc()).limit(REPORTS)
        )
        unasked = session.get(AutoConfirm, device.id)
        return DeviceWhole(
            device=DeviceShown.model_validate(device),
            groups=list(session.scalars(groups.order_by(Group.name))),
            auto_confirm=Unasked.model_validate(unasked) if unasked else None,
            attributes=devices.attributes(session, device),
            todo=_todo(session, device, now),
            reports=[Said.model_validate(row) for row in reports],
        )


def _todo(session: Session, device: Device, now: int) -> list[Todo]:
    query = (
        select(Assignment, Rollout.name)
        .join(Rollout, Rollout.id == Assignment.rollout_id)
        .where(Assignment.device_id == device.id)
        .order_by(Assignment.id.desc())
        .limit(REPORTS)
    )
    return [
        Todo(
            action=one.id,
            rollout_id=one.rollout_id,
            rollout=name,
            state=one.state,
            why=steering.why(session, device, one, now),
        )
        for one, name in session.execute(query)
    ]


@router.patch("/devices/{device_id}")
def change_device(server: Here, caller: Operator, device_id: Number, given: Change) -> DeviceShown:
    """Let a device ask no more, or again."""
    with server.database.writing() as session:
        device = get(session, caller, device_id)
        device.revoked = given.revoked
        audit.note(session, caller.tenant_id, caller.name, "device.change", device.controller, revoked=given.revoked)
        return DeviceShown.model_validate(device)


def get(session: Session, caller: Caller, device_id: Number) -> Device:
    """A device of the caller's tenant; NotThere."""
    query = select(Device).where(Device.id == device_id, Device.tenant_id == caller.tenant_id)
    device = session.scalar(query)
    if device is None:
        raise NotThere("there is no such device")
    return device


@router.get("/device-tokens")
def list_device_tokens(server: Here, caller: Admin, paging: Paging) -> Page[DeviceTokenShown]:
    """The tokens for devices."""
    with server.database.reading() as session:
        query = select(DeviceToken).where(DeviceToken.tenant_id == caller.tenant_id)
        rows, following = read_page(session, query, paging, [DeviceToken.id])
        return Page(items=[_shown(row) for row in rows], next=following)


@router.post("/device-tokens", status_code=201)
def create_device_token(server: Here, caller: Admin, given: NewDeviceToken) -> DeviceTokenMade:
    """Make a token for devices."""
    now = int(time.time())
    secret, kept = create_secret()
    with server.database.writing() as session:
        row = DeviceToken(
            tenant_id=caller.tenant_id,
            kind=given.kind,
            name=given.name,
            digest=kept,
            controller=given.controller if given.kind == "enrolment" else None,
            created=now,
            expires=ends(given.days),
        )
        session.add(row)
        session.flush()
        audit.note(
            session, caller.tenant_id, caller.name, "device-token.create", given.name, kind=given.kind, id=row.id
        )
        return DeviceTokenMade(token=_shown(row), secret=secret)


@router.delete("/device-tokens/{device_token_id}", status_code=204)
def revoke_device_token(server: Here, caller: Admin, device_token_id: Number) -> None:
    """End a token for devices; devices that became known by it stay so."""
    with server.database.writing() as session:
        query = delete(DeviceToken).where(DeviceToken.id == device_token_id, DeviceToken.tenant_id == caller.tenant_id)
        name = session.scalar(query.returning(DeviceToken.name))
        if name is None:
            raise NotThere("there is no such token")
        audit.note(session, caller.tenant_id, caller.name, "device-token.revoke", name, id=device_token_id)


def _shown(row: DeviceToken) -> DeviceTokenShown:
    return DeviceTokenShown(
        id=row.id,
        kind=row.kind,
        name=row.name,
        controller=row.controller,
        is_used=row.used is not None,
        created=row.created,
        expires=row.expires,
    )
