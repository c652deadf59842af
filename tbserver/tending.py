"""Rollouts as they go on: made, approved, begun, moved by what devices report, stopped, and taken back.

What goes on by itself is done by `tend`, which any number of processes may call at any time: a rollout is locked while
one of them looks after it, and the others pass it by.
"""

from __future__ import annotations

import secrets
import time

from sqlalchemy import select
from sqlalchemy.orm import Session

from tbserver import audit, enlisting, filters, progress, rollout, steering, tallies
from tbserver.accounts import Caller
from tbserver.database import Database
from tbserver.records import Assignment, Device, Release, Rollout, Tenant
from tbserver.refusals import NotAllowed, NotThere, Refusal
from tbserver.rollout import Counts, Phase, Plan, Stage, Standing, State
from tbserver.steering import plan_of, standing_of

# How many devices are moved in one transaction, which others have to wait for.
AT_ONCE = 2000
_LOOK = "Look how it stands: it may have gone on meanwhile."
ALIVE = (State.PREPARING, State.RUNNING)


def create(session: Session, caller: Caller, name: str, release_id: int, filter_: str, plan: Plan) -> Rollout:
    """A rollout of a release to the devices that a filter means."""
    filters.parse(filter_)
    if _release(session, caller, release_id).withdrawn:
        raise Refusal("this release was withdrawn", "Choose another one, or allow it again first.")
    waits = session.get_one(Tenant, caller.tenant_id).approval
    state = State.APPROVAL if waits else State.PREPARING
    row = _new(caller.tenant_id, name, release_id, filter_, plan, state, caller.account_id)
    session.add(row)
    session.flush()
    audit.note(
        session, caller.tenant_id, caller.name, "rollout.create", name, id=row.id, release=release_id, filter=filter_
    )
    return row


def withdraw(session: Session, caller: Caller, release_id: int, *, withdrawn: bool) -> Release:
    """Let nobody get a release any more, and end what is on its way to; or allow it again. Who runs it keeps it."""
    release = _release(session, caller, release_id)
    if release.withdrawn == withdrawn:
        raise Refusal(f"this release is {'withdrawn' if withdrawn else 'allowed'} already", "There is nothing to do.")
    release.withdrawn = withdrawn
    what = "release.withdraw" if withdrawn else "release.allow"
    audit.note(session, caller.tenant_id, caller.name, what, release.version, id=release.id)
    ended = [state.value for state in rollout.ENDED]
    query = select(Rollout).where(Rollout.release_id == release.id, Rollout.state.not_in(ended)).order_by(Rollout.id)
    for row in session.scalars(query.with_for_update()).all() if withdrawn else ():
        _end(row, State.CANCELLED, f"{caller.name} withdrew the release")
        _note(session, caller, row, "cancel")
    return release


def _release(session: Session, caller: Caller, release_id: int) -> Release:
    """A release of the caller's tenant, which stays as it is until the end of the transaction; NotThere."""
    query = select(Release).where(Release.id == release_id, Release.tenant_id == caller.tenant_id)
    release = session.scalar(query.with_for_update())
    if release is None:
        raise NotThere("there is no such release")
    return release


def _new(tenant_id: int, name: str, release_id: int | None, filter_: str, plan: Plan, state: State, by: int) -> Rollout:
    return Rollout(
        tenant_id=tenant_id,
        name=name,
        release_id=release_id,
        filter=filter_,
        plan=plan.model_dump(mode="json"),
        state=state.value,
        phase=0,
        seed=secrets.token_hex(8),
        reason="",
        created_by=by,
        created=int(time.time()),
    )


def get(session: Session, caller: Caller, rollout_id: int, *, locked: bool = False) -> Rollout:
    """A rollout of the caller's tenant; NotThere."""
    query = select(Rollout).where(Rollout.id == rollout_id, Rollout.tenant_id == caller.tenant_id)
    row = session.scalar(query.with_for_update() if locked else query)
    if row is None:
        raise NotThere("there is no such rollout")
    return row


def approve(session: Session, caller: Caller, rollout_id: int) -> Rollout:
    """Let a rollout begin that somebody else made."""
    row = get(session, caller, rollout_id, locked=True)
    if row.state != State.APPROVAL:
        raise Refusal("this rollout does not wait for approval", _LOOK)
    if row.created_by == caller.account_id:
        raise NotAllowed("you made this rollout yourself", "A second person has to approve of it.")
    row.state, row.approved_by = State.PREPARING.value, caller.account_id
    _note(session, caller, row, "approve")
    return row


def pause(session: Session, caller: Caller, rollout_id: int) -> Rollout:
    """Offer nothing more for the time being; what devices have begun goes on."""
    row = get(session, caller, rollout_id, locked=True)
    if row.state != State.RUNNING:
        raise Refusal("only a rollout that runs can be paused", _LOOK)
    row.state, row.reached, row.reason = State.PAUSED.value, None, f"paused by {caller.name}"
    _note(session, caller, row, "pause")
    return row


def resume(session: Session, caller: Caller, rollout_id: int) -> Rollout:
    """Let a rollout go on that was paused."""
    row = get(session, caller, rollout_id, locked=True)
    if row.state != State.PAUSED:
        raise Refusal("only a rollout that is paused can go on", _LOOK)
    row.state, row.reason = State.RUNNING.value, ""
    _note(session, caller, row, "resume")
    return row


def cancel(session: Session, caller: Caller, rollout_id: int) -> Rollout:
    """End a rollout: who waits gets nothing, who is at it is asked to stop, who runs it stays as it is."""
    row = get(session, caller, rollout_id, locked=True)
    if State(row.state) in rollout.ENDED:
        raise Refusal("this rollout has ended", "Make a new one, or take this one back.")
    _end(row, State.CANCELLED, f"cancelled by {caller.name}")
    _note(session, caller, row, "cancel")
    return row


def retry(session: Session, caller: Caller, rollout_id: int) -> Rollout:
    """Let those devices try again that failed or were lost, and the rollout go on if it was stopped."""
    row = get(session, caller, rollout_id, locked=True)
    if State(row.state) not in (State.RUNNING, State.PAUSED, State.STOPPED, State.FINISHED):
        raise Refusal("this rollout has nothing to try again", _LOOK)
    query = select(Assignment).where(
        Assignment.rollout_id == row.id, Assignment.state.in_([Stage.FAILED.value, Stage.LOST.value])
    )
    for one in session.scalars(query.order_by(Assignment.device_id)):
        device = session.get_one(Device, one.device_id, with_for_update=True)
        one.attempts = 0
        steering.change_stage(session, device, one, Stage.WAITING, f"{caller.name} lets it try again")
    if row.state != State.PAUSED:
        row.state, row.ended, row.reached, row.reason = State.RUNNING.value, None, None, ""
    _note(session, caller, row, "retry")
    return row


def take_back(session: Session, row: Rollout, by: int) -> Rollout:
    """A rollout that brings devices back to what they ran before; what is at it still is asked to stop."""
    if row.undoes is not None:
        raise Refusal("this rollout takes one back itself", "Make a rollout of the release that devices should run.")
    if session.scalar(select(Rollout.id).where(Rollout.undoes == row.id)) is not None:
        raise Refusal("this rollout was taken back already", "Look at the list for the one that does it.")
    if State(row.state) not in rollout.ENDED:
        _end(row, State.STOPPED, "it is taken back")
    # Back is never worse: no phase waits for another, and nothing stops it.
    plan = Plan(phases=(Phase(),), errors=100, lost_seconds=plan_of(row).lost_seconds)
    undo = _new(row.tenant_id, f"back from {row.name}"[:128], None, "", plan, State.PREPARING, by)
    undo.undoes = row.id
    session.add(undo)
    session.flush()
    return undo


def _end(row: Rollout, state: State, reason: str) -> None:
    row.state, row.reason, row.ended = state.value, reason, int(time.time())


def _note(session: Session, caller: Caller, row: Rollout, what: str) -> None:
    audit.note(session, caller.tenant_id, caller.name, f"rollout.{what}", row.name, id=row.id)


def counts(session: Session, row: Rollout) -> list[Counts]:
    """How many devices of each phase are at which stage."""
    phases = range(len(row.plan["phases"]))
    read = (tallies.read(session, row.tenant_id, tallies.stages_of(row.id, phase)) for phase in phases)
    return [Counts.of(stages) for stages in read]


def tend(database: Database) -> None:
    """Look after all rollouts once."""
    with database.reading() as session:
        alive = session.scalars(
            select(Rollout.id).where(Rollout.state.in_([s.value for s in ALIVE])).order_by(Rollout.id)
        ).all()
        ended = session.scalars(
            select(Assignment.rollout_id)
            .join(Rollout, Rollout.id == Assignment.rollout_id)
            .where(
                Rollout.state.in_([State.CANCELLED.value, State.STOPPED.value]),
                Assignment.state.in_([Stage.WAITING.value, Stage.OFFERED.value, Stage.RUNNING.value]),
            )
            .distinct()
        ).all()
    for rollout_id in alive:
        enlisting.enlist(database, rollout_id)
        while _tend_one(database, rollout_id):
            pass
    for rollout_id in ended:
        while _wind_up(database, rollout_id):
            pass


def _tend_one(database: Database, rollout_id: int) -> bool:
    """One step of a rollout in one transaction; whether there is another at once."""
    now = int(time.time())
    with database.writing() as session:
        row = steering.hold(session, rollout_id, State.RUNNING)
        if row is None:
            return False
        if _lose(session, row, now) or enlisting.let_join(session, row, now):
            return True
        before, present = standing_of(row), counts(session, row)
        after = rollout.advance(plan_of(row), before, present, now)
        _move(session, row, before, after)
        progress.keep(session, row, sum(present, Counts()), now)
        return False


def _move(session: Session, row: Rollout, before: Standing, after: Standing) -> None:
    row.state, row.phase, row.reached, row.reason = after.state.value, after.phase, after.reached, after.reason
    if after.state in rollout.ENDED:
        row.ended = int(time.time())
    if (after.state, after.phase) != (before.state, before.phase):
        said = {"id": row.id, "phase": after.phase + 1, "reason": after.reason}
        audit.note(session, row.tenant_id, audit.SERVER, f"rollout.{after.state.value}", row.name, **said)
    if after.undo:
        undo = take_back(session, row, row.created_by)
        audit.note(session, row.tenant_id, audit.SERVER, "rollout.undo", row.name, id=undo.id, undoes=row.id)


def _lose(session: Session, row: Rollout, now: int) -> bool:
    """Count devices as lost that were not heard of; whether there may be more."""
    silent = [Stage.OFFERED.value, Stage.RUNNING.value, Stage.INSTALLED.value, Stage.STOPPING.value]
    query = select(Assignment.id, Assignment.device_id).where(
        Assignment.rollout_id == row.id,
        Assignment.state.in_(silent),
        Assignment.reported < now - plan_of(row).lost_seconds,
    )
    found = session.execute(query.order_by(Assignment.device_id).limit(AT_ONCE)).all()
    for assignment_id, device_id in found:
        device = session.get_one(Device, device_id, with_for_update=True)
        one = session.get_one(Assignment, assignment_id, with_for_update=True, populate_existing=True)
        if one.state in silent:
            # One that is done, but does not count, has told why.
            why = one.why if one.state == Stage.INSTALLED else "it has not been heard of since it was offered"
            steering.change_stage(session, device, one, Stage.LOST, why)
    return len(found) == AT_ONCE


def _wind_up(database: Database, rollout_id: int) -> bool:
    """Ask devices to stop that are at something which is not wanted any more; whether there are more."""
    with database.writing() as session:
        row = session.scalar(select(Rollout).where(Rollout.id == rollout_id).with_for_update(skip_locked=True))
        if row is None or row.state not in (State.CANCELLED, State.STOPPED):
            return False
        undone = session.scalar(select(Rollout.id).where(Rollout.undoes == row.id)) is not None
        # What was only stopped may be tried again: who waits, waits; who is at it, comes to an end.
        if row.state == State.STOPPED and not undone:
            return False
        stages = [Stage.WAITING.value, Stage.OFFERED.value, Stage.RUNNING.value]
        query = select(Assignment.id, Assignment.device_id).where(
            Assignment.rollout_id == row.id, Assignment.state.in_(stages)
        )
        found = session.execute(query.order_by(Assignment.device_id).limit(AT_ONCE)).all()
        for assignment_id, device_id in found:
            device = session.get_one(Device, device_id, with_for_update=True)
            one = session.get_one(Assignment, assignment_id, with_for_update=True, populate_existing=True)
            steering.ask_to_stop(session, device, one, f"the rollout was {row.state}: {row.reason}")
        return len(found) == AT_ONCE
