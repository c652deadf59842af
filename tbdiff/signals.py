"""Signals that end a run: turned into an interruption that is cleaned up after, and held back where that is quicker."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The process was asked to end. Not an Exception: nothing but the cleaning up may catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)


def interrupt_on_end() -> None:
    """From here on a signal to end raises Interrupted, once."""
    for number in _ENDING:
        signal.signal(number, _interrupt)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let no signal end what is in the block; when it is done, they have nothing left to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        while signal.sigtimedwait(_ENDING, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
