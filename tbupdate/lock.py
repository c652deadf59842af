"""One run at a time: a lock on a directory of the file system itself, which needs no file and ends with the process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from tbdiff.errors import Busy
from tbupdate.layout import SNAPSHOTS


@contextlib.contextmanager
def hold(top: str, *, before_init: bool = False) -> Iterator[None]:
    """Hold the lock of the file system at `top`; raise Busy if another run has it."""
    with contextlib.ExitStack() as held:
        snapshots = os.path.join(top, SNAPSHOTS)
        # Where there is no `snapshots` yet, the top level's own directory is what all runs can agree on.
        for directory in (top, snapshots) if before_init else (snapshots,):
            if os.path.isdir(directory):
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                held.callback(os.close, descriptor)
                _lock(descriptor)
        yield


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy("another run is in progress; nothing was changed", "Wait for it to end, then try again.") from None
