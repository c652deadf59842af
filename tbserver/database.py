"""The database: SQLite or PostgreSQL, its transactions, its schema, and patience when it is away for a moment."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session

from tbdiff.errors import Failed, Rejected

T = TypeVar("T")

MIGRATIONS = Path(__file__).parent / "migrations"
# As many transactions at a time as there are threads that answer.
POOL = 32
BUSY_SECONDS = 30
PATIENCE_SECONDS = 15.0
_WRITES = "tb_writes"
# What PostgreSQL says when two transactions were in each other's way: serialization failure, deadlock.
_TRY_AGAIN = ("40001", "40P01")


def insert_into(session: Session, table: type[Any]) -> postgresql.Insert | sqlite.Insert:
    """An INSERT as the database of a session has it, which says what becomes of rows that are there already."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    return insert(table)


class Database:
    """A place for records. `url` as SQLAlchemy writes it: sqlite:///FILE or postgresql://…"""

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
            if self.url.get_backend_name() not in ("sqlite", "postgresql"):
                raise Rejected(
                    f"{self.url.get_backend_name()} is no database that is known here; nothing was done", _REMEDY
                )
            if self.url.get_backend_name() == "postgresql":
                self.url = self.url.set(drivername="postgresql+psycopg")
            self.engine = _engine(self.url)
        except (ArgumentError, NoSuchModuleError):
            raise Rejected("the address of the database is none; nothing was done", _REMEDY) from None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only looks."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that is committed at the end, or as a whole is not."""
        with (
            self.engine.connect().execution_options(**{_WRITES: True}) as connection,
            Session(connection, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def patiently(self, do: Callable[[Session], T], *, writes: bool = True, patience: float = PATIENCE_SECONDS) -> T:
        """Do it in one transaction, again while the database is away or busy: for what must not be lost."""
        end = time.monotonic() + patience
        pause = 0.02
        while True:
            try:
                with self.writing() if writes else self.reading() as session:
                    return do(session)
            except DBAPIError as error:
                if not is_passing(error) or time.monotonic() + pause > end:
                    raise
            time.sleep(pause)
            pause = min(pause * 2, 1.0)

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()


_REMEDY = "Name one such as sqlite:////var/lib/tb-server/records.sqlite or postgresql://user@host/name."


def is_passing(error: DBAPIError) -> bool:
    """Whether it is worth another try: the connection broke, or another transaction was in the way."""
    if error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _TRY_AGAIN:
        return True
    if not isinstance(error, OperationalError):
        return False
    return not isinstance(error.orig, sqlite3.OperationalError) or "locked" in str(error.orig)


def _engine(url: sqlalchemy.URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return sqlalchemy.create_engine(
            url, pool_size=POOL, max_overflow=0, pool_pre_ping=True, connect_args={"connect_timeout": 5}
        )
    engine = sqlalchemy.create_engine(url, pool_size=POOL, max_overflow=0, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        # Transactions are begun by us (below), not by Python's driver when it sees fit.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Who will write takes the lock at once: one that has read before cannot be let wait for it, only refused.
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def newest() -> str:
    """The revision of the schema that this program works with."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    head = ScriptDirectory.from_config(config).get_current_head()
    if head is None:
        raise AssertionError("there are no migrations")
    return head


def revision(database: Database) -> str | None:
    """The revision of the schema that the database has; None for an empty one."""
    try:
        with database.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except OperationalError as error:
        raise Failed(
            f"the database {database.url.render_as_string()} does not answer: {first_line(error)}",
            "Start it, or correct --database.",
        ) from None


def migrate(database: Database, to: str = "head") -> None:
    """Bring the schema to a revision, "head" for the newest, up or down; several processes may do it at once."""
    now = revision(database)
    known = ScriptDirectory(str(MIGRATIONS))
    if now is not None and now not in {script.revision for script in known.walk_revisions()}:
        raise Rejected(
            f"the database was made by a newer tb-server (schema {now}); it was left as it is", "Update tb-server."
        )
    with database.engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            # One after the other; SQLite has locked the file.
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7489113)")
        now = MigrationContext.configure(connection).get_current_revision()
        config = _config(connection)
        older = {script.revision for script in known.iterate_revisions(now or "base", "base")} if now else set()
        if to == "base" or (to in older and to != now):
            command.downgrade(config, to)
        else:
            command.upgrade(config, to)


def first_line(error: DBAPIError) -> str:
    """What the database's driver says, in a line."""
    return str(error.orig or error).strip().partition("\n")[0]
