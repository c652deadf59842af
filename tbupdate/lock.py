"""One run at a time: a lock on a directory of the file system itself, which needs no file and ends with the process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from tbdiff.errors import Busy
from tbupdate.layout import SNAPSHOTS


@contextlib.contextmanager
def hold(top: str, *, before_init: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock of the file system at `top`; if another run has it, raise Busy, or wait until that has ended."""
    with contextlib.ExitStack() as held:
        snapshots = os.path.join(top, SNAPSHOTS)
        # Where there is no `snapshots` yet, the top level's own directory is what all runs can agree on.
        for directory in (top, snapshots) if before_init else (snapshots,):
            if os.path.isdir(directory):
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                held.callback(os.close, descriptor)
                _lock(descriptor, wait)
        yield


def is_held(top: str) -> bool:
    """Whether a run is in progress."""
    descriptor = os.open(os.path.join(top, SNAPSHOTS), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock(descriptor: int, wait: bool) -> None:
    if wait:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return
    for pause in (0.1, 0.2, None):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Whoever asks whether it is held has it for a moment.
            if pause is None:
                break
            time.sleep(pause)
        else:
            return
    raise Busy("another run is in progress; nothing was changed", "Wait for it to end, then try again.")
