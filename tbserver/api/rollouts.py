"""Rollouts: made, approved, watched, paused, ended, taken back."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from tbserver import audit, tending
from tbserver.access import Approver, Here, Operator, Viewer
from tbserver.api.shapes import Moment, Name, Order, Shape
from tbserver.filters import LENGTH_MAX
from tbserver.paging import Page, Paging, read_page
from tbserver.records import Rollout
from tbserver.rollout import Plan

router = APIRouter(tags=["rollouts"])


class NewRollout(Order):
    """A release to be brought to the devices that a filter means."""

    name: Name
    release_id: int
    filter: Annotated[str, pydantic.Field(max_length=LENGTH_MAX)] = ""
    plan: Plan = Plan()


class PhaseShown(Shape):
    """How many devices of a phase are how far."""

    waiting: int
    busy: int
    succeeded: int
    failed: int
    lost: int
    total: int


class RolloutShown(Shape):
    """A rollout, and how far it is; `undoes` is the one that it takes back."""

    id: int
    name: str
    release_id: int | None
    undoes: int | None
    filter: str
    plan: dict[str, Any]
    state: str
    phase: int
    reason: str
    created_by: int
    approved_by: int | None
    created: Moment
    started: Moment | None
    ended: Moment | None


class RolloutWhole(Shape):
    """A rollout with its phases."""

    rollout: RolloutShown
    phases: list[PhaseShown]


@router.get("/rollouts")
def list_rollouts(server: Here, caller: Viewer, paging: Paging) -> Page[RolloutShown]:
    """All rollouts, the newest first."""
    with server.database.reading() as session:
        query = select(Rollout).where(Rollout.tenant_id == caller.tenant_id)
        rows, following = read_page(session, query, paging, [Rollout.id], newest_first=True)
        return Page(items=[RolloutShown.model_validate(row) for row in rows], next=following)


@router.post("/rollouts", status_code=201)
def create_rollout(server: Here, caller: Operator, given: NewRollout) -> RolloutWhole:
    """Make a rollout; it begins by itself, or when a second person approved of it."""
    with server.database.writing() as session:
        row = tending.create(session, caller, given.name, given.release_id, given.filter, given.plan)
        return _whole(session, row)


@router.get("/rollouts/{rollout_id}")
def show_rollout(server: Here, caller: Viewer, rollout_id: int) -> RolloutWhole:
    """A rollout, and how far its devices are."""
    with server.database.reading() as session:
        return _whole(session, tending.get(session, caller, rollout_id))


@router.post("/rollouts/{rollout_id}/approve")
def approve_rollout(server: Here, caller: Approver, rollout_id: int) -> RolloutWhole:
    """Let a rollout begin that somebody else made."""
    with server.database.writing() as session:
        return _whole(session, tending.approve(session, caller, rollout_id))


@router.post("/rollouts/{rollout_id}/pause")
def pause_rollout(server: Here, caller: Operator, rollout_id: int) -> RolloutWhole:
    """Offer nothing more for the time being."""
    with server.database.writing() as session:
        return _whole(session, tending.pause(session, caller, rollout_id))


@router.post("/rollouts/{rollout_id}/resume")
def resume_rollout(server: Here, caller: Operator, rollout_id: int) -> RolloutWhole:
    """Go on."""
    with server.database.writing() as session:
        return _whole(session, tending.resume(session, caller, rollout_id))


@router.post("/rollouts/{rollout_id}/cancel")
def cancel_rollout(server: Here, caller: Operator, rollout_id: int) -> RolloutWhole:
    """End it; who runs the release keeps it."""
    with server.database.writing() as session:
        return _whole(session, tending.cancel(session, caller, rollout_id))


@router.post("/rollouts/{rollout_id}/retry")
def retry_rollout(server: Here, caller: Operator, rollout_id: int) -> RolloutWhole:
    """Let devices try again that failed or were lost."""
    with server.database.writing() as session:
        return _whole(session, tending.retry(session, caller, rollout_id))


@router.post("/rollouts/{rollout_id}/rollback", status_code=201)
def take_rollout_back(server: Here, caller: Operator, rollout_id: int) -> RolloutWhole:
    """Bring all devices that took it back to what they ran before: by a rollout of its own, which is the answer."""
    with server.database.writing() as session:
        row = tending.get(session, caller, rollout_id, locked=True)
        undo = tending.take_back(session, row, caller.account_id)
        audit.note(session, caller.tenant_id, caller.name, "rollout.undo", row.name, id=undo.id, undoes=row.id)
        return _whole(session, undo)


def _whole(session: Session, row: Rollout) -> RolloutWhole:
    session.flush()
    phases = [PhaseShown.model_validate(one) for one in tending.counts(session, row)]
    return RolloutWhole(rollout=RolloutShown.model_validate(row), phases=phases)
