"""What is told to the system's journal: each kind of event under a message id of its own, which never changes."""

from __future__ import annotations

import logging
import socket
import struct
from pathlib import Path

from tbupdate.history import Event

log = logging.getLogger(__name__)

SOCKET = Path("/run/systemd/journal/socket")
_VALUE_MAX = 2000

# By these a program finds the events; docs/commands.md lists them.
MESSAGE_IDS = {
    "fetched": "13fd5aad62f64318908fb14a1c8da021",
    "deployed": "98804c0e01ca4bb9a81ecf1bc357f4c1",
    "committed": "bd3e8aa8ab2c429ebacf468bd407f421",
    "rolled-back": "87345a465feb42aba3bc7af0d7cbfdb6",
    "reset": "16e7572f97e045c0a189f863a6539c09",
    "failed": "73091ce4a52847989042dd2188317c15",
    "found": "7dd8c41155704a4fa71a59c80a49a381",
    "waiting": "d02a4592c5774bc38d5f25f9cef421e6",
    "trust": "bfba1aef314d4982b8eef44a29019be6",
}
_OF_HISTORY = {
    "fetch": "fetched",
    "deploy": "deployed",
    "commit": "committed",
    "rollback": "rolled-back",
    "fallback": "rolled-back",
    "reset": "reset",
    "trust": "trust",
}
_NOTICE, _WARNING = "5", "4"


def tell_event(event: Event, place: Path = SOCKET) -> None:
    """Tell what was written to the history, where others may wait for it."""
    kind = _OF_HISTORY.get(event.event)
    if kind is None:
        return
    if event.result != "done":
        kind = "failed"
    reason = event.more.get("reason") or event.more.get("why") or ""
    words = " ".join(filter(None, (event.event, event.deployment, event.result)))
    tell(
        kind,
        f"{words}: {reason}" if reason else words,
        place,
        deployment=event.deployment,
        release=event.more.get("release"),
        reason=reason,
    )


def tell(kind: str, message: str, place: Path = SOCKET, **more: object) -> None:
    """Send one event; where there is no journal, nobody is told."""
    fields = {
        "MESSAGE": message,
        "MESSAGE_ID": MESSAGE_IDS[kind],
        "PRIORITY": _WARNING if kind in ("failed", "rolled-back") else _NOTICE,
        "SYSLOG_IDENTIFIER": "tb-update",
        "TB_UPDATE_EVENT": kind,
    } | {f"TB_UPDATE_{name.upper()}": str(value) for name, value in more.items() if value}
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as journal:
            # A journal that takes nothing must not keep a device from what it does.
            journal.setblocking(False)
            journal.sendto(b"".join(_field(name, value) for name, value in fields.items()), str(place))
    except OSError as error:
        log.info("the journal was not told: %s", error.strerror)


def _field(name: str, value: str) -> bytes:
    """A field in the journal's own protocol: what has several lines goes with its length."""
    raw = value.encode("utf-8", "backslashreplace")[:_VALUE_MAX]
    if b"\n" in raw:
        return name.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n"
    return name.encode() + b"=" + raw + b"\n"
