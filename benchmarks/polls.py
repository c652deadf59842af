"""`python -m benchmarks.polls [POLLS]`: what a server needs to answer 100,000 devices, and how soon it does."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import insert

from tbserver import database, tallies
from tbserver.database import Database
from tbserver.records import Device, Tenant
from tbserver.tokens import digest
from tests.server import postgres

DEVICES, PART, TALKING = 100_000, 5000, 8
PLACE = "/default/controller/v1/box-{}"


@dataclass(frozen=True)
class Answered:
    """What so many polls cost: processor time of the server, its memory, and how long each took, in seconds."""

    polls: int
    cpu: float
    memory: int
    taken: list[float]


def main() -> None:
    """Measure over both databases."""
    polls = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    print(f"{DEVICES:,} devices; {TALKING} connections that are never idle")
    with tempfile.TemporaryDirectory(prefix="tb-bench-", dir="/var/tmp") as place:
        _measure("SQLite", f"sqlite:///{place}/records.sqlite", Path(place, "a"), polls)
        with postgres.running() as server:
            _measure("PostgreSQL", server.create(), Path(place, "b"), polls)


def _measure(name: str, url: str, data: Path, polls: int) -> None:
    _register(url)
    with _serving(url, data) as (process, port):
        # Compiled queries, filled caches.
        _ask(port, process, 200)
        found = _ask(port, process, polls)
    half, most = statistics.quantiles(found.taken, n=100)[49], statistics.quantiles(found.taken, n=100)[98]
    rate = found.polls / found.cpu
    polled = f"a poll each five minutes: {rate * 300:,.0f} devices a core"
    print(
        f"{name:10} {rate:5.0f} polls per CPU second, {found.memory >> 20:4} MiB, "
        f"median {half * 1000:.1f} ms, p99 {most * 1000:.1f} ms; {polled}",
        flush=True,
    )


def _register(url: str) -> None:
    records = Database(url)
    database.migrate(records)
    now = int(time.time())
    with records.writing() as session:
        session.add(Tenant(name="default", created=now))
        session.flush()
        known = {"tenant_id": 1, "state": "idle", "release": "1.0", "wants": False, "created": now, "seen": now}
        for begin in range(0, DEVICES, PART):
            numbers = range(begin, begin + PART)
            rows = [known | {"controller": f"box-{n}", "token": digest(f"token-{n}")} for n in numbers]
            session.execute(insert(Device), rows)
        tallies.add(session, 1, tallies.DEVICES, {"idle": DEVICES})
        tallies.add(session, 1, tallies.RELEASES, {"1.0": DEVICES})
    records.close()


@contextlib.contextmanager
def _serving(url: str, data: Path) -> Iterator[tuple[int, int]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = ["serve", "--data", str(data), "--database", url, "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen([sys.executable, "-m", "tbserver", *words], stderr=subprocess.DEVNULL) as running:
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            yield running.pid, port
        finally:
            running.terminate()


def _ask(port: int, process: int, polls: int) -> Answered:
    taken: list[float] = []
    before = _spent(process)

    def talk(number: int) -> None:
        chance = random.Random(number)
        line = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(polls // TALKING):
            device = chance.randrange(DEVICES)
            begun = time.perf_counter()
            line.request("GET", PLACE.format(device), headers={"Authorization": f"TargetToken token-{device}"})
            answer = line.getresponse()
            said = answer.read()
            taken.append(time.perf_counter() - begun)
            assert answer.status == 200, said
        line.close()

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(TALKING)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Answered(len(taken), _spent(process) - before, _memory(process), taken)


def _spent(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
