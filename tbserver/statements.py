"""Trust statements of a tenant: kept for its devices, which verify them by the keys that they trust already."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tbdiff import rotation
from tbdiff.rotation import Standing
from tbserver import audit
from tbserver.accounts import Caller
from tbserver.records import Statements, Tenant
from tbserver.refusals import NotThere


def version(session: Session, tenant_id: int) -> int:
    """The version of the last statement; 0 if there is none."""
    return session.scalar(select(Statements.version).where(Statements.tenant_id == tenant_id)) or 0


def chain(session: Session, tenant_id: int) -> bytes | None:
    """All of them, the first one first, as devices get them; None if there is none."""
    return session.scalar(select(Statements.chain).where(Statements.tenant_id == tenant_id))


def standing(session: Session, tenant_id: int) -> Standing | None:
    """The same, understood; None if there is none."""
    held = chain(session, tenant_id)
    return rotation.understand(held, "this server") if held is not None else None


def put(session: Session, caller: Caller, raw: bytes) -> Standing:
    """Keep a chain that goes on from what is here; Rejected if it does not, or if signatures are lacking.

    With other signatures under what it says already it is another chain of the same version: the new one is kept.
    """
    # Of two that come at the same time, the second one has to follow on the first.
    session.get_one(Tenant, caller.tenant_id, with_for_update=True)
    given = rotation.understand(raw, "the chain")
    rotation.check_next(given, "the chain", standing(session, caller.tenant_id), "this server")
    session.merge(Statements(tenant_id=caller.tenant_id, version=given.trust.version, chain=raw))
    audit.note(session, caller.tenant_id, caller.name, "statements.put", str(given.trust.version))
    return given


def remove(session: Session, caller: Caller) -> None:
    """Keep none any more, such as one that no device follows: what devices know already stays with them."""
    query = delete(Statements).where(Statements.tenant_id == caller.tenant_id)
    gone = session.scalar(query.returning(Statements.version))
    if gone is None:
        raise NotThere("there is no trust statement", "Give one with: tb-server statements FILE")
    audit.note(session, caller.tenant_id, caller.name, "statements.remove", str(gone))
