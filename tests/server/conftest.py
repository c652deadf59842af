"""Fixtures of the server's tests: databases of both kinds, and a server in this process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import argon2
import pytest

from tbserver import accounts, database
from tbserver.database import Database
from tests.server import postgres
from tests.server.harness import Fleet, fleet
from tests.server.postgres import Postgres

KINDS = ("sqlite", "postgresql")


@pytest.fixture(autouse=True)
def quick_passwords(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing a password costs as much as it shall; most tests are not about that."""
    if "real_passwords" not in request.keywords:
        monkeypatch.setattr(accounts, "_HASHER", argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
        accounts._nobodys_password.cache_clear()


@pytest.fixture(scope="session")
def a_postgres() -> Iterator[Postgres]:
    """A PostgreSQL for all tests of a worker."""
    with postgres.running() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(a_postgres: Postgres) -> str:
    """The name of a database with our schema."""
    url = a_postgres.create()
    _migrated(url)
    return url.partition("?")[0].rpartition("/")[2]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with our schema."""
    path = tmp_path_factory.mktemp("template") / "records.sqlite"
    _migrated(f"sqlite:///{path}")
    return path


def _migrated(url: str) -> None:
    records = Database(url)
    database.migrate(records)
    records.close()


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database of each kind, with our schema and nothing in it."""
    if request.param == "postgresql":
        made: Postgres = request.getfixturevalue("a_postgres")
        return made.create(request.getfixturevalue("postgres_template"))
    shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "records.sqlite")
    return f"sqlite:///{tmp_path / 'records.sqlite'}"


@pytest.fixture
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path, a_postgres: Postgres, kind: str) -> str:
    """The address of a database of each kind, without anything."""
    return a_postgres.create() if kind == "postgresql" else f"sqlite:///{tmp_path / 'empty.sqlite'}"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of database."""
    return str(request.param)


@pytest.fixture
def a_fleet(tmp_path: Path, database_url: str) -> Iterator[Fleet]:
    """A server in this process, over each kind of database."""
    with fleet(tmp_path / "data", database_url) as made:
        yield made


@pytest.fixture
def small_fleet(tmp_path: Path, sqlite_template: Path) -> Iterator[Fleet]:
    """A server in this process on SQLite: for what does not depend on the database."""
    (tmp_path / "data").mkdir()
    shutil.copy(sqlite_template, tmp_path / "data/records.sqlite")
    with fleet(tmp_path / "data", "") as made:
        yield made
