"""What goes on by itself in a process, until it stops: rollouts looked after, webhooks told, images worked on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from sqlalchemy.exc import DBAPIError

from tbserver import comparing, tending, webhooks, workshop
from tbserver.database import first_line
from tbserver.server import Server

log = logging.getLogger(__name__)
EVERY = 2.0
# How often it is looked whether a delta is wanted.
LOOK_EVERY = 10.0
WORK = (comparing.compare_next, workshop.make_next)


@contextmanager
def working(server: Server, every: float = EVERY) -> Iterator[None]:
    """Look after what goes on by itself, meanwhile."""

    def tend() -> None:
        try:
            tending.tend(server.database)
        except DBAPIError as error:
            # It comes back, or another process sees to it.
            log.error("rollouts could not be looked after: %s", first_line(error))

    def tell() -> None:
        try:
            webhooks.tell(server.database, server.settings)
        except DBAPIError as error:
            log.error("webhooks could not be told: %s", first_line(error))

    def make(is_stopping: Callable[[], bool]) -> None:
        try:
            # What people look at is told before deltas are made, which takes longer.
            while not is_stopping() and any(one(server, is_stopping) for one in WORK):
                pass
        except (DBAPIError, OSError) as error:
            said = first_line(error) if isinstance(error, DBAPIError) else str(error)
            log.error("no release could be compared, and no delta made: %s", said)

    # Apart: an address that does not answer holds up nothing else.
    with ExitStack() as stack:
        stack.enter_context(repeating(tend, every, "working"))
        stack.enter_context(repeating(tell, every, "telling"))
        # Who makes none looks all the same, and says why there is none.
        for number in range(max(1, server.settings.making.makers)):
            stack.enter_context(_repeating(make, LOOK_EVERY, f"making-{number}"))
        yield


@contextmanager
def repeating(act: Callable[[], object], every: float, name: str) -> Iterator[None]:
    """Do something every so many seconds, in a thread of that name, meanwhile."""
    with _repeating(lambda _: act(), every, name):
        yield


@contextmanager
def _repeating(act: Callable[[Callable[[], bool]], object], every: float, name: str) -> Iterator[None]:
    """The same for what takes long: it can see that it shall stop."""
    stop = threading.Event()

    def go_on() -> None:
        while True:
            try:
                act(stop.is_set)
            except Exception:
                # A fault of ours: what goes on by itself must not end unseen, while everything else answers.
                log.exception("%s: it is tried again", name)
            if stop.wait(every):
                return

    thread = threading.Thread(target=go_on, name=name)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
