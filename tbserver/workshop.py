"""Where deltas are made: work claimed in the database, made by a child within limits, checked, kept or thrown away.

Any number of makers in any number of processes may call `make_next`. Nothing that a maker leaves behind counts but what
it wrote down.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tbdiff.errors import Failed
from tbdiff.scratch import scratch_directory
from tbdiff.signature import KeyRing
from tbserver import artifacts, audit, children, claims, delivery, deltas, demand
from tbserver.claims import Claim, StoppedError, Stopping
from tbserver.deltas import DAY, Pair, Trial
from tbserver.files import key_of
from tbserver.records import Artifact, Making, Release
from tbserver.server import Server

log = logging.getLogger(__name__)
LARGE_DAYS = 7


@dataclass(frozen=True)
class Order:
    """A delta that is ours to make, of these artifacts: base, target, and what those start from."""

    tenant_id: int
    pair: Pair
    tree: str
    version: str
    images: tuple[tuple[str, Artifact], ...]
    begun: int


def make_next(server: Server, is_stopping: Stopping = lambda: False) -> bool:
    """Make the delta that is of most use now; whether there was one to be made."""
    demand.count(server.database)
    with server.database.reading() as session:
        facts = demand.facts_of(server, session)
    _keep_budget(server, facts)
    for pair in deltas.choose(facts):
        claimed = _claim(server, facts, pair, is_stopping)
        if claimed is not None:
            _make(server, *claimed)
            return True
    return False


def _keep_budget(server: Server, facts: deltas.Facts) -> None:
    """Give up deltas where there is less room for them than there was."""
    gone = deltas.give_up(facts)
    if gone:
        with server.database.writing() as session:
            keys = _drop(session, gone)
        _remove(server, keys)


def _claim(server: Server, facts: deltas.Facts, pair: Pair, is_stopping: Stopping) -> tuple[Order, Claim] | None:
    """Write down that we make it; None if another one does."""
    try:
        with server.database.writing() as session:
            row = session.scalar(
                select(Making).where(Making.base == pair[0], Making.release_id == pair[1]).with_for_update()
            )
            release = session.get_one(Release, pair[1])
            if row is None:
                row = Making(tenant_id=release.tenant_id, base=pair[0], release_id=pair[1], begun=0)
                session.add(row)
            elif row.until > time.time():
                return None
            row.size = 0
            claims.take(row, Trial.MAKING.value)
            session.flush()
            images = children.images_of(session, deltas.images_for(facts, pair))
            order = Order(row.tenant_id, pair, release.tree, release.called, images, row.begun)
            return order, Claim(server, row, is_stopping)
    except IntegrityError:
        return None


def _make(server: Server, order: Order, claim: Claim) -> None:
    """Make it; whatever comes of that is written down."""
    what = f"a delta to {order.version} could not be made"
    with claim.ended(Trial.FAILED.value, deltas.pause(order.begun), what):
        key = delivery.ready(server.settings)
        with server.database.reading() as session:
            ring = artifacts.key_ring(server, session, order.tenant_id)
        with scratch_directory(server.settings.scratch) as place:
            out = place / "delta.tbdiff"
            _run(server, order, children.fetch(server, order.images, place, claim), out, claim)
            checked = artifacts.check(out, KeyRing(ring.release, (key,)))
            if (checked.manifest.way.base, checked.manifest.target.tree) != (order.pair[0], order.tree):
                raise Failed("what was made is not what was asked for")
            server.store.put_file(key_of(order.tenant_id, checked.digest), out)
        _keep(server, order, checked, claim)


def _run(server: Server, order: Order, images: dict[str, Path], out: Path, claim: Claim) -> None:
    """Run the child to its end; Failed if it made nothing."""
    making = server.settings.making
    words = ["delta", *children.words_for(images, order.pair[0], order.tree), "--output", str(out)]
    words += ["--key", str(server.settings.key), "--effort", making.effort, "--encoders", making.encoders]
    log.info("a delta to %s is being made", order.version)
    children.run(server, [*words, "--progress", "none"], out.parent, claim)


def _keep(server: Server, order: Order, checked: artifacts.Checked, claim: Claim) -> None:
    """Make an artifact of it and give up others for it, or throw it away if it is not worth that."""
    with server.database.reading() as session:
        facts = demand.facts_of(server, session)
    whole = next(one.whole for one in facts.releases if one.id == order.pair[1])
    gone = deltas.give_up(facts, order.pair, checked.size)
    verdict = Trial.LARGE if checked.size >= whole else Trial.CROWDED if gone is None else None
    if verdict is not None or gone is None:
        rest = LARGE_DAYS * DAY if verdict is Trial.LARGE else 0
        claim.settle((verdict or Trial.CROWDED).value, rest=rest, size=checked.size)
        _discard(server, order, checked.digest)
        return
    try:
        with server.database.writing() as session:
            if session.scalar(delete(Making).where(claim.is_ours()).returning(Making.id)) is None:
                raise StoppedError
            artifacts.record(session, order.tenant_id, checked, demand.DELTA)
            seconds = int(claim.seconds)
            said = {"release": order.version, "base": order.pair[0][:12], "size": checked.size, "seconds": seconds}
            audit.note(session, order.tenant_id, audit.SERVER, "delta.make", checked.digest, **said)
            keys = _drop(session, gone)
    except (StoppedError, IntegrityError):
        # Another one took over, or somebody uploaded this very delta meanwhile.
        claim.let_go()
        _discard(server, order, checked.digest)
        return
    log.info("a delta to %s was made in %d s: %d bytes", order.version, seconds, checked.size)
    _remove(server, keys)


def _discard(server: Server, order: Order, digest: str) -> None:
    """Remove what was put into the store, unless it is somebody else's artifact too."""
    with server.database.reading() as session:
        query = select(Artifact.id).where(Artifact.tenant_id == order.tenant_id, Artifact.digest == digest)
        if session.scalar(query) is None:
            server.store.delete(key_of(order.tenant_id, digest))


def _drop(session: Session, ids: list[int]) -> list[str]:
    """Give up deltas; the keys of their objects, which go when that is written down."""
    query = delete(Artifact).where(Artifact.id.in_(ids), Artifact.made == demand.DELTA).returning(Artifact)
    keys = []
    for one in session.scalars(query).all():
        audit.note(session, one.tenant_id, audit.SERVER, "delta.drop", one.digest, size=one.size)
        keys.append(key_of(one.tenant_id, one.digest))
    return keys


def _remove(server: Server, keys: list[str]) -> None:
    for key in keys:
        server.store.delete(key)
