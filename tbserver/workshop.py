"""Where deltas are made: work claimed in the database, made by a child within limits, checked, kept or thrown away.

Any number of makers in any number of processes may call `make_next`. A claim has to be renewed: that of a maker that
was killed runs out, and another one takes over. Nothing that a maker leaves behind counts but what it wrote down.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import ColumnElement, and_, delete, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from tbdiff.console import safe
from tbdiff.errors import Failed, Stop
from tbdiff.scratch import scratch_directory
from tbdiff.signature import KeyRing
from tbserver import artifacts, audit, delivery, deltas, demand
from tbserver.database import first_line
from tbserver.deltas import DAY, Pair, Trial
from tbserver.files import key_of
from tbserver.records import Artifact, Making, Release
from tbserver.server import Server

log = logging.getLogger(__name__)
# A claim that nobody renews runs out.
CLAIM_SECONDS = 60
RENEW_SECONDS = 15
LOOK_SECONDS = 0.2
LARGE_DAYS = 7
WHY_MOST = 300
# What Python, zstd and the system say when there is none left.
OUT_OF_MEMORY = ("MemoryError", "not enough memory", "Cannot allocate memory")
Stopping = Callable[[], bool]


@dataclass(frozen=True)
class Order:
    """A delta that is ours to make, of these artifacts: base, target, and what those start from."""

    id: int
    tenant_id: int
    pair: Pair
    tree: str
    version: str
    images: tuple[tuple[str, Artifact], ...]
    owner: str


class _StoppedError(Exception):
    """The process ends, or the claim is not ours any more."""


class _Claim:
    """The claim on an order while it is worked on: `hold` is called every now and then."""

    def __init__(self, server: Server, order: Order, is_stopping: Stopping) -> None:
        self._server, self._order, self._is_stopping = server, order, is_stopping
        self._begun = self._renewed = time.monotonic()

    @property
    def seconds(self) -> float:
        """For how long it has been worked on."""
        return time.monotonic() - self._begun

    def hold(self) -> None:
        """Go on; Failed if it takes too long."""
        most = self._server.settings.making.seconds
        if self._is_stopping():
            raise _StoppedError
        if self.seconds > most:
            raise Failed(f"it takes longer than {most} seconds")
        if time.monotonic() > self._renewed + RENEW_SECONDS:
            self._renewed = time.monotonic()
            self._renew()

    def _renew(self) -> None:
        until, mine = int(time.time()) + CLAIM_SECONDS, _is_ours(self._order)
        try:
            with self._server.database.writing() as session:
                if session.scalar(update(Making).where(mine).values(until=until).returning(Making.id)) is None:
                    raise _StoppedError
        except DBAPIError as error:
            # It comes back in time, or another one takes over; then what we make is not kept.
            log.error("a claim could not be renewed: %s", first_line(error))


def _is_ours(order: Order) -> ColumnElement[bool]:
    return and_(Making.id == order.id, Making.owner == order.owner)


def make_next(server: Server, is_stopping: Stopping = lambda: False) -> bool:
    """Make the delta that is of most use now; whether there was one to be made."""
    demand.count(server.database)
    with server.database.reading() as session:
        facts = demand.facts_of(server, session)
    _keep_budget(server, facts)
    for pair in deltas.choose(facts):
        order = _claim(server, facts, pair)
        if order is not None:
            _make(server, order, is_stopping)
            return True
    return False


def _keep_budget(server: Server, facts: deltas.Facts) -> None:
    """Give up deltas where there is less room for them than there was."""
    gone = deltas.give_up(facts)
    if gone:
        with server.database.writing() as session:
            keys = _drop(session, gone)
        _remove(server, keys)


def _claim(server: Server, facts: deltas.Facts, pair: Pair) -> Order | None:
    """Write down that we make it; None if another one does."""
    now, owner = int(time.time()), secrets.token_hex(16)
    try:
        with server.database.writing() as session:
            row = session.scalar(
                select(Making).where(Making.base == pair[0], Making.release_id == pair[1]).with_for_update()
            )
            release = session.get_one(Release, pair[1])
            if row is None:
                row = Making(tenant_id=release.tenant_id, base=pair[0], release_id=pair[1], begun=0)
                session.add(row)
            elif row.until > now:
                return None
            row.state, row.why, row.size, row.begun = Trial.MAKING.value, "", 0, row.begun + 1
            row.owner, row.until = owner, now + CLAIM_SECONDS
            session.flush()
            ids = deltas.images_for(facts, pair)
            query = select(Release.tree, Artifact).join(Artifact, Artifact.release_id == Release.id)
            images = tuple((tree, image) for tree, image in session.execute(query.where(Artifact.id.in_(ids))))
            version = release.version or release.tree[:12]
            return Order(row.id, row.tenant_id, pair, release.tree, version, images, owner)
    except IntegrityError:
        return None


def _make(server: Server, order: Order, is_stopping: Stopping) -> None:
    """Make it; whatever comes of that is written down."""
    claim = _Claim(server, order, is_stopping)
    try:
        key = delivery.ready(server.settings)
        with server.database.reading() as session:
            ring = artifacts.key_ring(server, session, order.tenant_id)
        with scratch_directory(server.settings.scratch) as place:
            out = place / "delta.tbdiff"
            _run(server, order, _fetch(server, order, place, claim), out, claim)
            checked = artifacts.check(out, KeyRing(ring.release, (key,)))
            if (checked.manifest.way.base, checked.manifest.target.tree) != (order.pair[0], order.tree):
                raise Failed("what was made is not what was asked for")
            server.store.put_file(key_of(order.tenant_id, checked.digest), out)
        _keep(server, order, checked, int(claim.seconds))
    except _StoppedError:
        _let_go(server, order)
    except (Stop, OSError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        log.warning("a delta to %s could not be made: %s", order.version, why)
        _settle(server, order, Trial.FAILED, why)


def _fetch(server: Server, order: Order, place: Path, claim: _Claim) -> dict[str, Path]:
    """The images as files, by the trees that they lead to."""
    found = {}
    for tree, image in order.images:
        found[tree] = place / f"{image.id}.tbdiff"
        with found[tree].open("xb") as file:
            for piece in server.store.read(key_of(order.tenant_id, image.digest), 0, image.size):
                file.write(piece)
                claim.hold()
    return found


def _run(server: Server, order: Order, images: dict[str, Path], out: Path, claim: _Claim) -> None:
    """Run the child to its end; Failed if it made nothing."""
    making, ends = server.settings.making, (order.pair[0], order.tree)
    if not images.keys() >= set(ends):
        raise Failed("an image that it is made of is gone")
    words = ["delta", *(str(images[tree]) for tree in ends), "--output", str(out), "--key", str(server.settings.key)]
    for tree in images.keys() - set(ends):
        words += ["--over", str(images[tree])]
    words += ["--effort", making.effort, "--encoders", making.encoders, "--progress", "none", "--json"]
    log.info("a delta to %s is being made", order.version)
    with (out.parent / "said").open("w+") as said, (out.parent / "warned").open("w+") as warned:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "tbserver.confined", str(os.getpid()), str(making.memory), *words],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=warned,
            # It reads what others sent: of secrets that are in our environment it gets none.
            env={name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ},
        )
        try:
            while child.poll() is None:
                claim.hold()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(LOOK_SECONDS)
        finally:
            child.kill()
            child.wait()
        if child.returncode:
            said.seek(0)
            warned.seek(0)
            raise Failed(_why(child.returncode, said.read(1 << 16), warned.read(1 << 16), making.memory))


def _why(code: int, said: str, warned: str, memory: int) -> str:
    if any(words in warned + said for words in OUT_OF_MEMORY):
        return f"it takes more memory than {memory >> 20} MiB"
    if code < 0:
        return f"what made it was ended by signal {-code}"
    try:
        return safe(str(json.loads(said)["error"]["message"]))[:WHY_MOST]
    except (ValueError, KeyError, TypeError):
        return safe(warned.strip().rpartition("\n")[2])[:WHY_MOST] or f"what made it ended with {code}"


def _keep(server: Server, order: Order, checked: artifacts.Checked, seconds: int) -> None:
    """Make an artifact of it and give up others for it, or throw it away if it is not worth that."""
    with server.database.reading() as session:
        facts = demand.facts_of(server, session)
    whole = next(one.whole for one in facts.releases if one.id == order.pair[1])
    gone = deltas.give_up(facts, order.pair, checked.size)
    verdict = Trial.LARGE if checked.size >= whole else Trial.CROWDED if gone is None else None
    if verdict is not None or gone is None:
        _settle(server, order, verdict or Trial.CROWDED, "", checked.size)
        _discard(server, order, checked.digest)
        return
    try:
        with server.database.writing() as session:
            if session.scalar(delete(Making).where(_is_ours(order)).returning(Making.id)) is None:
                raise _StoppedError
            artifacts.record(session, order.tenant_id, checked, demand.DELTA)
            said = {"release": order.version, "base": order.pair[0][:12], "size": checked.size, "seconds": seconds}
            audit.note(session, order.tenant_id, audit.SERVER, "delta.make", checked.digest, **said)
            keys = _drop(session, gone)
    except (_StoppedError, IntegrityError):
        # Another one took over, or somebody uploaded this very delta meanwhile.
        _let_go(server, order)
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


def _settle(server: Server, order: Order, state: Trial, why: str, size: int = 0) -> None:
    """Write down why it is not there, if it is still ours."""
    with server.database.writing() as session:
        row = session.get(Making, order.id, with_for_update=True)
        if row is not None and row.owner == order.owner:
            rest = {Trial.FAILED: deltas.pause(row.begun), Trial.LARGE: LARGE_DAYS * DAY}.get(state, 0)
            row.state, row.why, row.size, row.owner = state.value, safe(why)[:WHY_MOST], size, ""
            row.until = int(time.time()) + rest


def _let_go(server: Server, order: Order) -> None:
    """Let another one make it at once."""
    with server.database.writing() as session:
        session.execute(delete(Making).where(_is_ours(order)))
