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
    """What is new in a release against the one before it for the same devices, `since`.

    `state`: done, comparing, waiting, not compared; `why` not. A device that runs `since` fetches `delta` bytes by the
    smallest delta that is there (0: there is none).
    """

    since_id: int
    since: str
    state: str
    why: str
    delta: int
    found: News


class Sized(Shape):
    """What a version is for one type of device ("": any): on it, as a full image, and as a delta from the one before.

    In bytes; 0: there is none.
    """

    device_type: str
    release_id: int
    size: int
    full: int
    delta: int


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
