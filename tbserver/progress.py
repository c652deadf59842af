"""How a rollout went, kept as few points in time: as close together as the rollout is young."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import select
from sqlalchemy.orm import Session

from tbserver.records import Progress, Rollout
from tbserver.rollout import Counts

LEAST_SECONDS = 10
# A picture shows no more: a point for each hundredth of the time so far.
PARTS = 100


def keep(session: Session, row: Rollout, counts: Counts, now: int) -> None:
    """Add how far it is, or change the last point if that is close by; nothing where nothing is new."""
    points = select(Progress).where(Progress.rollout_id == row.id).order_by(Progress.at.desc()).limit(1)
    last = session.scalar(points)
    if last is not None and Counts(**{name: getattr(last, name) for name in asdict(counts)}) == counts:
        return
    close = max(LEAST_SECONDS, (now - (row.started or now)) // PARTS)
    if last is not None and now < last.at + close and row.ended is None:
        return
    session.merge(Progress(rollout_id=row.id, at=now, **asdict(counts)))


def read(session: Session, row: Rollout) -> Sequence[Progress]:
    """All points, the oldest first."""
    return session.scalars(select(Progress).where(Progress.rollout_id == row.id).order_by(Progress.at)).all()
