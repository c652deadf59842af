"""The history: an append-only record of what was deployed, by which image, when, and how it ended."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from typing import Any

from tbdiff.errors import Failed

_READ_MAX = 64 << 20


@dataclass(frozen=True)
class Event:
    """One line of the history. `result` is "done" or "failed"; `more` is what the kind of event adds."""

    time: str
    event: str
    deployment: str | None
    result: str = "done"
    more: dict[str, Any] = field(default_factory=dict)

    def to_fields(self) -> dict[str, Any]:
        """The event as it is stored and shown; what says nothing is left out."""
        fields = {"time": self.time, "event": self.event, "id": self.deployment, "result": self.result} | self.more
        return {key: value for key, value in fields.items() if value not in (None, "", (), [])}


def brief(event: Event) -> str:
    """An event in so few words that it fits into a mark."""
    return " ".join((event.time, event.event, event.deployment or "-", event.result))


def from_brief(text: str) -> Event:
    """The event again, as far as it was kept."""
    time, event, deployment, result = (*text.split(" "), "?", "?", "?")[:4]
    return Event(time, event, deployment, result, {"why": "written down late: there was no room"})


def append(path: str, event: Event) -> None:
    """Add one line, durably. A line that was cut short before is closed first, so that it spoils no other."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        line = json.dumps(event.to_fields(), ensure_ascii=True).encode() + b"\n"
        os.write(descriptor, b"\n" + line if torn else line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: str) -> list[dict[str, Any]]:
    """All events, oldest first; lines that a power cut made unreadable are left out."""
    events: list[dict[str, Any]] = []
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return events
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Failed(f"{path} is no file, so there is no history", "Move it away; a new one begins by itself.")
    with open(descriptor, "rb") as file:
        lines = file.read(_READ_MAX).splitlines()
    for line in lines:
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict):
            events.append(fields)
    return events
