"""What is in a release: what is stated of it, what is new in it, and its size for each type of device."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tbdiff.manifest import parse_target
from tbserver import comparing
from tbserver.api.shapes import Shape
from tbserver.comparing import News
from tbserver.deltas import Facts
from tbserver.records import Release


class NewsShown(Shape):
    """What is new in a release against the one before it for the same devices."""

    since_id: int
    """The number of the release before."""
    since: str
    """What that one is called."""
    state: str
    """done, comparing, waiting, or not compared."""
    why: str
    """Why it is not done; empty if it is."""
    delta: int
    """The bytes of the smallest delta from it that is there; 0: there is none."""
    found: News
    """What is new; nothing as long as it is not done."""


class Sized(Shape):
    """How large a version is for one type of device."""

    device_type: str
    """The type of device; empty: any."""
    release_id: int
    """The number of its release."""
    size: int
    """The bytes that it takes on a device."""
    full: int
    """The bytes of the smallest full image; 0: there is none."""
    delta: int
    """The bytes of the smallest delta from the release before; 0: there is none."""


def manifest_of(release: Release) -> dict[str, Any]:
    """What its signer stated of it."""
    return parse_target(release.statement).model_dump(mode="json", exclude_defaults=True)


def news_of(session: Session, facts: Facts, release: Release) -> NewsShown | None:
    """What is new in a release; None for the first one for its devices."""
    since = comparing.before(session, release)
    if since is None:
        return None
    stand, why, found = comparing.standing(session, facts, release, since)
    return NewsShown(
        since_id=since.id,
        since=since.called,
        state=stand.value,
        why=why,
        delta=_smallest(facts, release, since.tree),
        found=found,
    )


def sizes_of(session: Session, facts: Facts, release: Release) -> list[Sized]:
    """The sizes of the releases of its system and version, also for other types of device."""
    query = select(Release).where(
        Release.tenant_id == release.tenant_id, Release.name == release.name, Release.version == release.version
    )
    rows = session.scalars(query.order_by(Release.id)).all() if release.version else [release]
    found = []
    for row in rows:
        since = comparing.before(session, row)
        found += [
            Sized(
                device_type=kind,
                release_id=row.id,
                size=row.size,
                full=_smallest(facts, row, ""),
                delta=_smallest(facts, row, since.tree) if since is not None else 0,
            )
            for kind in row.device_types or [""]
        ]
    return sorted(found, key=lambda one: (one.device_type, one.release_id))


def _smallest(facts: Facts, release: Release, base: str) -> int:
    sizes = (way.size for way in facts.ways if (way.release_id, way.base) == (release.id, base))
    return min(sizes, default=0)
