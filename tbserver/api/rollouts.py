"""Rollouts: made, approved, watched, paused, ended, taken back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import pydantic
from fastapi import APIRouter, Query
from sqlalchemy import select
from sqlalchemy.orm import Session

from tbserver import audit, enlisting, progress, steering, tending
from tbserver.access import Approver, Here, Operator, Viewer
from tbserver.api.shapes import Moment, Name, Number, Order, Shape
from tbserver.filters import LENGTH_MAX
from tbserver.paging import Asked, Page, Paging, read_page
from tbserver.records import Account, Assignment, Device, Release, Rollout
from tbserver.rollout import Plan, Stage

router = APIRouter(tags=["rollouts"])
# Nobody needs to know more exactly, and nothing becomes slower.
MEANT_MOST, MEANT_SHOWN = 1000, 5


class NewRollout(Order):
    """A release to be brought to the devices that a filter means."""

    name: Name
    release_id: Number
    filter: Annotated[str, pydantic.Field(max_length=LENGTH_MAX)] = ""
    plan: Plan = Plan()


class Stages(Shape):
    """How many devices are how far."""

    waiting: int
    """To whom it was not offered yet."""
    busy: int
    """Who are at it."""
    succeeded: int
    """Who run it, and are well."""
    failed: int
    """Where it failed."""
    lost: int
    """Who have not been heard of since."""


class PhaseShown(Stages):
    """The same of one phase, and how many it has."""

    total: int
    """How many devices it has."""


class RolloutShown(Shape):
    """A rollout, and how it stands."""

    id: int
    """Its number."""
    name: str
    """Its name."""
    release_id: int | None
    """The number of the release that it brings; `null` where it takes back."""
    undoes: int | None
    """The number of the rollout that it takes back, or `null`."""
    filter: str
    """Which devices it is for; empty: all."""
    plan: dict[str, Any]
    """How it goes on, as it was ordered."""
    state: str
    """approval, preparing, running, paused, stopped, finished, or cancelled."""
    phase: int
    """The last phase that is open, from 0."""
    reason: str
    """Why it stands so; empty where there is nothing to say."""
    created_by: int
    """The account that made it."""
    approved_by: int | None
    """The account that approved it, or `null`."""
    created: Moment
    """When it was made."""
    started: Moment | None
    """When it began, or `null`."""
    ended: Moment | None
    """When it ended, or `null`."""
    release: str = ""
    """The version that it brings."""
    made_by: str = ""
    """The name of the account that made it."""
    undone_by: int | None = None
    """The number of the rollout that takes it back, or `null`."""


class Point(Stages):
    """The same of all phases, at a moment."""

    at: Moment
    """When it stood so."""


class RolloutWhole(Shape):
    """A rollout with its phases, and how it came there."""

    rollout: RolloutShown
    """What it is."""
    phases: list[PhaseShown]
    """How far each phase is."""
    progress: list[Point]
    """How far all of it was, over time."""


class Meant(Shape):
    """How many devices a rollout would reach now, or more than that; and some of them."""

    devices: int
    more: bool
    first: list[str]


class Taker(Shape):
    """A device of a rollout: in which phase it is, how it stands, and why there."""

    id: int
    action: int
    controller: str
    phase: int
    state: str
    why: str


class ListedTakers(Asked):
    """Which devices of a rollout are asked for, and which part of the list."""

    state: Stage | None = None


@router.get("/rollouts")
def list_rollouts(server: Here, caller: Viewer, paging: Paging) -> Page[RolloutShown]:
    """All rollouts, the newest first."""
    with server.database.reading() as session:
        query = select(Rollout).where(Rollout.tenant_id == caller.tenant_id)
        rows, following = read_page(session, query, paging, [Rollout.id], newest_first=True)
        return Page(items=_shown(session, rows), next=following)


@router.post("/rollouts", status_code=201)
def create_rollout(server: Here, caller: Operator, given: NewRollout) -> RolloutWhole:
    """Make a rollout; it begins by itself, or when a second person approved of it."""
    with server.database.writing() as session:
        row = tending.create(session, caller, given.name, given.release_id, given.filter, given.plan)
        return _whole(session, row)


@router.get("/rollouts/meant")
def count_meant(
    server: Here,
    caller: Viewer,
    filter: Annotated[str, Query(max_length=LENGTH_MAX)] = "",
    release_id: Number | None = None,
) -> Meant:
    """How many devices a filter means (for a release, those of its types), as far as they are worth counting."""
    with server.database.reading() as session:
        release = session.get(Release, release_id) if release_id is not None else None
        types = release.device_types if release is not None and release.tenant_id == caller.tenant_id else []
        query = enlisting.fitting(caller.tenant_id, filter, types).with_only_columns(Device.controller)
        found = session.scalars(query.order_by(Device.id).limit(MEANT_MOST + 1)).all()
        return Meant(devices=min(len(found), MEANT_MOST), more=len(found) > MEANT_MOST, first=list(found[:MEANT_SHOWN]))


@router.get("/rollouts/{rollout_id}")
def show_rollout(server: Here, caller: Viewer, rollout_id: Number) -> RolloutWhole:
    """A rollout, and how far its devices are."""
    with server.database.reading() as session:
        return _whole(session, tending.get(session, caller, rollout_id))


@router.get("/rollouts/{rollout_id}/devices")
def list_takers(
    server: Here, caller: Viewer, rollout_id: Number, asked: Annotated[ListedTakers, Query()]
) -> Page[Taker]:
    """The devices of a rollout, and how each of them stands."""
    now = int(time.time())
    with server.database.reading() as session:
        query = select(Assignment).where(Assignment.rollout_id == tending.get(session, caller, rollout_id).id)
        if asked.state:
            query = query.where(Assignment.state == asked.state.value)
        rows, following = read_page(session, query, asked, [Assignment.id])
        return Page(items=[_taker(session, row, now) for row in rows], next=following)


def _taker(session: Session, one: Assignment, now: int) -> Taker:
    device = session.get_one(Device, one.device_id)
    return Taker(
        id=device.id,
        action=one.id,
        controller=device.controller,
        phase=one.phase,
        state=one.state,
        why=steering.why(session, device, one, now),
    )


@router.post("/rollouts/{rollout_id}/approve")
def approve_rollout(server: Here, caller: Approver, rollout_id: Number) -> RolloutWhole:
    """Let a rollout begin that somebody else made."""
    with server.database.writing() as session:
        return _whole(session, tending.approve(session, caller, rollout_id))


@router.post("/rollouts/{rollout_id}/pause")
def pause_rollout(server: Here, caller: Operator, rollout_id: Number) -> RolloutWhole:
    """Offer nothing more for the time being."""
    with server.database.writing() as session:
        return _whole(session, tending.pause(session, caller, rollout_id))


@router.post("/rollouts/{rollout_id}/resume")
def resume_rollout(server: Here, caller: Operator, rollout_id: Number) -> RolloutWhole:
    """Go on."""
    with server.database.writing() as session:
        return _whole(session, tending.resume(session, caller, rollout_id))


@router.post("/rollouts/{rollout_id}/cancel")
def cancel_rollout(server: Here, caller: Operator, rollout_id: Number) -> RolloutWhole:
    """End it; who runs the release keeps it."""
    with server.database.writing() as session:
        return _whole(session, tending.cancel(session, caller, rollout_id))


@router.post("/rollouts/{rollout_id}/retry")
def retry_rollout(server: Here, caller: Operator, rollout_id: Number) -> RolloutWhole:
    """Let devices try again that failed or were lost."""
    with server.database.writing() as session:
        return _whole(session, tending.retry(session, caller, rollout_id))


@router.post("/rollouts/{rollout_id}/rollback", status_code=201)
def take_rollout_back(server: Here, caller: Operator, rollout_id: Number) -> RolloutWhole:
    """Bring all devices that took it back to what they ran before: by a rollout of its own, which is the answer."""
    with server.database.writing() as session:
        row = tending.get(session, caller, rollout_id, locked=True)
        undo = tending.take_back(session, row, caller.account_id)
        audit.note(session, caller.tenant_id, caller.name, "rollout.undo", row.name, id=undo.id, undoes=row.id)
        return _whole(session, undo)


def _whole(session: Session, row: Rollout) -> RolloutWhole:
    session.flush()
    phases = [PhaseShown.model_validate(one) for one in tending.counts(session, row)]
    points = [Point.model_validate(one) for one in progress.read(session, row)]
    return RolloutWhole(rollout=_shown(session, [row])[0], phases=phases, progress=points)


def _shown(session: Session, rows: Sequence[Rollout]) -> list[RolloutShown]:
    releases = select(Release.id, Release.version).where(Release.id.in_({row.release_id for row in rows}))
    people = select(Account.id, Account.name).where(Account.id.in_({row.created_by for row in rows}))
    undone = select(Rollout.undoes, Rollout.id).where(Rollout.undoes.in_([row.id for row in rows]))
    takers_back = {undoes: number for undoes, number in session.execute(undone)}
    versions = {number: version for number, version in session.execute(releases)}
    names = {number: name for number, name in session.execute(people)}
    return [
        RolloutShown.model_validate(row).model_copy(
            update={
                "release": versions.get(row.release_id or 0, ""),
                "made_by": names[row.created_by],
                "undone_by": takers_back.get(row.id),
            }
        )
        for row in rows
    ]
