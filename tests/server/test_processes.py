"""The program itself: it starts, says where to log in, stops gracefully; of two on one database one is killed."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tbdiff.scratch import scratch_directory
from tests.server.harness import fleet
from tests.server.images import Works
from tests.server.test_tending import Park
from tests.server.test_workshop import Depot


@contextlib.contextmanager
def program(
    data: Path, *options: str, command: str = "serve", begun: str = "Uvicorn running"
) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """`tb-server serve` or another, its address, and what it writes."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = data.with_suffix(".log")
    places = ("--data", str(data), "--listen", f"127.0.0.1:{port}")
    # Who runs the tests in the background of a shell lets them ignore SIGINT.
    words = ["env", "--default-signal=INT", sys.executable, "-m", "tbserver", command, *places, *options]
    with log.open("wb") as out, subprocess.Popen(words, stdout=out, stderr=out) as running:
        try:
            while begun not in log.read_text():
                assert running.poll() is None, log.read_text()
                time.sleep(0.05)
            yield running, f"http://127.0.0.1:{port}", log
        finally:
            running.kill()


def test_it_starts_says_where_to_log_in_and_stops_gracefully(tmp_path: Path) -> None:
    with program(tmp_path / "data") as (running, url, log):
        said = log.read_text()
        found = re.search(r"First account: admin, password (\S+)", said)
        assert found
        assert f"Log in at {url}" in said
        answer = httpx2.post(f"{url}/api/v1/login", json={"name": "admin", "password": found[1]})
        assert answer.status_code == 200
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
        for line in log.read_text().splitlines():
            assert line.startswith(("First account", "Log in", "Deltas that")) or json.loads(line)["level"] == "info", (
                line
            )
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_at_a_terminal_it_is_stopped_without_a_word(tmp_path: Path) -> None:
    with program(tmp_path / "data") as (running, _, log):
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
        assert all("info" in line for line in log.read_text().splitlines() if line.startswith("{"))
        assert "tb-server: " not in log.read_text() and "Traceback" not in log.read_text()


def test_a_demo_goes_on_by_itself_and_stops_also_while_somebody_watches(tmp_path: Path) -> None:
    demo = {"command": "demo", "begun": "Log in at"}
    with program(tmp_path / "data", "--devices", "12", **demo) as (running, url, log):
        found = re.search(r"Account: admin, password (\S+)", log.read_text())
        assert found
        with httpx2.Client(transport=httpx2.HTTPTransport(retries=20), base_url=url) as http:
            answer = http.post("/api/v1/login", json={"name": "admin", "password": found[1]})
            cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
            assert http.get("/api/v1/releases", headers=cookie).json()["items"][0]["version"] == "2.0"
            with http.stream("GET", "/rollouts/1/events", headers=cookie, timeout=60) as events:
                lines = events.iter_lines()
                while "devices run it" not in next(lines):
                    pass
                running.send_signal(signal.SIGTERM)
                assert running.wait(60) == 0
                assert "retry: 1000" in list(lines)
        assert "Traceback" not in log.read_text()


def test_who_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tbserver import limits
    from tests.server.live import listening

    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.2)
    with fleet(tmp_path / "data", "") as made, listening(made.server) as url:
        host, port = url.removeprefix("http://").split(":")
        for begun in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n"):
            with socket.create_connection((host, int(port)), timeout=60) as client:
                client.sendall(begun)
                assert client.recv(100) == b""
        with socket.create_connection((host, int(port)), timeout=60) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000 + b"\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert client.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))


def test_two_processes_share_a_database_and_one_is_killed(database_url: str, tmp_path: Path) -> None:
    with fleet(tmp_path / "data", database_url) as made:
        park = Park(made, 10)
        number = park.order({"phases": [{"devices": 3}, {}]})
        options = ("--database", database_url)
        with program(tmp_path / "one", *options) as (one, url, _), program(tmp_path / "two", *options) as (_, other, _):
            await_phase(park, number, waiting=3)
            for controller, action in park.poll():
                park.tell(controller, action, "success", "2.0")
            one.kill()
            # Whichever looked after it, the other goes on with it.
            for controller, action in until(park, 7):
                park.tell(controller, action, "success", "2.0")
            while park.shown(number)["rollout"]["state"] != "finished":
                time.sleep(0.05)
            seen = httpx2.get(f"{other}/api/v1/rollouts", headers={"Authorization": f"Bearer {park.operator.secret}"})
            assert seen.json()["items"][0]["state"] == "finished"
            with pytest.raises(httpx2.TransportError):
                httpx2.get(url)
        park.check_counts()


def await_phase(park: Park, number: int, waiting: int) -> None:
    while park.shown(number)["phases"][0]["waiting"] != waiting or park.shown(number)["rollout"]["state"] != "running":
        time.sleep(0.05)


def until(park: Park, count: int) -> list[tuple[str, int]]:
    """What devices get that ask again and again."""
    got: dict[str, int] = {}
    while len(got) < count:
        got.update(park.poll())
    return list(got.items())


def makers(place: Path) -> dict[int, int]:
    """The processes that make deltas in a directory, and whose children they are."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes()
            if {b"tbserver.confined", b"delta"} <= set(words.split(b"\0")) and bytes(place) in words:
                found[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def test_a_process_is_killed_while_it_makes_a_delta_and_another_one_takes_over(
    database_url: str, tmp_path: Path
) -> None:
    with fleet(tmp_path / "data", database_url) as made:
        depot = Depot(made, Works(tmp_path), v1_0=1, v1_1=1)
        kept = ("--database", database_url, "--artifacts", (tmp_path / "data/artifacts").as_uri())
        options = (*kept, "--delivery-key", str(tmp_path / "data/delivery.key"))
        with program(tmp_path / "one", *options) as (one, _, log):
            while not (children := makers(tmp_path / "one")):
                assert one.poll() is None, log.read_text()
                time.sleep(0.01)
            assert set(children.values()) == {one.pid}
            one.kill()
            # It does not go on alone.
            while makers(tmp_path / "one"):
                time.sleep(0.01)
        (left,) = [one for one in depot.tried() if one.state == "making"]
        assert depot.made() == []
        depot.later()
        with program(tmp_path / "two", *options):
            while len(depot.made()) < 2:
                time.sleep(0.05)
        assert left.base in {one.base for one in depot.made()}
        assert depot.tried() == []
        (left_over,) = (tmp_path / "one/scratch").iterdir()
        with scratch_directory(tmp_path / "one/scratch"):
            assert not left_over.exists()
