"""The schema: up and down on both databases, the same as the tables say, one process at a time."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.exc import DBAPIError

from tbdiff.errors import Failed, Rejected
from tbserver import audit, database
from tbserver.database import Database
from tbserver.records import AuditEntry, Base, Tenant


def tables(records: Database) -> set[str]:
    return set(sqlalchemy.inspect(records.engine).get_table_names()) - {"alembic_version"}


def test_migrations_make_the_tables_that_the_program_knows(database_url: str) -> None:
    records = Database(database_url)
    with records.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    assert database.revision(records) == database.newest()
    records.close()


def test_each_step_goes_down_and_up_again(empty_database_url: str) -> None:
    records = Database(empty_database_url)
    steps = [script.revision for script in database.ScriptDirectory(str(database.MIGRATIONS)).walk_revisions()]
    database.migrate(records)
    for step in [*steps[1:], "base"]:
        database.migrate(records, step)
        assert database.revision(records) == (None if step == "base" else step)
    assert tables(records) == set()
    for step in reversed(steps):
        database.migrate(records, step)
        assert database.revision(records) == step
    assert tables(records) == set(Base.metadata.tables)
    records.close()


def test_several_processes_may_begin_at_once(empty_database_url: str) -> None:
    errors: list[BaseException] = []

    def begin() -> None:
        records = Database(empty_database_url)
        try:
            database.migrate(records)
        except BaseException as error:  # noqa: BLE001 - it is looked at below
            errors.append(error)
        records.close()

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_database_of_a_newer_program_is_left_alone(database_url: str) -> None:
    records = Database(database_url)
    with records.engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Rejected, match="newer tb-server"):
        database.migrate(records)
    records.close()


def test_a_database_that_is_none_is_said_so() -> None:
    for url in ("mysql://host/name", "nonsense", "sqlite+nothing:///x"):
        with pytest.raises(Rejected, match="database"):
            Database(url)
    with pytest.raises(Failed, match="does not answer"):
        database.migrate(Database("postgresql://nobody:secret@/none?host=/nonexistent"))


@pytest.mark.parametrize("statement", ["UPDATE audit SET who = 'x'", "DELETE FROM audit"])
def test_the_audit_log_is_append_only(database_url: str, statement: str) -> None:
    records = Database(database_url)
    with records.writing() as session:
        session.add(Tenant(id=1, name="one", created=0))
        session.flush()
        audit.note(session, 1, "me", "do", "it")
    with pytest.raises(DBAPIError, match="append-only"), records.writing() as session:
        session.execute(sqlalchemy.text(statement))
    with records.reading() as session:
        assert session.scalars(sqlalchemy.select(AuditEntry.who)).all() == ["me"]
    records.close()
