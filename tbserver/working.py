"""What goes on by itself in a process: rollouts are looked after every few seconds, until it stops."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from tbserver import tending
from tbserver.database import first_line
from tbserver.server import Server

log = logging.getLogger(__name__)
EVERY = 2.0


@contextmanager
def working(server: Server, every: float = EVERY) -> Iterator[None]:
    """Look after what goes on by itself, meanwhile."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(every):
            try:
                tending.tend(server.database)
            except DBAPIError as error:
                # It comes back, or another process sees to it.
                log.error("rollouts could not be looked after: %s", first_line(error))

    thread = threading.Thread(target=work, name="working")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
