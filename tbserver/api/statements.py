"""Trust statements: which keys devices trust from now on, as those say who may."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from tbdiff.dsse import key_id
from tbdiff.rotation import Standing
from tbdiff.trust import Key
from tbserver import statements
from tbserver.access import Admin, Here, Viewer
from tbserver.api.releases import bytes_of
from tbserver.api.shapes import Shape

router = APIRouter(tags=["releases"])


class KeyNamed(Shape):
    """A key that a statement names."""

    name: str
    """Whose it is."""
    key_id: str
    """Its id."""


class StatementShown(Shape):
    """What the last statement says, if there is one."""

    version: int
    """Its number; 0: there is none."""
    issued: str | None = None
    """When it was made; `null` if there is none."""
    expires: str | None = None
    """Until when it is good; `null` if there is none."""
    threshold: int | None = None
    """How many release keys sign a release; `null` if there is none."""
    trust_threshold: int | None = None
    """How many keys sign the next statement; `null` if there is none."""
    release: tuple[KeyNamed, ...] = ()
    """Those that answer for releases."""
    delivery: tuple[KeyNamed, ...] = ()
    """Those that answer for how a release is brought."""
    trust: tuple[KeyNamed, ...] = ()
    """Those that answer for statements."""
    revoked: tuple[str, ...] = ()
    """Ids of keys that count no more."""


def _shown(standing: Standing | None) -> StatementShown:
    if standing is None:
        return StatementShown(version=0)
    said = standing.trust
    return StatementShown(
        version=said.version,
        issued=said.issued,
        expires=said.expires,
        threshold=said.threshold,
        trust_threshold=said.trust_threshold,
        release=_named(said.release),
        delivery=_named(said.delivery),
        trust=_named(said.trust),
        revoked=tuple(key_id(raw).hex() for raw in sorted(said.revoked_keys)),
    )


def _named(keys: tuple[Key, ...]) -> tuple[KeyNamed, ...]:
    return tuple(KeyNamed(name=key.name, key_id=key.key.key_id.hex()) for key in keys)


@router.get("/statements")
def show_statements(server: Here, caller: Viewer) -> StatementShown:
    """What devices are told of trusted keys."""
    with server.database.reading() as session:
        return _shown(statements.standing(session, caller.tenant_id))


@router.put("/statements")
def put_statements(server: Here, caller: Admin, data: Annotated[bytes, Depends(bytes_of)]) -> StatementShown:
    """Tell devices of a chain of statements (`trust.json`) that goes on from what they are told now."""
    with server.database.writing() as session:
        return _shown(statements.put(session, caller, data))


@router.delete("/statements", status_code=204)
def remove_statements(server: Here, caller: Admin) -> None:
    """Tell devices of none any more; what they have learned stays."""
    with server.database.writing() as session:
        statements.remove(session, caller)
