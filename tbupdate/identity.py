"""Who this device is to its server: its id, and the token or certificate that it shows."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

import pydantic

from tbdiff.errors import Failed, Rejected
from tbdiff.line import Identity, origin
from tbdiff.output import replacing
from tbdiff.source import read_plain
from tbupdate.config import Server
from tbupdate.naming import ControllerId
from tbupdate.protocol import ENROLMENT, GATEWAY, TARGET, Token

PLACE = "enrolled.json"
MACHINE_ID = "/etc/machine-id"
# What makes our id out of the machine's, so that nobody can tell that one from it.
_PURPOSE = b"tb-update controller id"
_MAX = 1 << 16
_TOKEN: pydantic.TypeAdapter[str] = pydantic.TypeAdapter(Token)


class Enrolled(pydantic.BaseModel):
    """A server that this device has a token of its own for; while it is not `done` the server may not know it yet."""

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, extra="ignore")

    url: str
    tenant: ControllerId
    id: ControllerId
    token: Token
    done: bool = False


@dataclass(frozen=True)
class Account:
    """A device at its server: the address of all that is its own there, and what it shows to be it.

    With a token that is good `once` it has yet to enrol.
    """

    base: str
    identity: Identity
    once: bool = False


def read(state: str) -> Enrolled | None:
    """The enrolment of this device; None if there is none that can be read."""
    try:
        return Enrolled.model_validate_json(read_plain(os.path.join(state, PLACE), _MAX))
    except (OSError, pydantic.ValidationError):
        return None


def write(state: str, enrolled: Enrolled) -> None:
    """Keep it where only root can read it."""
    place = Path(state, PLACE)
    try:
        with replacing(place) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(enrolled.model_dump_json().encode() + b"\n")
    except OSError as error:
        raise Failed(
            f"{place} cannot be written: {error.strerror}; the device was not enrolled", "See: tb-update doctor"
        ) from None


def settled(server: Server, state: str, *, running: bool = True) -> Server:
    """The server with the names that this device has there; the one it enrolled at, where none is configured."""
    known = read(state)
    if not server.url and known is not None:
        return server.model_copy(update={"url": known.url, "tenant": known.tenant, "id": known.id})
    if server.url and not server.id:
        return server.model_copy(update={"id": device_id(running=running)})
    return server


def device_id(path: str = MACHINE_ID, *, running: bool = True) -> str:
    """What this device is called where it was given no name: the same always, and not the id of the machine."""
    try:
        raw = read_plain(path, 64).strip() if running else b""
    except OSError:
        raw = b""
    if len(raw) != 32:
        raise Rejected(
            "this device has no machine id to make its name at the server from; nothing was changed",
            "Name it in config.toml: [server] id = …",
        )
    return hmac.new(raw, _PURPOSE, hashlib.sha256).hexdigest()[:32]


def account(server: Server, state: str) -> Account:
    """The device at a server whose names are `settled`, with what it shows there."""
    known = read(state)
    if known is not None and (known.url, known.tenant, known.id, known.done) == (*_names(server), True):
        return _account(server, f"{TARGET} {known.token}")
    if server.enrol_token_file:
        return _account(server, f"{ENROLMENT} {read_token(server.enrol_token_file)}", once=True)
    if server.token_file:
        return _account(server, f"{TARGET} {read_token(server.token_file)}")
    if server.gateway_token_file:
        return _account(server, f"{GATEWAY} {read_token(server.gateway_token_file)}")
    if server.certificate:
        return _account(server, "")
    raise Rejected(
        f"this device has nothing to show to {server.url}; nothing was sent",
        "Enrol it with: tb-update enrol; or name a token_file or a certificate in config.toml.",
    )


def enrolling(server: Server, token: str) -> Account:
    """The same for the one request that is made with a token that is good once."""
    return _account(server, f"{ENROLMENT} {token}", once=True)


def begin(server: Server, state: str) -> Enrolled:
    """A token for this device, kept before anybody is told: a run that is cut goes on with the same."""
    known = read(state)
    if known is not None and (known.url, known.tenant, known.id) == _names(server):
        return known
    url, tenant, name = _names(server)
    made = Enrolled(url=url, tenant=tenant, id=name, token=secrets.token_urlsafe(32))
    write(state, made)
    return made


def read_token(path: str) -> str:
    """A token from a file that nobody but its owner, root, can read."""
    try:
        _require_private(path, "a token")
        return _TOKEN.validate_python(read_plain(path, _MAX).decode().strip())
    except OSError as error:
        raise Failed(
            f"the token in {path} cannot be read: {error.strerror}; nothing was sent",
            "Put it there, or correct [server] in config.toml.",
        ) from None
    except ValueError:
        raise Failed(
            f"there is no token in {path}; nothing was sent", "Put it there as the server showed it, and nothing else."
        ) from None


def _require_private(path: str, what: str) -> None:
    found = os.stat(path)
    if found.st_uid not in (0, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o077:
        raise Rejected(
            f"{path} holds {what}, and others than root can read or change it; nothing was sent",
            f"If it was not read yet: chown root {path} && chmod 600 {path}; else get a new one.",
        )


def check_token(text: str) -> str:
    """A token that somebody typed."""
    try:
        return _TOKEN.validate_python(text.strip())
    except ValueError:
        raise Rejected("that is no token; nothing was sent", "Take it as the server showed it.") from None


def _names(server: Server) -> tuple[str, str, str]:
    return server.url, server.tenant, server.id


def _account(server: Server, authorization: str, *, once: bool = False) -> Account:
    home = origin(server.url)
    headers = {"Authorization": authorization} if authorization else {}
    who = Identity(home, headers, server.ca, server.certificate, server.key)
    if who.ca or who.certificate:
        try:
            if who.key:
                _require_private(who.key, "a key")
            who.context()
        except OSError as error:
            named = who.certificate if who.certificate and not error.filename else error.filename or who.ca
            raise Failed(
                f"the certificates for {home} cannot be used ({named}): {error.strerror or error}; nothing was sent",
                "Correct these files, or ca, certificate and key below [server] in config.toml.",
            ) from None
    return Account(f"{server.url}/{server.tenant}/controller/v1/{server.id}", who, once)
