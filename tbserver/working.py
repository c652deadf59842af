"""What goes on by itself in a process, until it stops: rollouts are looked after, and webhooks told what was done."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from tbserver import tending, webhooks
from tbserver.database import first_line
from tbserver.server import Server

log = logging.getLogger(__name__)
EVERY = 2.0


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

    # Apart: an address that does not answer holds up nothing else.
    with repeating(tend, every, "working"), repeating(tell, every, "telling"):
        yield


@contextmanager
def repeating(act: Callable[[], object], every: float, name: str) -> Iterator[None]:
    """Do something every so many seconds, in a thread of that name, meanwhile."""
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(every):
            act()

    thread = threading.Thread(target=go_on, name=name)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
