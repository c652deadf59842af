"""A place to work in, in the directory of a server: what others left there that were killed goes first."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "making-"
LOCK = "making.lock"


@contextmanager
def workplace(scratch: Path) -> Iterator[Path]:
    """A new directory; while somebody is in it, or until the process ends, nobody else removes it."""
    with (scratch / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in scratch.glob(f"{PREFIX}*"):
            _remove_if_left(left)
        place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=scratch))
        held = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(held)


def _remove_if_left(place: Path) -> None:
    try:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(place, ignore_errors=True)
    except BlockingIOError:
        pass  # somebody is in it
    finally:
        os.close(fd)
