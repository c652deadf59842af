"""What is new in each release against the one before it for the same devices: found out by a child once, and kept."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass
from typing import Annotated

import pydantic
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tbdiff.errors import Failed
from tbdiff.scratch import scratch_directory
from tbdiff.show import size as shown
from tbserver import children, claims, deltas, demand
from tbserver.claims import Claim, Stopping
from tbserver.records import Artifact, Comparison, Release
from tbserver.server import Server

NAMES_MOST = 200
NAME_MOST = 300


class Stand(enum.StrEnum):
    """How a comparison stands."""

    WAITING = "waiting"
    COMPARING = "comparing"
    DONE = "done"
    NOT = "not compared"


class Described(pydantic.BaseModel):
    """A part of an answer, the keys of which say what they are."""

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True, json_schema_serialization_defaults_required=True)


class Amount(Described):
    """How much there is of something."""

    count: int = 0
    """How many there are."""
    size: int = 0
    """Their bytes."""


class Amounts(Described):
    """Files, by what became of them."""

    added: Amount = Amount()
    """Those that came."""
    changed: Amount = Amount()
    """Those that are others than before, with the bytes that they have now."""
    removed: Amount = Amount()
    """Those that are there no more."""


class Some(Described):
    """Names, the first of which are told."""

    count: int = 0
    """How many there are."""
    names: list[str] = []
    """The first of them."""


def _cut(given: object) -> object:
    """A list of names as it is kept: with an end."""
    if not isinstance(given, list):
        return given
    return {"count": len(given), "names": [str(name)[:NAME_MOST] for name in given[:NAMES_MOST]]}


Told = Annotated[Some, pydantic.BeforeValidator(_cut)]


class Names(Described):
    """Names, by what became of what they name."""

    added: Told = Some()
    """Those that came."""
    changed: Told = Some()
    """Those that are others than before."""
    removed: Told = Some()
    """Those that are there no more."""


class News(Described):
    """What `tbdiff show --since` says."""

    files: Amounts = Amounts()
    """All that is no directory, by path."""
    touched: int = 0
    """How many differ only in owner, mode, time or attributes."""
    packages: Names = Names()
    """Those that dpkg or opkg installed."""
    kernels: Names = Names()
    """Those that there are modules for."""


class _End(pydantic.BaseModel):
    tree: str


class _Said(News):
    base: _End
    target: _End


@dataclass(frozen=True)
class Order:
    """Two releases that are ours to compare, by these artifacts."""

    since: str
    tree: str
    version: str
    images: tuple[tuple[str, Artifact], ...]
    begun: int


def before(session: Session, release: Release) -> Release | None:
    """The newest release of the system before this one, for some of the same types of device (of none: for any)."""
    query = select(Release).where(
        Release.tenant_id == release.tenant_id, Release.name == release.name, Release.id < release.id
    )
    mine = set(release.device_types)
    for one in session.scalars(query.order_by(Release.id.desc())):
        if not mine or not one.device_types or mine & set(one.device_types):
            return one
    return None


def standing(session: Session, facts: deltas.Facts, release: Release, since: Release) -> tuple[Stand, str, News]:
    """How the comparison of a release with the one before it stands, why it is not there, and what it is."""
    row = session.scalar(select(Comparison).where(Comparison.release_id == release.id))
    if row is not None and row.state == Stand.DONE:
        return Stand.DONE, "", News.model_validate(row.found)
    if row is not None and row.until > facts.now:
        return Stand(row.state), row.why, News()
    why = _why_not(facts, (since.tree, release.id))
    return Stand.NOT if why else Stand.WAITING, why or "its turn comes", News()


def _why_not(facts: deltas.Facts, pair: deltas.Pair) -> str:
    """What stands in the way of comparing two releases; empty if nothing does."""
    needed = deltas.images_for(facts, pair)
    if not needed:
        return "there is no full image of both releases here, nor deltas that lead there from one: upload it"
    room = sum(way.size for way in facts.ways if way.id in needed)
    if room > facts.room:
        return f"it takes {shown(room)} in the server's directory, which has not that much to spare"
    return "" if facts.makes else "this server was told to make no deltas, and compares nothing"


def compare_next(server: Server, is_stopping: Stopping = lambda: False) -> bool:
    """Compare the newest release that was not yet; whether there was one."""
    with server.database.reading() as session:
        pairs = _due(session)
        if not pairs:
            # As nearly always: nobody needs the facts.
            return False
        facts = demand.facts_of(server, session)
    for release, since in pairs:
        if _why_not(facts, (since.tree, release.id)):
            continue
        claimed = _claim(server, facts, release, since, is_stopping)
        if claimed is not None:
            _compare(server, *claimed)
            return True
    return False


def _due(session: Session) -> list[tuple[Release, Release]]:
    """Releases that were not compared yet, each with the one before it; the newest first."""
    held = select(Comparison.release_id).where((Comparison.state == Stand.DONE) | (Comparison.until > int(time.time())))
    releases = session.scalars(select(Release).where(Release.id.not_in(held)).order_by(Release.id.desc())).all()
    pairs = ((release, before(session, release)) for release in releases)
    return [(one, since) for one, since in pairs if since is not None]


def _claim(
    server: Server, facts: deltas.Facts, release: Release, since: Release, is_stopping: Stopping
) -> tuple[Order, Claim] | None:
    """Write down that we compare them; None if another one does."""
    try:
        with server.database.writing() as session:
            query = select(Comparison).where(Comparison.release_id == release.id)
            row = session.scalar(query.with_for_update())
            if row is None:
                row = Comparison(
                    tenant_id=release.tenant_id, release_id=release.id, since_id=since.id, found={}, begun=0
                )
                session.add(row)
            elif row.state == Stand.DONE or row.until > time.time():
                return None
            claims.take(row, Stand.COMPARING.value)
            session.flush()
            images = children.images_of(session, deltas.images_for(facts, (since.tree, release.id)))
            return Order(since.tree, release.tree, release.called, images, row.begun), Claim(server, row, is_stopping)
    except IntegrityError:
        return None


def _compare(server: Server, order: Order, claim: Claim) -> None:
    """Compare them; whatever comes of that is written down."""
    what = f"what is new in {order.version} could not be found out"
    with claim.ended(Stand.NOT.value, deltas.pause(order.begun), what):
        with scratch_directory(server.settings.scratch) as place:
            images = children.fetch(server, order.images, place, claim)
            words = children.words_for(images, order.tree, order.since, "--since")
            said = children.run(server, ["show", *words], place, claim)
        found = _read(said)
        if (found.base.tree, found.target.tree) != (order.since, order.tree):
            raise Failed("what was compared is not what was asked for")
        claim.settle(Stand.DONE.value, found=found.model_dump(include=set(News.model_fields)))


def _read(said: str) -> _Said:
    try:
        return _Said.model_validate_json(said)
    except ValueError:
        raise Failed("what was said of it is not understood") from None
