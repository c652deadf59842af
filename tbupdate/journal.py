"""The end of the log of a boot: of this one, or of the last one of a deployment that was left since."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass, replace

from tbupdate import programs, syscalls
from tbupdate.boot.kernel import opened, read

LINES = 40
JOURNAL = "var/log/journal"
# Where there is no journal.
FILES = ("var/log/syslog", "var/log/messages")
PANIC = "Kernel panic - not syncing"
_BEFORE = 10
_LIMIT = 60
_LINE = 256


@dataclass(frozen=True)
class Tail:
    """The last lines of a boot's log; which boot it was, as journalctl knows it, and when it wrote the last of them."""

    lines: tuple[str, ...] = ()
    boot: str = ""
    logged: str = ""

    @property
    def panic(self) -> str:
        """Why the kernel panicked, if it says so."""
        found = [re.search(rf"{PANIC}: (.+?)(?: \]---)?$", line) for line in self.lines]
        return next((one[1] for one in reversed(found) if one is not None), "")

    def to_fields(self) -> dict[str, object]:
        """For the history."""
        return {"boot": self.boot, "logged": self.logged, "log": self.lines}


NO_LOG = Tail()


def of_this_boot() -> Tail:
    """What this boot has logged so far."""
    tail = _read([], "0")
    return tail if tail.lines else Tail(_end_of_files("/"))


def of_deployment(deployment: str, root: str | None) -> Tail:
    """What the last boot of a deployment logged, in its own `root` or, where logs are shared, in that of this system.

    A boot that ended before anything was written to the disk has no log.
    """
    places: list[list[str]] = []
    if root is not None and _is_inside(root, JOURNAL):
        places.append(["--directory", os.path.join(root, JOURNAL)])
    for place in (*places, []):
        boot = _find_boot(place, deployment)
        tail = _read(place, boot) if boot else NO_LOG
        if tail.lines:
            return tail
    return Tail(_end_of_files(root)) if root is not None else NO_LOG


def of_panic(said: str, tail: Tail) -> Tail:
    """The last words of a kernel, in place of the `tail` of that boot's log, which ends before them.

    What is said first of a panic tells most: where it was called from, and registers, come behind it.
    """
    lines = _plain(said)
    begins = next((number for number, line in enumerate(lines) if PANIC in line), len(lines))
    lines = lines[: begins + LINES - _BEFORE][-LINES:]
    return replace(tail, lines=tuple(lines)) if lines else tail


def _find_boot(place: list[str], deployment: str) -> str:
    """The last boot whose kernel was started for that deployment."""
    words = rf"command line: .*\btb\.id={re.escape(deployment)}( |$)"
    told = _journalctl([*place, "-n", "1", "-o", "json", "--output-fields=_BOOT_ID", "-g", words, "_TRANSPORT=kernel"])
    return _field(told, "_BOOT_ID")


def _read(place: list[str], boot: str) -> Tail:
    lines = _journalctl([*place, "-b", boot, "-n", str(LINES), "-o", "short-monotonic"])
    last = _journalctl([*place, "-b", boot, "-n", "1", "-o", "json", "--output-fields=_BOOT_ID"])
    when = _field(last, "__REALTIME_TIMESTAMP")
    logged = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(when) // 1_000_000)) if when.isdecimal() else ""
    return Tail(tuple(_plain(lines)[-LINES:]), _field(last, "_BOOT_ID"), logged)


def _journalctl(arguments: list[str]) -> str:
    told = programs.run(["journalctl", "--no-pager", "-q", *arguments], _LIMIT)
    return told.out if told.code == 0 else ""


def _field(told: str, name: str) -> str:
    try:
        return str(json.loads(told).get(name, ""))
    except (ValueError, AttributeError):
        return ""


def _end_of_files(root: str) -> tuple[str, ...]:
    for path in FILES:
        try:
            with opened(root) as directory, read(directory, path) as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LINES * _LINE))
                told = file.read(LINES * _LINE)
        except OSError:
            continue
        if told.strip():
            return tuple(_plain(told.decode("utf-8", "replace"))[-LINES:])
    return ()


def _plain(told: str) -> list[str]:
    return ["".join(c for c in line if c.isprintable()) for line in told.splitlines()]


def _is_inside(root: str, path: str) -> bool:
    """Whether a root has a directory there itself: a link would lead into this system."""
    try:
        with opened(root) as directory:
            os.close(syscalls.open_inside(directory, path))
    except OSError:
        return False
    return os.path.realpath(os.path.join(root, path)) == os.path.join(os.path.realpath(root), path)
