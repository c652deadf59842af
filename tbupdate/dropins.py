"""Programs that others leave for us in directories by name, such as checks: which of them are run, and how."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass

PLACES = ("/etc/tb-update", "/usr/local/lib/tb-update", "/usr/lib/tb-update")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Ended:
    """How a program ended: `said` is what it printed, `why` is empty if it went well."""

    said: bytes = b""
    why: str = ""


def find(kind: str, places: Iterable[str] = PLACES) -> list[tuple[str, str]]:
    """Names and paths of the programs in the directories `kind`, in the order of their names.

    A name in an earlier place shadows later ones; /dev/null masks it.
    """
    named: dict[str, str] = {}
    for place in places:
        directory = os.path.join(place, kind)
        for name in _names(directory):
            named.setdefault(name, os.path.join(directory, name))
    return [(name, path) for name, path in sorted(named.items()) if _is_program(path)]


def passed_over(kind: str, places: Iterable[str] = PLACES) -> list[str]:
    """What lies in these directories and is no program, so that it is not run; not what is masked on purpose."""
    found = [os.path.join(place, kind, name) for place in places for name in sorted(_names(os.path.join(place, kind)))]
    return [path for path in found if not _is_program(path) and os.path.realpath(path) != os.devnull]


def run(path: str, limit: float, most: int) -> Ended:
    """Run a program for at most `limit` seconds; the last `most` bytes of what it prints are kept.

    One that others than root could change is not run.
    """
    try:
        if not all(map(_is_roots, (path, os.path.dirname(path)))):
            return Ended(why="others than root can change it, so it is not run")
        process = subprocess.Popen(
            [path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env=ENVIRONMENT,
        )
    except OSError as error:
        return Ended(why=f"it cannot be started: {error.strerror}")
    with process:
        said, in_time = _listen(process, time.monotonic() + limit, most)
        if not in_time:
            # All that it started goes too, or it would hold the pipe open.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Ended(said, f"it did not end within {limit:g} seconds")
    code = process.returncode
    return Ended(said, f"it was ended by signal {-code}" if code < 0 else f"exit code {code}" if code else "")


def _listen(process: subprocess.Popen[bytes], until: float, most: int) -> tuple[bytes, bool]:
    """The end of what a program prints, and whether it ended in time; a daemon that it started may go on to."""
    said = b""
    if process.stdout is None:
        raise AssertionError("it has no output")
    output, ended = process.stdout.fileno(), os.pidfd_open(process.pid)
    with selectors.DefaultSelector() as selector, open(ended, "rb"):
        selector.register(output, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        while (left := until - time.monotonic()) > 0:
            ready = {key.fd for key, _ in selector.select(left)}
            if output in ready:
                data = os.read(output, 1 << 16)
                if not data:
                    break
                said = (said + data)[-most:]
            elif ended in ready:
                break
    try:
        process.wait(max(until - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        return said, False
    return said, True


def _names(directory: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _is_roots(path: str) -> bool:
    """Whether nobody but root, or whoever runs this, can change it."""
    found = os.stat(path)
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & _OTHERS
