"""All that answering a request needs, made once when a process starts."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tbdiff.errors import Failed
from tbserver import accounts, database
from tbserver.database import Database
from tbserver.settings import Settings
from tbserver.store import Store


@dataclass(frozen=True)
class Server:
    """What the process was started with, and its ways to what is kept; it holds nothing that another would miss."""

    settings: Settings
    database: Database
    store: Store


def open_server(settings: Settings) -> tuple[Server, str | None]:
    """Make what is missing, bring the schema up to date; also the first account's password where this made it."""
    try:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.scratch.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise Failed(
            f"the directory {settings.data} cannot be made: {error.strerror}", "Name another one with --data."
        ) from None
    if not os.access(settings.data, os.W_OK):
        raise Failed(f"the directory {settings.data} cannot be written to", "Name another one with --data.")
    store = Store(settings.artifacts_url)
    records = Database(settings.database_url)
    database.migrate(records)
    with records.writing() as session:
        password = accounts.begin(session)
    return Server(settings, records, store), password
