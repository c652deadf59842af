"""Deltas between releases: which ones there are, what they save, and why one is not there."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tbserver import delivery, demand
from tbserver.access import Here, Viewer
from tbserver.api.shapes import Shape
from tbserver.deltas import Facts, judge
from tbserver.records import Attribute, Release
from tbserver.server import Server

router = APIRouter(tags=["releases"])
# As many as anybody looks at; those of most use come first.
SHOWN_MOST = 500


class DeltaShown(Shape):
    """A delta that devices could use, or that is there."""

    release_id: int
    """The number of the release that it leads to."""
    release: str
    """What that one is called."""
    base: str
    """The digest of the tree that it starts from."""
    base_release: str
    """The release of that tree; empty if there is none."""
    devices: int
    """How many devices may still fetch it."""
    state: str
    """uploaded, made, making, waiting, or not made."""
    why: str
    """Why it is not there; else empty."""
    size: int
    """Its bytes; 0 if it is not there."""
    saved: int
    """The bytes that each of them fetches less than without it."""


class DeliveryKey(Shape):
    """The key by which this server signs deltas."""

    key_id: str
    """Its id."""
    pem: str
    """Its public half, as PEM."""
    trusted_by: int
    """How many devices say that they trust it."""


class Deltas(Shape):
    """All deltas, and what this server makes of them."""

    items: list[DeltaShown]
    """Those of most use first."""
    made: int
    """The bytes of all that were made here."""
    budget: int
    """The bytes that those may have together."""
    key: DeliveryKey | None
    """What signs them; `null` if nothing does yet."""


@router.get("/deltas")
def list_deltas(server: Here, caller: Viewer) -> Deltas:
    """The deltas between releases, and the key that signs those which this server makes."""
    with server.database.reading() as session:
        key = _key(server, session, caller.tenant_id)
        return made(server, session, caller.tenant_id).model_copy(update={"key": key})


def made(server: Server, session: Session, tenant_id: int) -> Deltas:
    """The same without the key, for which all devices are looked at."""
    items = deltas_of(session, demand.facts_of(server, session, tenant_id), tenant_id)
    return Deltas(
        items=items[:SHOWN_MOST],
        made=sum(one.size for one in items if one.state == "made"),
        budget=server.settings.making.budget,
        key=None,
    )


def deltas_of(session: Session, facts: Facts, tenant_id: int, release_id: int | None = None) -> list[DeltaShown]:
    """The deltas of a tenant, or those to one release of it."""
    query = select(Release.id, Release.tree, Release.version).where(Release.tenant_id == tenant_id)
    releases = {row.id: row for row in session.execute(query)}
    named = {row.tree: row.version or row.tree[:12] for row in releases.values()}
    return [
        DeltaShown(
            release_id=one.release_id,
            release=named[releases[one.release_id].tree],
            base=one.base,
            base_release=named.get(one.base, ""),
            devices=one.devices,
            state=one.stand.value,
            why=one.why,
            size=one.size,
            saved=one.saved,
        )
        for one in judge(facts)
        if release_id in (None, one.release_id)
    ]


def _key(server: Server, session: Session, tenant_id: int) -> DeliveryKey | None:
    known = delivery.known(server.settings)
    if known is None:
        return None
    key, pem = known
    number = key.key_id.hex()
    says = (Attribute.tenant_id == tenant_id, Attribute.key == "delivery_keys", Attribute.value.contains(number))
    return DeliveryKey(
        key_id=number, pem=pem, trusted_by=session.scalar(select(func.count()).select_from(Attribute).where(*says)) or 0
    )
