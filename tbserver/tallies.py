"""Counts that are kept up to date in the transactions that change what is counted."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from tbserver.database import insert_into
from tbserver.records import Tally

DEVICES, RELEASES = "devices by state", "devices by release"
OTHERS = "others"


def stages_of(rollout_id: int, phase: int) -> str:
    """What is counted of a phase of a rollout: its devices by their stages."""
    return f"rollout {rollout_id} phase {phase}"


def add(session: Session, tenant_id: int, subject: str, changes: Mapping[str, int]) -> None:
    """Count so many more, or fewer; always in the same order, so that no two wait for each other."""
    for key, count in sorted(changes.items()):
        if count:
            new = insert_into(session, Tally).values(tenant_id=tenant_id, subject=subject, key=key[:128], count=count)
            session.execute(
                new.on_conflict_do_update(
                    index_elements=[Tally.tenant_id, Tally.subject, Tally.key],
                    set_={"count": Tally.count + new.excluded.count},
                )
            )


def move(session: Session, tenant_id: int, subject: str, old: str | None, new: str | None) -> None:
    """Count one under another key than before; None: it was not, or is no more."""
    if old != new:
        changes = ({old: -1} if old is not None else {}) | ({new: 1} if new is not None else {})
        add(session, tenant_id, subject, changes)


def read(session: Session, tenant_id: int, subject: str) -> dict[str, int]:
    """The counts of a subject by their keys."""
    query = select(Tally.key, Tally.count).where(Tally.tenant_id == tenant_id, Tally.subject == subject)
    return {key: count for key, count in session.execute(query) if count}


def largest(counts: Mapping[str, int], shown: int) -> list[tuple[str, int]]:
    """The largest counts, and all others together as the last one, "others"."""
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    if len(ordered) <= shown:
        return ordered
    return [*ordered[: shown - 1], (OTHERS, sum(count for _, count in ordered[shown - 1 :]))]
