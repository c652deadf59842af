"""What the contract of DDI does not say: odd bytes, proxies, several ranges, databases that go away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from tbserver import ranges, tallies
from tbserver.records import Assignment, Device, Rollout
from tbserver.rollout import Stage
from tests.ddi_server import TENANT
from tests.server.live import Live, listening
from tests.server.postgres import Postgres


def live_on(database_url: str) -> Any:
    from tests.server.live import live

    return live(database_url)


@pytest.fixture
def server(database_url: str) -> Iterator[Live]:
    with live_on(database_url) as made:
        yield made


@pytest.fixture
def small(sqlite_template: Any) -> Iterator[Live]:
    with live_on("") as made:
        yield made


class Box:
    """A device."""

    def __init__(self, server: Live, name: str = "box") -> None:
        self.name, self.server = name, server
        self.headers = {"Authorization": f"TargetToken {server.add_device(name)}"}
        self.base = f"{server.url}/{TENANT}/controller/v1/{name}"

    def ask(self, method: str, path: str = "", **said: Any) -> httpx2.Response:
        headers = self.headers | said.pop("headers", {})
        url = path if path.startswith("http") else f"{self.base}{path}"
        return httpx2.request(method, url, headers=headers, timeout=60, **said)

    def links(self) -> dict[str, str]:
        return {name: link["href"] for name, link in self.ask("GET").json()["_links"].items()}

    def close(self, action: str, finished: str = "success") -> int:
        status = {"execution": "closed", "result": {"finished": finished}}
        return self.ask("POST", f"/deploymentBase/{action}/feedback", json={"status": status}).status_code

    def runs(self, release: str) -> None:
        assert self.ask("PUT", "/configData", json={"data": {"release": release}}).status_code == 200

    def stage(self, action: str) -> str:
        with self.server.server.database.reading() as session:
            return session.get_one(Assignment, int(action)).state


def state_of(server: Live, name: str) -> str:
    with server.server.database.reading() as session:
        return session.scalars(select(Device.state).where(Device.controller == name)).one()


def counts(server: Live, action: str) -> dict[str, int]:
    with server.server.database.reading() as session:
        one = session.get_one(Assignment, int(action))
        return tallies.read(session, one.tenant_id, tallies.stages_of(one.rollout_id, one.phase))


def test_success_counts_from_what_the_device_says_it_runs(server: Live) -> None:
    box = Box(server)
    box.runs("1.0")
    action = server.add_action("box", {"x": b"x"}, version="2.0")
    assert "deploymentBase" in box.links()
    assert state_of(server, "box") == "updating"
    assert box.close(action) == 200
    assert (box.stage(action), counts(server, action)) == ("installed", {"installed": 1})
    assert "deploymentBase" not in box.links()
    assert box.close(action) == 410
    box.runs("1.0")
    assert box.stage(action) == "installed"
    box.runs("2.0")
    assert (box.stage(action), counts(server, action)) == ("succeeded", {"succeeded": 1})
    assert state_of(server, "box") == "idle"


def test_what_a_device_says_of_its_tree_and_its_health_is_kept(server: Live) -> None:
    box = Box(server)

    def known() -> tuple[str, str]:
        with server.server.database.reading() as session:
            row = session.scalars(select(Device).where(Device.controller == "box")).one()
            return row.tree, row.health

    tree = "1f" * 32
    for said, found in (
        ({"release": "1.0", "tree": tree, "health": "degraded"}, (tree, "degraded")),
        ({"release": "1.0", "tree": "odd", "health": "x" * 100}, (tree, "x" * 16)),
        ({"release": "1.1"}, ("", "")),
    ):
        assert box.ask("PUT", "/configData", json={"mode": "replace", "data": said}).status_code == 200
        # It says so in two ways, of which one knows no trees.
        box.ask("PUT", "/installedBase", json={"name": "demo", "version": said["release"]})
        assert known() == found


def test_nobody_is_asked_where_a_device_said_so(server: Live) -> None:
    box = Box(server)
    first = server.add_action("box", {"x": b"x"}, confirm=True)
    said = box.ask("GET", "/confirmationBase").json()
    assert said["autoConfirm"] == {"active": False}
    assert set(said["_links"]) == {"activateAutoConfirm", "confirmationBase"}
    assert said["_links"]["confirmationBase"]["href"] == box.links()["confirmationBase"]
    activate = said["_links"]["activateAutoConfirm"]["href"]
    assert box.ask("POST", activate, content=b"[]").status_code == 400
    assert box.ask("POST", activate, headers={"Authorization": "TargetToken another"}).status_code == 401
    # What a person is asked about just now is agreed to; a second time is no fault.
    for who in ({"initiator": "anna", "remark": "nobody is there\0"}, {"initiator": "berta"}):
        assert box.ask("POST", activate, json=who).status_code == 200
    assert (box.stage(first), "deploymentBase" in box.links()) == (Stage.OFFERED, True)
    assert server.told(first) == ["nobody is asked there any more by anna nobody is there\ufffd"]
    said = box.ask("GET", "/confirmationBase").json()
    assert (said["autoConfirm"]["active"], said["autoConfirm"]["initiator"]) == (True, "berta")
    assert abs(said["autoConfirm"]["activatedAt"] - time.time() * 1000) < 600_000
    assert set(said["_links"]) == {"deactivateAutoConfirm"}
    assert box.close(first) == 200
    second = server.add_action("box", {"x": b"y"}, confirm=True)
    assert "deploymentBase" in box.links()
    assert box.close(second) == 200
    assert box.ask("POST", said["_links"]["deactivateAutoConfirm"]["href"]).status_code == 200
    server.add_action("box", {"x": b"z"}, confirm=True)
    assert "confirmationBase" in box.links()


def test_a_device_that_failed_shows_it_and_is_counted(server: Live) -> None:
    box = Box(server)
    action = server.add_action("box", {"x": b"x"})
    assert box.close(action, "failure") == 200
    assert (box.stage(action), counts(server, action), state_of(server, "box")) == ("failed", {"failed": 1}, "failed")


def test_the_later_rollout_comes_first_and_the_earlier_is_left(server: Live) -> None:
    box = Box(server)
    busy = server.add_action("box", {"x": b"x"})
    first, second = server.add_action("box", {"y": b"y"}), server.add_action("box", {"z": b"z"})
    assert f"/{busy}?" in box.links()["deploymentBase"]
    assert box.stage(second) == "waiting"
    box.close(busy)
    assert f"/{second}?" in box.links()["deploymentBase"]
    assert (box.stage(first), counts(server, first)) == ("left", {"left": 1})


def test_who_failed_is_offered_it_again_as_planned(server: Live) -> None:
    box = Box(server)
    action = server.add_action("box", {"x": b"x"})
    with server.server.database.writing() as session:
        row = session.scalars(select(Rollout)).one()
        row.plan = row.plan | {"retries": 1}
    first = box.links()["deploymentBase"]
    box.close(action, "failure")
    assert box.stage(action) == "waiting"
    assert box.close(action, "failure") == 410
    again = box.links()["deploymentBase"]
    assert again != first
    box.close(action, "failure")
    assert box.stage(action) == "failed"


ODD = {
    "nul": b'{"status": {"execution": "proceeding", "details": ["a\\u0000b"], "result": {"finished": "none"}}}',
    "control": b'{"status": {"execution": "proceeding", "details": ["a\x01\x1b[2Jb"], "result": {"finished": "none"}}}',
    "code": b'{"status": {"execution": "proceeding", "code": 99999999999999999999999, "result": {"finished": "none"}}}',
    "minus": b'{"status": {"execution": "proceeding", "code": -9223372036854775809, "result": {"finished": "none"}}}',
    "emoji": '{"status": {"execution": "proceeding", "details": ["🚀"], "result": {"finished": "none"}}}'.encode(),
    "long": json.dumps(
        {"status": {"execution": "proceeding", "details": ["x" * 4000] * 900, "result": {"finished": "none"}}}
    ).encode(),
}
WRONG = {
    "surrogate": b'{"status": {"execution": "proceeding", "details": ["\\ud800"], "result": {"finished": "none"}}}',
    "utf-8": b'{"status": {"execution": "proceeding", "details": ["\xff"], "result": {"finished": "none"}}}',
    "nothing": b"",
    "list": b"[]",
    "deep": b"[" * 100_000,
    "number": b"1" * 10_000,
    "word": b'{"status": {"execution": "exploded", "result": {"finished": "none"}}}',
}


def test_no_report_breaks_anything(server: Live) -> None:
    box = Box(server)
    action = server.add_action("box", {"x": b"x"})
    for name, raw in ODD.items():
        status = box.ask("POST", f"/deploymentBase/{action}/feedback", content=raw).status_code
        # Too many bytes are refused as that; all else is taken.
        assert status == (413 if len(raw) > 1 << 20 else 200), name
    for name, raw in WRONG.items():
        assert box.ask("POST", f"/deploymentBase/{action}/feedback", content=raw).status_code == 400, name
        assert box.ask("PUT", "/configData", content=raw).status_code == 400, name
    for path in ("x", "-1", "٣", "9" * 40, "1e3"):
        assert box.ask("POST", f"/deploymentBase/{path}/feedback", content=ODD["nul"]).status_code == 404, path
    assert box.ask("PUT", "/configData", json={"data": {"a\0": "b\0", "c": "x" * 4000}}).status_code == 200
    assert server.attributes("box") == {"a\ufffd": "b\ufffd", "c": "x" * 128}
    assert box.ask("PUT", "/configData", json={"data": {"k" * 129: "v"}}).status_code == 400
    assert box.ask("PUT", "/configData", json={"data": {f"{n}": "v" for n in range(201)}}).status_code == 400
    assert box.close(action) == 200


def test_bodies_may_come_in_chunks_of_unknown_length(small: Live) -> None:
    box = Box(small)

    def pieces() -> Iterator[bytes]:
        yield b'{"data": {"a"'
        yield b': "1"}}'

    assert box.ask("PUT", "/configData", content=pieces()).status_code == 200
    assert small.attributes("box") == {"a": "1"}

    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 65536

    assert box.ask("PUT", "/configData", content=endless()).status_code == 413


def test_a_certificate_counts_only_from_a_proxy_that_was_named(sqlite_template: Any, tmp_path: Any) -> None:
    import ipaddress

    from tbserver.server import open_server
    from tbserver.settings import Settings

    for trusted in (True, False):
        network = ipaddress.ip_network("127.0.0.1" if trusted else "192.0.2.0/24")
        server, _ = open_server(Settings(data=tmp_path / str(trusted), proxies=(network,)))
        with listening(server) as url:
            made = Live(server, url)
            made.add_device("box")
            base = f"{url}/{TENANT}/controller/v1"
            statuses = [
                httpx2.get(f"{base}/{name}", headers={"X-Controller-Id": said}).status_code
                for name, said in (("box", "box"), ("box", "other"), ("other", "other"), ("box", ""))
            ]
            assert statuses == [200 if trusted else 401, 401, 401, 401]
            forwarded = {"X-Forwarded-Proto": "https", "X-Controller-Id": "box"}
            if trusted:
                links = httpx2.get(f"{base}/box", headers=forwarded).json()["_links"]
                assert links["configData"]["href"].startswith("https://127.0.0.1")
        server.database.close()


def test_a_device_that_was_revoked_is_unknown(small: Live) -> None:
    box = Box(small)
    assert box.ask("GET").status_code == 200
    with small.server.database.writing() as session:
        session.scalars(select(Device)).one().revoked = True
    assert box.ask("GET").status_code == 401
    box.headers = {"Authorization": f"GatewayToken {small.gateway_token}"}
    assert box.ask("GET").status_code == 401


@pytest.mark.parametrize("name", ["a b", "a%00b", "-a", "a%2Fb", "x" * 129, "ü", "a%0ab"])
def test_a_gateway_registers_no_device_of_an_impossible_name(small: Live, name: str) -> None:
    url = f"{small.url}/{TENANT}/controller/v1/{name}"
    status = httpx2.get(url, headers={"Authorization": f"GatewayToken {small.gateway_token}"}).status_code
    assert status in (401, 404)
    with small.server.database.reading() as session:
        assert session.scalars(select(Device.id)).all() == []


def test_many_polls_of_a_new_device_register_it_once(server: Live) -> None:
    url = f"{server.url}/{TENANT}/controller/v1/new"
    statuses: list[int] = []

    def poll() -> None:
        answer = httpx2.get(url, headers={"Authorization": f"GatewayToken {server.gateway_token}"}, timeout=60)
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=poll) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 8
    with server.server.database.reading() as session:
        assert len(session.scalars(select(Device.id)).all()) == 1
        assert sum(tallies.read(session, server.tenant_id, tallies.DEVICES).values()) == 1


IMAGE = bytes(range(256)) * 16


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-9", [range(10)]),
        ("bytes=0-9,20-29", [range(10), range(20, 30)]),
        ("bytes=90-", [range(90, 100)]),
        ("bytes=-10", [range(90, 100)]),
        ("bytes=-1000", [range(100)]),
        ("bytes=100-", []),
        ("bytes=-0", []),
        ("bytes=5-4", None),
        ("bytes=a-b", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("lines=0-9", None),
        ("bytes=0-99,0-99", None),
        ("bytes=" + ",".join(["0-0"] * 17), None),
        ("bytes=0-" + "9" * 30, None),
    ],
)
def test_ranges(header: str | None, expected: list[range] | None) -> None:
    assert ranges.wanted(header, None, ("x",), 100) == expected
    assert ranges.wanted(header, "y", ("x",), 100) is None


def test_several_parts_at_once(small: Live) -> None:
    box = Box(small)
    small.add_action("box", {"a name.tbdiff": IMAGE})
    said = box.ask("GET", box.links()["deploymentBase"]).json()
    href = said["deployment"]["chunks"][0]["artifacts"][0]["_links"]["download"]["href"]
    answer = box.ask("GET", href, headers={"Range": "bytes=0-9,100-109"})
    assert answer.status_code == 206
    boundary = answer.headers["content-type"].partition("boundary=")[2]
    parts = answer.content.split(f"--{boundary}".encode())
    assert [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts[1:-1]] == [
        IMAGE[:10],
        IMAGE[100:110],
    ]
    assert parts[-1] == b"--\r\n"
    tag = answer.headers["etag"]
    assert box.ask("GET", href, headers={"If-None-Match": tag}).status_code == 304
    head = box.ask("HEAD", href, headers={"Range": "bytes=0-9"})
    assert (head.headers["content-length"], head.content) == (str(len(IMAGE)), b"")
    stranger = Box(small, "stranger")
    assert stranger.ask("GET", href.replace("/box/", "/stranger/")).status_code == 404


def test_a_report_outlives_a_database_that_goes_away(a_postgres: Postgres, postgres_template: str) -> None:
    with live_on(a_postgres.create(postgres_template)) as server:
        box = Box(server)
        action = server.add_action("box", {"x": b"x"})
        box.links()
        a_postgres.stop()
        statuses: list[int] = []
        thread = threading.Thread(target=lambda: statuses.append(box.close(action)))
        thread.start()
        time.sleep(0.3)
        a_postgres.start()
        thread.join()
        assert statuses == [200]
        assert box.stage(action) == Stage.SUCCEEDED
