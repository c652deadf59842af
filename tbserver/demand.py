"""What is known when deltas are decided on: releases, artifacts, and which devices are to go from where to where."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from tbserver import enlisting
from tbserver.database import Database
from tbserver.deltas import Demand, Facts, Target, Trial, Tried, Way
from tbserver.records import Artifact, Assignment, Device, Making, Release, Rollout, Tenant, Wanted
from tbserver.rollout import Stage, State
from tbserver.server import Server

DELTA = "delta"
# Rollouts that may still bring their release to devices; of the first two the devices have no places yet.
PLANNED = (State.APPROVAL, State.PREPARING)
GOING = (State.RUNNING, State.PAUSED)
# Devices that may still fetch something; only the first ones have certainly not begun.
MAY_FETCH = (Stage.WAITING, Stage.OFFERED, Stage.RUNNING)
_TARGET = (Release.id, Release.tenant_id, Release.tree, Release.size)


def facts_of(server: Server, session: Session, tenant_id: int | None = None) -> Facts:
    """All facts, of all tenants or of one, as they are now; devices as they were counted last, as they are many."""
    making = server.settings.making
    columns = (Artifact.id, Artifact.release_id, Artifact.base, Artifact.size, Artifact.made)
    ways = [
        Way(row.id, row.release_id, row.base, row.size, row.made == DELTA)
        for row in session.execute(_of(tenant_id, Artifact.tenant_id, select(*columns)))
    ]
    full: dict[int, int] = {}
    for way in ways:
        if not way.base:
            full[way.release_id] = min(way.size, full.get(way.release_id, way.size))
    releases = [
        Target(row.id, row.tenant_id, row.tree, row.size, full.get(row.id, 0))
        for row in session.execute(_of(tenant_id, Release.tenant_id, select(*_TARGET)))
    ]
    tried = {
        (row.base, row.release_id): Tried(Trial(row.state), row.until, row.begun, row.why, row.size)
        for row in session.scalars(_of(tenant_id, Making.tenant_id, select(Making)))
    }
    return Facts(
        releases=releases,
        ways=ways,
        demands=_counted(session, tenant_id),
        tried=tried,
        budget=making.budget,
        # Making must not take the room that the records need.
        room=shutil.disk_usage(server.settings.scratch).free // 2,
        now=int(time.time()),
        makes=making.makers > 0,
        all=tenant_id is None,
    )


def _of(tenant_id: int | None, column: InstrumentedAttribute[int], query: Any) -> Any:
    """A query about a tenant, or all of them."""
    return query if tenant_id is None else query.where(column == tenant_id)


def _counted(session: Session, tenant_id: int | None = None) -> list[Demand]:
    query = select(Wanted.base, Wanted.release_id, Wanted.devices, Wanted.waiting)
    if tenant_id is not None:
        query = query.join(Release, Release.id == Wanted.release_id).where(Release.tenant_id == tenant_id)
    return [Demand(*row) for row in session.execute(query)]


def count(database: Database) -> None:
    """Count anew which devices are to go from where to where; nothing is written if nothing has changed."""
    with database.reading() as session:
        found = _demands(session)
        if set(found) == set(_counted(session)):
            return
    with database.writing() as session:
        # Of several processes one after the other writes all that it has counted; who adds rows does not wait for that.
        session.execute(select(Tenant.id).order_by(Tenant.id).limit(1).with_for_update(key_share=True))
        session.execute(delete(Wanted))
        session.add_all(Wanted(**asdict(one)) for one in found)


def _demands(session: Session) -> list[Demand]:
    known = {tuple(row) for row in session.execute(select(Release.tenant_id, Release.tree))}
    devices: Counter[tuple[str, int]] = Counter()
    waiting: Counter[tuple[str, int]] = Counter()
    states = [state.value for state in (*PLANNED, *GOING)]
    query = select(Rollout).join(Release, Release.id == Rollout.release_id)
    for row in session.scalars(query.where(Rollout.state.in_(states), ~Release.withdrawn)):
        if row.release_id is None:
            continue
        release = session.get_one(Release, row.release_id)
        for tree, stage, count in _devices_of(session, row, release):
            if tree == release.tree:
                continue
            # Devices say what they like; of what is no release here nothing can be made.
            pair = (tree if (row.tenant_id, tree) in known else "", row.release_id)
            devices[pair] += count
            waiting[pair] += count if stage == Stage.WAITING else 0
    return [Demand(*pair, count, waiting[pair]) for pair, count in devices.items()]


def _devices_of(session: Session, row: Rollout, release: Release) -> list[tuple[str, str, int]]:
    """How many devices of a rollout run which tree, and how far they are."""
    if row.state in PLANNED:
        meant = enlisting.fitting(row.tenant_id, row.filter, release.device_types)
        there = session.execute(meant.with_only_columns(Device.tree, func.count()).group_by(Device.tree))
        return [(tree, Stage.WAITING.value, count) for tree, count in there]
    query = (
        select(Device.tree, Assignment.state, func.count())
        .join(Device, Device.id == Assignment.device_id)
        .where(
            Assignment.rollout_id == row.id,
            Assignment.command == "",
            Assignment.state.in_([stage.value for stage in MAY_FETCH]),
        )
    )
    found = session.execute(query.group_by(Device.tree, Assignment.state))
    return [(tree, stage, count) for tree, stage, count in found]
