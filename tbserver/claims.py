"""Work that one of many processes does: claimed in a row of the database, held on to, and let go.

A claim has to be renewed: that of a process that was killed runs out, and another one takes over. Whatever is written
down of work is written only as long as the claim holds.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, update
from sqlalchemy.exc import DBAPIError

from tbdiff.console import safe
from tbdiff.errors import Failed, Stop
from tbserver.database import first_line
from tbserver.records import Claimed
from tbserver.server import Server

log = logging.getLogger(__name__)
# A claim that nobody renews runs out.
CLAIM_SECONDS = 60
RENEW_SECONDS = 15
WHY_MOST = 300
Stopping = Callable[[], bool]


class StoppedError(Exception):
    """The process ends, or the claim is not ours any more."""


class Claim:
    """What was claimed by `take`: `hold` is called every now and then while it is worked on."""

    def __init__(self, server: Server, row: Claimed, is_stopping: Stopping) -> None:
        self._server, self._table, self._is_stopping = server, type(row), is_stopping
        self._id, self._owner = row.id, row.owner
        self._begun = self._renewed = time.monotonic()

    @property
    def seconds(self) -> float:
        """For how long it has been worked on."""
        return time.monotonic() - self._begun

    def hold(self) -> None:
        """Go on; Failed if it takes too long."""
        most = self._server.settings.making.seconds
        if self._is_stopping():
            raise StoppedError
        if self.seconds > most:
            raise Failed(f"it takes longer than {most} seconds")
        if time.monotonic() > self._renewed + RENEW_SECONDS:
            self._renewed = time.monotonic()
            self._renew()

    def _renew(self) -> None:
        renewed = update(self._table).where(self.is_ours()).values(until=int(time.time()) + CLAIM_SECONDS)
        try:
            with self._server.database.writing() as session:
                if session.scalar(renewed.returning(self._table.id)) is None:
                    raise StoppedError
        except DBAPIError as error:
            # It comes back in time, or another one takes over; then what we make is not kept.
            log.error("a claim could not be renewed: %s", first_line(error))

    def is_ours(self) -> ColumnElement[bool]:
        """The condition on the row that nobody took it over."""
        return and_(self._table.id == self._id, self._table.owner == self._owner)

    def settle(self, state: str, why: str = "", rest: int = 0, **found: Any) -> None:
        """Write down what came of it, if it is still ours; it is not tried again for `rest` seconds."""
        with self._server.database.writing() as session:
            row = session.get(self._table, self._id, with_for_update=True)
            if row is not None and row.owner == self._owner:
                row.state, row.why, row.owner, row.until = state, safe(why)[:WHY_MOST], "", int(time.time()) + rest
                for name, value in found.items():
                    setattr(row, name, value)

    @contextmanager
    def ended(self, state: str, rest: int, what: str) -> Iterator[None]:
        """See to it that the work which is done meanwhile leaves no claim behind.

        It is let go where the process stops. What fails is logged behind `what`, and settled as `state`.
        """
        try:
            yield
        except StoppedError:
            self.let_go()
        except (Stop, OSError) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            log.warning("%s: %s", what, why)
            self.settle(state, why, rest)

    def let_go(self) -> None:
        """Let another one do it at once."""
        with self._server.database.writing() as session:
            session.execute(delete(self._table).where(self.is_ours()))


def take(row: Claimed, state: str) -> None:
    """Claim a row, in the transaction that has it locked."""
    row.state, row.why, row.begun = state, "", row.begun + 1
    row.owner, row.until = secrets.token_hex(16), int(time.time()) + CLAIM_SECONDS
