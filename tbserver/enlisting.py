"""Which devices have a place in a rollout, and in which phase: when it is prepared, and those that come later."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import Session

from tbserver import filters, rollout, selection, steering, tallies
from tbserver.database import Database, insert_into
from tbserver.records import Assignment, Attribute, Device, Release, Rollout
from tbserver.rollout import Stage, State
from tbserver.steering import ROLLBACK, plan_of

# How many places are given in one transaction, which others have to wait for.
AT_ONCE = 2000
# For so many seconds a new device may say what it is, before it is decided without.
SILENT_MOST = 3600


def enlist(database: Database, rollout_id: int) -> None:
    """Give devices their places in a rollout that is prepared, and let it begin.

    All of them are read at once, for chance is among all; they are written in parts, which others can come between.
    """
    with database.reading() as session:
        row = session.get(Rollout, rollout_id)
        if row is None or row.state != State.PREPARING:
            return
        last = session.scalar(select(func.max(Device.id)).where(Device.tenant_id == row.tenant_id)) or 0
        places = _undone(session, row) if row.undoes is not None else _meant(session, row)
    for begin in range(0, len(places), AT_ONCE):
        with database.writing() as session:
            row = steering.hold(session, rollout_id, State.PREPARING)
            if row is None:
                return
            _give(session, row, places[begin : begin + AT_ONCE])
    with database.writing() as session:
        row = steering.hold(session, rollout_id, State.PREPARING)
        if row is not None:
            row.state, row.started, row.enlisted = State.RUNNING.value, int(time.time()), last


def _give(session: Session, row: Rollout, places: Sequence[dict[str, object]]) -> None:
    """Write down places; those that have one already keep theirs."""
    new = insert_into(session, Assignment).on_conflict_do_nothing().returning(Assignment.phase)
    for phase, count in Counter(session.scalars(new, places)).items():
        tallies.add(session, row.tenant_id, tallies.stages_of(row.id, phase), {Stage.WAITING.value: count})


def _meant(session: Session, row: Rollout) -> list[dict[str, object]]:
    query = _meant_by(session, row).with_only_columns(Device.controller, Device.id)
    meant: dict[str, int] = {controller: number for controller, number in session.execute(query)}
    phases = rollout.spread(plan_of(row), row.seed, meant)
    return [_place(row, meant[device], phase, row.release_id, "") for device, phase in phases.items()]


def fitting(tenant_id: int, filter_: str, types: Sequence[str]) -> Select[Device]:
    """The devices that a filter means, but for those that say they are of none of these types (no types: any)."""
    query = select(Device).where(
        Device.tenant_id == tenant_id, Device.revoked.is_(False), selection.meant(filters.parse(filter_))
    )
    if not types:
        return query
    other = exists().where(
        Attribute.device_id == Device.id, Attribute.key == steering.TYPE, Attribute.value.not_in(["", *types])
    )
    return query.where(~other)


def _meant_by(session: Session, row: Rollout) -> Select[Device]:
    return fitting(row.tenant_id, row.filter, session.get_one(Release, row.release_id).device_types)


def let_join(session: Session, row: Rollout, now: int) -> bool:
    """Give devices that are new since a place in the last phase; whether there may be more."""
    if row.undoes is not None:
        return False
    query = select(Device.id, Device.wants, Device.created).where(
        Device.tenant_id == row.tenant_id, Device.id > row.enlisted
    )
    found = session.execute(query.order_by(Device.id).limit(AT_ONCE)).all()
    # In their order: one that has yet to say what it is holds back those behind it, for a while.
    ready = [one.id for one in takewhile(lambda one: not one.wants or one.created < now - SILENT_MOST, found)]
    if not ready:
        return False
    joining = session.scalars(_meant_by(session, row).with_only_columns(Device.id).where(Device.id.in_(ready))).all()
    last = len(row.plan["phases"]) - 1
    if joining:
        _give(session, row, [_place(row, number, last, row.release_id, "") for number in joining])
    row.enlisted = ready[-1]
    return len(ready) == AT_ONCE


def _undone(session: Session, row: Rollout) -> list[dict[str, object]]:
    """Devices that took what is taken back, and where each of them came from."""
    took = [Stage.OFFERED, Stage.RUNNING, Stage.STOPPING, Stage.INSTALLED, Stage.SUCCEEDED, Stage.LOST]
    query = (
        select(Assignment.device_id, Release.id)
        .join(Release, (Release.tree == Assignment.from_tree) & (Release.tenant_id == Assignment.tenant_id))
        .where(Assignment.rollout_id == row.undoes, Assignment.state.in_([stage.value for stage in took]))
        .order_by(Assignment.device_id)
    )
    return [_place(row, device, 0, release, ROLLBACK) for device, release in session.execute(query)]


def _place(row: Rollout, device_id: int, phase: int, release_id: int | None, command: str) -> dict[str, object]:
    return {
        "tenant_id": row.tenant_id,
        "rollout_id": row.id,
        "device_id": device_id,
        "release_id": release_id,
        "command": command,
        "phase": phase,
        "state": Stage.WAITING.value,
        "why": "",
        "from_tree": "",
        "asks": False,
        "attempts": 0,
    }
