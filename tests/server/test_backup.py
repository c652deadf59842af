"""A backup made while the server runs, and a server that starts from it: nothing is missing, devices go on."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from tbdiff.errors import Failed, Rejected
from tbserver.accounts import Role
from tbserver.cli import cli
from tests.server import postgres
from tests.server.harness import Person, fleet
from tests.server.images import Works, upload
from tests.server.postgres import Postgres
from tests.server.test_artifacts import trust


def back_up(data: Path, place: Path, *more: str) -> str:
    done = CliRunner().invoke(cli, ["backup", "--data", str(data), *more, str(place)], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_a_server_starts_from_a_copy_that_was_made_while_another_worked(tmp_path: Path) -> None:
    works = Works(tmp_path)
    data, copy = tmp_path / "data", tmp_path / "copy"
    with fleet(data, "") as made:
        trust(made, works)
        operator = made.person(Role.OPERATOR)
        assert upload(operator, works.image("1.0"))[0] == 201
        (data / "delivery.key").write_text("a key")
        stop = threading.Event()
        written = threading.Thread(target=groups, args=(operator, stop))
        written.start()
        try:
            for _ in range(3):
                assert f"tb-server serve --data {copy}" in back_up(data, copy)
        finally:
            stop.set()
            written.join()
        kept = artifact(copy)
        before = kept.stat().st_ino
        assert upload(operator, works.image("1.1", "1.0"))[0] == 201
        back_up(data, copy)
        assert kept.stat().st_ino == before
        last = operator.get("/groups?limit=500")["items"]
        secret = operator.secret
    shutil.rmtree(data)
    assert (copy / "delivery.key").read_text() == "a key"
    assert [path.name for path in copy.rglob("*.new")] == []
    with fleet(copy, "", is_new=False) as again:
        same = Person(again, secret, 1)
        assert [one["version"] for one in same.get("/releases")["items"]] == ["1.1", "1.0"]
        assert same.get("/groups?limit=500")["items"] == last
        assert {path.stat().st_size for path in (copy / "artifacts/artifacts").rglob("*") if path.is_file()} == {
            works.image("1.0").stat().st_size,
            works.image("1.1", "1.0").stat().st_size,
        }


def groups(operator: Person, stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        operator.post("/groups", name=f"g{number}")
        number += 1


def artifact(data: Path) -> Path:
    return next(path for path in (data / "artifacts/artifacts").rglob("*") if path.is_file())


def test_what_cannot_be_copied_is_said(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with pytest.raises(Rejected, match="there are no records"):
        back_up(data, tmp_path / "copy")
    with fleet(data, ""):
        with pytest.raises(Rejected, match="a copy inside of what is copied"):
            back_up(data, data / "copy")
        with pytest.raises(Rejected, match="a database or a store elsewhere"):
            back_up(data, tmp_path / "copy", "--database", "postgresql:///x")
        with pytest.raises(Rejected, match="there is no delivery key"):
            back_up(data, tmp_path / "copy", "--delivery-key", str(tmp_path / "key"))
        # What is kept elsewhere, and was not named, is missing, and that is said.
        said = CliRunner().invoke(cli, ["backup", "--data", str(data), str(tmp_path / "copy")])
        assert "There is no delivery key in" in said.output
        (tmp_path / "key").write_text("a key")
        back_up(data, tmp_path / "copy", "--delivery-key", str(tmp_path / "key"))
        assert (tmp_path / "copy/delivery.key").read_text() == "a key"
        assert (
            "There is no" not in CliRunner().invoke(cli, ["backup", "--data", str(data), str(tmp_path / "copy")]).output
        )
        before = (tmp_path / "copy/records.sqlite").read_bytes()
        (tmp_path / "copy/records.sqlite.new").mkdir()
        with pytest.raises(Failed, match="was not brought up to date"):
            back_up(data, tmp_path / "copy")
        assert (tmp_path / "copy/records.sqlite").read_bytes() == before


def test_postgresql_by_its_own_tools(tmp_path: Path, a_postgres: Postgres, postgres_template: str) -> None:
    url = a_postgres.create(postgres_template)
    programs = postgres.programs()
    with fleet(tmp_path / "data", url) as made:
        admin = made.person(Role.ADMIN)
        admin.post("/groups", name="beta")
        dumped = [programs / "pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}", url]
        subprocess.run(dumped, check=True)
        secret = admin.secret
    new = a_postgres.create(postgres_template)
    restored = [programs / "pg_restore", "--clean", "--if-exists", f"--dbname={new}", tmp_path / "dump"]
    subprocess.run(restored, check=True)
    with fleet(tmp_path / "data", new, is_new=False) as again:
        assert [one["name"] for one in Person(again, secret, 1).get("/groups")["items"]] == ["beta"]
