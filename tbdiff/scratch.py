"""Rooms to work in beside what is being made: what a run leaves there that was killed, the next one removes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tbdiff.descent import DIRECTORY

PREFIX = ".tbdiff-scratch-"


@contextmanager
def scratch_directory(place: Path) -> Iterator[Path]:
    """An empty directory in `place`, which is gone afterwards; and so is what no run works in any more."""
    _clear(place)
    room, fd = _new(place)
    try:
        # Not the room itself: whoever changes a tree locks it.
        inner = room / "tree"
        inner.mkdir(0o700)
        yield inner
    finally:
        # Before it may be taken for one that was left.
        shutil.rmtree(room)
        os.close(fd)


def _new(place: Path) -> tuple[Path, int]:
    """A new one, locked for as long as the descriptor is open."""
    while True:
        room = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        fd = os.open(room, DIRECTORY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        # Before it was locked, another run may have taken it for one that was left.
        if room.exists():
            return room, fd
        os.close(fd)


def _clear(place: Path) -> None:
    """Remove what runs have left that were killed; it is locked by nobody."""
    for room in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # somebody else's, or gone meanwhile
            fd = os.open(room, DIRECTORY)
            try:
                if os.fstat(fd).st_uid == os.geteuid():
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(room)
            finally:
                os.close(fd)
