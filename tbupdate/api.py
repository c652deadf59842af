"""The local socket on which programs ask how the device stands, and answer for the person in front of it."""

from __future__ import annotations

import errno
import grp
import json
import os
import socket
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import pydantic

from tbdiff.errors import Busy, Failed, NothingToDo, Rejected, Stop
from tbdiff.manifest import Hex256
from tbupdate.consent import HOURS_MAX

VERSION = 1
PLACE = "/run/tb-update/api"
LINE_MAX = 4096
HELP = "See: docs/consent-api.md"
REQUESTS_MAX = 100
# Whoever says nothing for so many seconds is not waited for.
IDLE = 60.0
# asm-generic/socket.h; Python has no name for it.
_PEER_GROUPS = 59
_GROUPS_MAX = 65536
_KINDS = {Rejected: "rejected", NothingToDo: "nothing-to-do", Busy: "busy", Failed: "failed"}


def _says(words: str) -> Any:
    return pydantic.Field(description=words)


class Request(pydantic.BaseModel):
    """One line of what is asked."""

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, strict=True, extra="forbid")

    api: Annotated[Literal[1], _says("The version of this protocol.")] = 1
    do: Annotated[Literal["status", "approve", "postpone", "decline"], _says("What is asked.")]
    tree: Annotated[Hex256 | None, _says("The release that is meant, by the digest of its tree; else any.")] = None
    hours: Annotated[int, pydantic.Field(ge=1, le=HOURS_MAX), _says("For how long `postpone` leaves it.")] = 24


@dataclass(frozen=True)
class Peer:
    """Who is at the other end, as the kernel says it."""

    user: int
    groups: Collection[int] = ()

    def may_answer(self, group: str) -> bool:
        """Whether what this user says counts for the device: root's, and what a member of the group says."""
        if self.user in (0, os.geteuid()):
            return True
        try:
            return bool(group) and grp.getgrnam(group).gr_gid in self.groups
        except KeyError:
            return False


def peer_of(connection: socket.socket) -> Peer:
    """Who has connected; Failed if this is no local socket."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, user, group = struct.unpack("3i", raw)
        try:
            groups = connection.getsockopt(socket.SOL_SOCKET, _PEER_GROUPS, 4 * 64)
        except OSError as error:
            if error.errno != errno.ERANGE:
                raise
            groups = connection.getsockopt(socket.SOL_SOCKET, _PEER_GROUPS, 4 * _GROUPS_MAX)
    except OSError as error:
        raise Failed(f"it is not known who has connected: {error.strerror}; nothing was changed", HELP) from None
    return Peer(user, {group, *struct.unpack(f"{len(groups) // 4}I", groups)})


class _Lines(Protocol):
    def readline(self, size: int = ..., /) -> bytes: ...

    def write(self, data: bytes, /) -> int: ...

    def flush(self) -> None: ...


def serve(connection: socket.socket, group: str, act: Callable[[Request], dict[str, Any]]) -> None:
    """Answer what comes on a connection, line by line, until its end; `act` does what is asked."""
    peer = peer_of(connection)
    connection.settimeout(IDLE)
    try:
        with connection.makefile("rwb") as lines:
            _serve(lines, lambda line: answer(line, peer, group, act))
    except (TimeoutError, ConnectionError):
        return


def _serve(lines: _Lines, reply: Callable[[bytes], dict[str, Any]]) -> None:
    for _ in range(REQUESTS_MAX):
        line = lines.readline(LINE_MAX + 1)
        if len(line) > LINE_MAX:
            _send(lines, _refused(Rejected(f"a request has at most {LINE_MAX} bytes; nothing was changed", HELP)))
            return
        if not line.endswith(b"\n"):
            return
        _send(lines, reply(line))


def answer(line: bytes, peer: Peer, group: str, act: Callable[[Request], dict[str, Any]]) -> dict[str, Any]:
    """What is said to one line."""
    try:
        request = Request.model_validate_json(line)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:60]
        return _refused(Rejected(f"that is no request: {where}: {first['msg']}; nothing was changed", HELP))
    try:
        if request.do != "status" and not peer.may_answer(group):
            who = f"root and the group {group}" if group else "root"
            raise Rejected(
                f"only {who} may answer for this device; nothing was changed",
                "Ask one of them. Or let others answer, too: [consent] group = … in config.toml.",
            )
        return {"api": VERSION, "ok": True} | act(request)
    except Stop as stop:
        return _refused(stop)


def _refused(stop: Stop) -> dict[str, Any]:
    kind = next((word for family, word in _KINDS.items() if isinstance(stop, family)), "failed")
    return {"api": VERSION, "ok": False, "error": {"kind": kind, "message": str(stop), "remedy": stop.remedy}}


def _send(lines: _Lines, said: dict[str, Any]) -> None:
    lines.write(json.dumps(said).encode() + b"\n")
    lines.flush()
