"""A real PostgreSQL of our own: in a temporary directory, on a socket there, gone at the end."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests import memory

USER = "postgres"


def programs() -> Path:
    """The directory with `initdb` and `postgres` of the newest PostgreSQL that is installed."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    if not found:
        raise AssertionError("these tests need PostgreSQL: apt-get install postgresql")
    return Path(found[-1]).parent


def _as_owner() -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["setpriv", "--reuid", USER, "--regid", USER, "--init-groups", "--"] if os.geteuid() == 0 else []


@dataclass
class Postgres:
    """A running server: `start` and `kill` it, `create` a database in it."""

    place: Path
    process: subprocess.Popen[bytes] | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, name: str) -> str:
        return f"postgresql://{USER}@/{name}?host={self.place}"

    def create(self, template: str = "template1") -> str:
        """A database of its own, as a copy; its address."""
        name = f"db{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return self.url(name)

    def start(self) -> None:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": self.place,
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": 300,
            "shared_buffers": "64MB",
        }
        said = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        log = (self.place / "log").open("ab")
        self.process = subprocess.Popen(
            [*_as_owner(), programs() / "postgres", "-D", self.place / "data", *said], stdout=log, stderr=log
        )
        log.close()
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url("postgres")).close()
                return
            if self.process.poll() is not None:
                raise AssertionError((self.place / "log").read_text())
            time.sleep(0.05)

    def stop(self) -> None:
        """Immediately, as in a crash."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """A PostgreSQL that runs until the end."""
    place = memory.directory("pg-")
    try:
        if os.geteuid() == 0:
            shutil.chown(place, pwd.getpwnam(USER).pw_uid)
        subprocess.run(
            [*_as_owner(), programs() / "initdb", "-U", USER, "--no-sync", "-A", "trust", "-D", place / "data"],
            check=True,
            capture_output=True,
            cwd="/",
        )
        server = Postgres(place)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(place)
