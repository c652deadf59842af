"""No report is lost or counted twice: with slow clients, in a flood, and while the database is away and comes back."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from tbserver.limits import BODY_SECONDS
from tbserver.records import Device, Report
from tbserver.tokens import digest
from tests.server.harness import fleet
from tests.server.postgres import Postgres
from tests.server.test_processes import program
from tests.server.test_tending import Park

DEVICES, REPORTS, TALKING = 16, 4, 8
# Shorter than a server waits for the rest of a body: whoever waits for a slow client would be too late.
PATIENT = BODY_SECONDS - 5
Load = Callable[[str, int, Postgres], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def slow(host: str, port: int, _: Postgres) -> Iterator[None]:
    """More clients than there are threads, which do not get to the end of what they say."""
    head = b"POST /default/controller/v1/box-000/deploymentBase/1/feedback HTTP/1.1\r\nHost: x\r\n"
    begun = (head, head + b"Authorization: TargetToken token-0\r\nContent-Length: 900\r\n\r\n{")
    with contextlib.ExitStack() as stack:
        for n in range(150):
            client = stack.enter_context(socket.create_connection((host, port)))
            client.sendall(begun[n % 2])
        yield


@contextlib.contextmanager
def flood(host: str, port: int, _: Postgres) -> Iterator[None]:
    """Strangers who try to log in, from ever other addresses, and poll, as fast as they can."""
    stop = threading.Event()

    def shout(number: int) -> None:
        rounds = 0
        while not stop.is_set():
            rounds += 1
            line = http.client.HTTPConnection(host, port, source_address=(f"127.{number + 1}.{rounds % 250}.1", 0))
            with contextlib.suppress(OSError, http.client.HTTPException):
                line.request("GET", "/default/controller/v1/nobody", headers={"Authorization": "TargetToken x"})
                line.getresponse().read()
                said = json.dumps({"name": f"nobody-{rounds}", "password": "x"})
                line.request("POST", "/api/v1/login", said, {"Content-Type": "application/json"})
                line.getresponse().read()
            line.close()

    threads = [threading.Thread(target=shout, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def away(_: str, __: int, database: Postgres) -> Iterator[None]:
    """The database crashes and starts again, twice, while devices report."""

    def crash() -> None:
        for _ in range(2):
            time.sleep(0.5)
            database.stop()
            time.sleep(0.5)
            database.start()

    thread = threading.Thread(target=crash)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def report(line: http.client.HTTPConnection, number: int, action: int, body: dict[str, object]) -> int:
    """Send it until it is taken, as devices do; how often it was not."""
    place = f"/default/controller/v1/box-{number:03}/deploymentBase/{action}/feedback"
    headers = {"Authorization": f"TargetToken token-{number}", "Content-Type": "application/json"}
    failed = 0
    while True:
        try:
            line.request("POST", place, json.dumps(body), headers)
            answer = line.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            line.close()
        else:
            if answer.status == 200:
                return failed
            # Whatever is wrong with the server, it says that it is the server.
            assert answer.status == 503, answer.status
        failed += 1
        time.sleep(0.1)


@pytest.mark.parametrize("load", [slow, flood, away])
def test_no_report_is_lost_nor_counted_twice(
    load: Load, tmp_path: Path, a_postgres: Postgres, postgres_template: str
) -> None:
    url = a_postgres.create(postgres_template)
    with fleet(tmp_path / "data", url) as made:
        park = Park(made, DEVICES)
        with park.database.writing() as session:
            for n, device in enumerate(session.scalars(select(Device).order_by(Device.controller))):
                device.token = digest(f"token-{n}")
        number = park.order({})
        park.tend()
        actions = dict(park.poll())
        made.server.database.close()
        todo: queue.Queue[int] = queue.Queue()
        for n in range(DEVICES):
            todo.put(n)
        sent: list[str] = []
        failed: list[int] = []

        def talk(host: str, port: int) -> None:
            line = http.client.HTTPConnection(host, port, timeout=PATIENT)
            with contextlib.suppress(queue.Empty):
                while True:
                    n = todo.get_nowait()
                    for step in range(REPORTS):
                        name = secrets.token_hex(8)
                        last = step == REPORTS - 1
                        status = {
                            "execution": "closed" if last else "proceeding",
                            "result": {"finished": "success" if last else "none"},
                            "details": [f"step {step}"],
                        }
                        body: dict[str, object] = {"status": status, "report": name}
                        failed.append(report(line, n, actions[f"box-{n:03}"], body))
                        sent.append(name)
            line.close()

        with program(tmp_path / "one", "--database", url, "--delta-makers", "0") as (process, where, log):
            host, port = where.removeprefix("http://").split(":")
            with load(host, int(port), a_postgres):
                threads = [threading.Thread(target=talk, args=(host, int(port))) for _ in range(TALKING)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            assert process.poll() is None
            assert "Traceback" not in log.read_text()
        with made.server.database.reading() as session:
            kept = Counter(session.scalars(select(Report.name)))
        assert (len(sent), kept) == (DEVICES * REPORTS, Counter(sent))
        assert park.stages(number)["installed"] == DEVICES
        park.check_counts()
        # What slow clients and strangers do is no reason to refuse a device.
        assert load is away or not any(failed)
