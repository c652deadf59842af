"""The device's end of DDI against servers that do what they like: nothing lasts or leaks, all is told once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tbdiff.errors import Failed, NothingToDo, Rejected
from tbdiff.line import Line
from tbdiff.signature import KeyRing
from tbupdate import dropins, exchange, health, identity, inventory, orders, spool, standing
from tbupdate.config import Config, Server
from tbupdate.contact import Contact, Seen, Watch, WithdrawnError
from tbupdate.ddi import Client
from tbupdate.marks import Marks
from tbupdate.protocol import MESSAGE_MAX, Deployment, Link, Poll, read
from tbupdate.record import Record
from tbupdate.spool import Spool, report
from tbupdate.standing import Standing, Work
from tbupdate.system import Deployment as Kept
from tbupdate.system import Subvolume, System
from tbupdate.trusted import Trusted
from tests import faults
from tests.certificates import Authority
from tests.ddi_server import TENANT, Answer, Double, Request, double, serving

NAME = "kiosk-7"
NO_KEYS = Trusted(KeyRing((), ()))
HOUR = 3600


@pytest.fixture
def server() -> Iterator[Double]:
    with double() as made:
        yield made


@pytest.fixture
def client(server: Double, tmp_path: Path) -> Client:
    return client_of(server, tmp_path)


def client_of(server: Double, place: Path, **more: Any) -> Client:
    token = place / "token"
    token.write_text(server.add_device(NAME))
    token.chmod(0o600)
    said = {"url": server.url, "tenant": TENANT, "id": NAME, "token_file": str(token)} | more
    account = identity.account(Server.model_validate(said), str(place))
    return Client(account, Line(origins=frozenset({account.identity.origin}), identity=account.identity))


def contact_of(client: Client, place: Path, clock: list[float]) -> Contact:
    return Contact(str(place), client, Config(), NO_KEYS, clock=lambda: clock[0])


EMPTY = Seen(System(default_id=5))


@pytest.mark.parametrize(
    "raw",
    [
        *(
            b"",
            b"[]",
            b"{",
            b"null",
            b'"x"',
            b"[" * 100_000,
            b'{"_links": 5}',
            b'{"config": {"polling": {"sleep": "1"}}}',
        ),
        *(
            b'{"config": {"polling": {"sleep": "24:00:00"}}}',
            b'{"_links": {"deploymentBase": {"href": "file:///etc"}}}',
        ),
        *(
            b'{"_links": {"deploymentBase": {"href": "http://a/ b"}}}',
            b'{"_links": {"deploymentBase": {"href": 5}}}',
            b"\xff",
        ),
        b'{"_links": {"deploymentBase": {"href": "http://a/%s"}}}' % (b"x" * 5000),
        b'{"x": "%s"}' % (b"x" * MESSAGE_MAX),
    ],
)
def test_what_is_no_poll(raw: bytes) -> None:
    with pytest.raises(ValueError):
        read(Poll, raw)


@pytest.mark.parametrize("number", ["2147483648", "-1", "x", "", "1.5", "99999999999", True, None, 1.5])
def test_what_is_no_action(number: Any) -> None:
    with pytest.raises(ValueError):
        read(Deployment, json.dumps({"id": number, "deployment": {}}).encode())


def test_what_is_new_in_a_message_is_passed_over() -> None:
    assert (
        read(Poll, b'{"new": {"a": [1]}, "config": {"polling": {"sleep": "00:00:01", "b": 2}}}').config.polling.seconds
        == 30
    )
    assert (
        read(Deployment, b'{"id": 8, "deployment": {"chunks": [{"part": "os", "name": "a", "version": "1"}]}}').id
        == "8"
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(500), "500"),
        (Answer(401), "does not know this device"),
        (Answer(200, b"<html>"), "no poll"),
        (Answer(200, b"x" * (MESSAGE_MAX + 1)), "more than belongs there"),
        (Answer(200, b"{}", {"Content-Length": "100"}), "cut"),
        (Answer(200, b"{}", {"Content-Encoding": "gzip"}), "another form"),
        (Answer(302, b"", {"Location": "http://127.0.0.1:1/x"}), "sends us to"),
        (Answer(302, b"", {"Location": "file:///etc/passwd"}), "302|do not go"),
        (Answer(204), "204"),
        (Answer(200, pieces=iter([b"["] * 5000)), "no poll"),
    ],
)
def test_answers_that_are_none(server: Double, client: Client, answer: Answer, why: str) -> None:
    server.fault = lambda request: answer
    with pytest.raises(Failed, match=why):
        client.poll()


def test_a_drip_has_an_end(server: Double, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte comes in time, and still all of it does not."""
    monkeypatch.setattr(exchange, "DEADLINE", 0.5)

    def drip() -> Iterator[bytes]:
        while True:
            yield b" "
            time.sleep(0.02)

    server.fault = lambda request: Answer(200, pieces=drip())
    with pytest.raises(Failed, match=r"too long|timed out"):
        client.poll()


def test_a_body_without_an_end_is_not_read_to_it(server: Double, client: Client) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 16
            yield bytes(1 << 16)

    server.fault = lambda request: Answer(200, pieces=endless())
    with pytest.raises(Failed, match="more than belongs there"):
        client.poll()
    assert sent < 64 << 20


def test_a_token_goes_nowhere_else(server: Double, client: Client) -> None:
    with double() as other:
        server.fault = lambda request: Answer(307, b"", {"Location": f"{other.url}/x"})
        with pytest.raises(Failed):
            client.poll()
        href = f"{other.url}/{TENANT}/controller/v1/{NAME}/deploymentBase/7"
        with pytest.raises(Failed, match="another server"):
            client.deployment(Link(href=href))
        # A place that may lead elsewhere does not take it along.
        server.fault = lambda request: Answer(302, b"", {"Location": f"{other.url}/x"})
        with suppress(Failed):
            replace(client, line=replace(client.line, origins=None)).poll()
        assert [one.headers.get("authorization") for one in other.asked] == [None]
    # Within the server it does.
    server.fault = lambda request: (
        Answer(302, b"", {"Location": f"{server.url}/{TENANT}/controller/v1/{NAME}"})
        if "elsewhere" in request.path
        else None
    )
    moved = replace(client, account=replace(client.account, base=f"{server.url}/elsewhere"))
    assert moved.poll().links.config_data is not None


def test_certificates(tmp_path: Path) -> None:
    good, bad = (Authority(made) for made in (tmp_path / "good", tmp_path / "bad") if not made.mkdir())
    with double(good.server("localhost")) as server:
        client = client_of(server, tmp_path, ca=str(good.path))
        assert client.poll().links.config_data is not None
        for ca in (str(bad.path), ""):
            asked = len(server.asked)
            with pytest.raises(Failed, match="certificate"):
                client_of(server, tmp_path, ca=ca).poll()
            # It does not try again without.
            assert len(server.asked) == asked
    with pytest.raises(Failed, match="cannot be used"):
        client_of(server, tmp_path, ca=str(tmp_path / "token"))
    own = good.issue("kiosk-7")
    own.chmod(0o640)
    with pytest.raises(Rejected, match="holds a key"):
        client_of(server, tmp_path, ca=str(good.path), certificate=str(own), key=str(own))
    with pytest.raises(Failed, match="cannot be used"):
        client_of(server, tmp_path, ca=str(good.path), certificate=str(own), key=str(tmp_path / "none"))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"url": "http://fleet.example.org"}, {"url": "ftp://x"}, {"url": "https://"}, {"url": "https://u:p@x"}),
        *({"url": "https://x?y"}, {"id": "a/b"}, {"id": ".."}, {"tenant": ""}, {"tenant": "a b"}),
        *({"certificate": "/x"}, {"key": "/x"}, {"token_file": "/a", "gateway_token_file": "/b"}),
        *({"url": "http://127.0.0.1", "ca": "/x"}, {"commands": ["reboot"]}, {"odd": 1}),
    ],
)
def test_a_server_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Server.model_validate({"url": "https://fleet.example.org"} | wrong)


def test_a_token_is_for_root_alone(tmp_path: Path) -> None:
    place = tmp_path / "token"
    place.write_text("a-token-of-mine\n")
    for mode in (0o644, 0o640, 0o620):
        place.chmod(mode)
        with pytest.raises(Rejected, match="others than root"):
            identity.read_token(str(place))
    place.chmod(0o400)
    assert identity.read_token(str(place)) == "a-token-of-mine"
    place.chmod(0o600)
    for junk in (b"", b"two words", b"x\r\nInjected: y", b"\xff" * 20, b"x" * 600):
        place.write_bytes(junk)
        with pytest.raises(Failed, match="no token"):
            identity.read_token(str(place))
    with pytest.raises(Failed):
        identity.read_token(str(tmp_path / "none"))


def test_the_name_of_a_device_does_not_tell_its_machine_id(tmp_path: Path) -> None:
    place = tmp_path / "machine-id"
    place.write_text("0123456789abcdef" * 2 + "\n")
    name = identity.device_id(str(place))
    assert name == identity.device_id(str(place))
    assert len(name) == 32
    assert name not in place.read_text()
    for junk in ("", "uninitialized", "0" * 31):
        place.write_text(junk)
        with pytest.raises(Rejected, match="no machine id"):
            identity.device_id(str(place))


def test_an_enrolment_that_was_cut_goes_on_with_the_same_token(server: Double, tmp_path: Path) -> None:
    once = server.add_enrolment("new-1")
    said = Server(url=server.url, tenant=TENANT, id="new-1")
    account = identity.enrolling(said, once)
    client = Client(account, Line(identity=account.identity))
    first = identity.begin(said, str(tmp_path))
    client.enrol(first.token)
    # The answer was lost, and the device knows nothing of it.
    assert identity.begin(said, str(tmp_path)) == first
    client.enrol(first.token)
    with pytest.raises(Rejected, match="does not take this token"):
        client.enrol("another-token-of-a-thief")
    # Until that is known, it is not shown.
    with pytest.raises(Rejected, match="nothing to show"):
        identity.account(said, str(tmp_path))
    identity.write(str(tmp_path), first.model_copy(update={"done": True}))
    # And never to another server.
    with pytest.raises(Rejected, match="nothing to show"):
        identity.account(said.model_copy(update={"url": "https://other.example.org"}), str(tmp_path))
    assert identity.account(said, str(tmp_path)).identity.headers["Authorization"].endswith(first.token)


def test_a_server_that_is_down_for_an_hour_is_asked_a_few_times(server: Double, client: Client, tmp_path: Path) -> None:
    """As often as an impatient timer starts us: every ten seconds."""
    clock = [1_800_000_000.0]
    server.fault = lambda request: Answer(503)
    for _ in range(HOUR // 10):
        with pytest.raises(Failed):
            # What a run knew is gone; what is on the disk counts.
            contact_of(client, tmp_path, clock).meet(EMPTY)
        clock[0] += 10
    assert 4 <= len(server.asked) <= 8
    server.fault = lambda request: None
    clock[0] += 1.3 * HOUR
    server.asked.clear()
    assert contact_of(client, tmp_path, clock).meet(EMPTY) is None
    assert standing.read(str(tmp_path)).failures == 0


@pytest.mark.parametrize("year", [0, 4_102_444_800])
def test_a_clock_that_was_wrong_holds_nobody_up(server: Double, client: Client, tmp_path: Path, year: float) -> None:
    """The clock stands in 1970 or 2100 while the server is away, and is put right."""
    clock = [year]
    server.fault = lambda request: Answer(503)
    for _ in range(3):
        with pytest.raises(Failed):
            contact_of(client, tmp_path, clock).meet(EMPTY)
    server.fault = lambda request: None
    clock[0] = 1_800_000_000
    contact_of(client, tmp_path, clock).meet(EMPTY)


@pytest.mark.parametrize(
    "junk", [b"", b"[]", b'{"again": 1e300}', b'{"failures": -1}', b'{"command": "x"}', os.mkfifo, os.mkdir]
)
def test_what_is_kept_of_a_server_may_be_damaged(tmp_path: Path, junk: Any) -> None:
    for name in (standing.PLACE, identity.PLACE):
        place = tmp_path / name
        place.write_bytes(junk) if isinstance(junk, bytes) else junk(place)
    assert standing.read(str(tmp_path)) == Standing()
    assert identity.read(str(tmp_path)) is None


def test_reports_are_delivered_once_and_in_order(server: Double, client: Client, tmp_path: Path) -> None:
    action = server.add_action(NAME, {})
    kept = Spool(str(tmp_path))
    for n in range(5):
        kept.add(report(action, "proceeding", "none", [f"{n}"], 0))
    server.fault = lambda request: Answer(500) if len(server.asked) > 2 else None
    with pytest.raises(Failed):
        kept.deliver(client)
    server.fault = lambda request: None
    # In another run; one that was delivered, and could not be removed, comes twice and counts once.
    again = Spool(str(tmp_path))
    name = sorted(os.listdir(tmp_path / spool.PLACE))[0]
    twice = (tmp_path / spool.PLACE / name).read_bytes()
    again.add(report(action, "closed", "success", ["end"], 0))
    again.deliver(client)
    (tmp_path / spool.PLACE / name).write_bytes(twice)
    server.actions[action].state = "open"
    again.deliver(client)
    assert server.told(action) == ["0", "1", "2", "3", "4", "end"]
    assert again.waiting() == 0


@pytest.mark.parametrize(
    ("status", "left"), [(404, 0), (410, 0), (400, 0), (413, 0), (401, 2), (429, 2), (500, 2), (302, 2)]
)
def test_a_report_that_nobody_wants_stands_in_nobodys_way(
    server: Double, client: Client, tmp_path: Path, status: int, left: int
) -> None:
    kept = Spool(str(tmp_path))
    kept.add(report("7", "proceeding", "none", ["x"], 0))
    kept.add(report("7", "closed", "success", ["x"], 0))
    server.fault = lambda request: Answer(status)
    with suppress(Failed):
        kept.deliver(client)
    assert kept.waiting() == left


def test_of_too_many_reports_those_stay_that_end_an_action(tmp_path: Path) -> None:
    kept = Spool(str(tmp_path))
    kept.add(report("1", "closed", "success", ["end"], 0))
    for n in range(spool.KEPT_MAX + 20):
        kept.add(report("2", "proceeding", "none", [f"{n}" * 600] * 90, 0))
    names = os.listdir(tmp_path / spool.PLACE)
    assert len(names) == spool.KEPT_MAX
    assert any("-end" in name for name in names)
    assert max((tmp_path / spool.PLACE / name).stat().st_size for name in names) < spool.REPORT_MAX


def test_reports_that_are_damaged_or_strange_are_left_out(server: Double, client: Client, tmp_path: Path) -> None:
    action = server.add_action(NAME, {})
    kept = Spool(str(tmp_path))
    kept.add(report(action, "proceeding", "none", ["good", "\x1b[2J \udcff \ud800"], 0))
    place = tmp_path / spool.PLACE
    (place / "00000000.json").write_bytes(b"{")
    (place / "00000002.json").write_text(json.dumps({"kind": "../x", "action": "1", "feedback": {}}))
    (place / "README").write_text("mine")
    kept.deliver(client)
    assert server.told(action) == ["good", "\x1b[2J \\udcff \\ud800"]
    assert os.listdir(place) == ["README"]


def test_without_room_reports_are_still_told(server: Double, client: Client, tmp_path: Path) -> None:
    action = server.add_action(NAME, {})
    # Not a directory: nothing can be kept in it, as on a disk that is full.
    (tmp_path / spool.PLACE).write_text("")
    kept = Spool(str(tmp_path))
    for n in range(3):
        kept.add(report(action, "proceeding", "none", [f"{n}"], 0))
    kept.deliver(client)
    assert server.told(action) == ["0", "1", "2"]


def tree(number: int) -> str:
    return f"{number:064}"


def kept(name: str, number: int, **more: Any) -> Kept:
    at = int(name[-1], 16)
    volume = Subvolume(name, 256 + at, bytes([at]) * 16, bytes(16), True)
    root = Subvolume(f"{name}.root", 300 + at, bytes([100 + at]) * 16, volume.uuid, False)
    return Kept(name, volume, Record(id=name, created="", tree=tree(number), release=f"{number}.0", **more), (root,))


ONE, TWO = kept("1.0-aaaaa1", 1), kept("2.0-aaaaa2", 2)


def system(boots: Kept, runs: Kept | None, good: Kept, **marked: Any) -> System:
    volumes = {one.name: one for held in (ONE, TWO) for one in (held.subvolume, *held.roots)}
    marks = Marks(good=good.id, committed={ONE.id: "then"} | ({TWO.id: "then"} if good == TWO else {}), **marked)
    booted = runs.roots[0].id if runs else None
    return System(boots.roots[0].id, booted, subvolumes=volumes, deployments=(ONE, TWO), marks=marks)


@pytest.mark.parametrize(
    ("found", "finished", "said"),
    [
        (system(TWO, ONE, ONE), "none", "boots next"),
        (system(TWO, TWO, ONE), "none", "on trial"),
        (system(TWO, TWO, TWO), "success", "committed"),
        # It was good, and the device was sent elsewhere since: it runs all the same.
        (system(ONE, TWO, TWO), "success", "committed"),
        (system(ONE, ONE, ONE, bad={TWO.id: "it leaks"}), "failure", "it leaks"),
        (system(ONE, ONE, ONE, failed=f"{tree(2)} then"), "failure", "failed here before"),
        (system(ONE, ONE, ONE), None, ""),
        (system(TWO, None, ONE), "none", "not committed"),
        (system(TWO, None, TWO), "success", "committed"),
    ],
)
def test_how_an_order_stands(found: System, finished: str | None, said: str) -> None:
    verdict = orders.judge(found, tree(2), {"id": TWO.id, "log": ["last words"]})
    assert (verdict and verdict.finished) == finished
    assert said in " ".join(verdict.lines if verdict else ())
    assert ("last words" in (verdict.lines if verdict else ())) == ("leaks" in said)


def test_where_a_server_may_send_a_device_back(client: Client) -> None:
    here = system(TWO, TWO, TWO)
    assert orders.back_to(here, "1.0", Config()) == ONE
    for rules in (
        {"upgrade": {"exactly": "2.0"}},
        {"upgrade": {"at_most": "0.5"}},
        {"server": {"commands": ["postpone"]}},
    ):
        with pytest.raises(Rejected):
            orders.back_to(here, "1.0", Config.model_validate(rules))
    with pytest.raises(Rejected, match="epoch"):
        orders.back_to(replace(here, marks=replace(here.marks, epoch=3)), "1.0", Config())
    with pytest.raises(Rejected, match="not kept"):
        orders.back_to(replace(here, marks=replace(here.marks, bad={ONE.id: "x"})), "1.0", Config())


def test_success_is_told_only_of_what_runs_and_was_committed(server: Double, client: Client, tmp_path: Path) -> None:
    action = server.add_action(NAME, {})
    standing.write(str(tmp_path), Standing(work=Work(action=action, tree=tree(2))))
    clock = [1_800_000_000.0]
    for found in (system(TWO, ONE, ONE), system(TWO, TWO, ONE)):
        contact = contact_of(client, tmp_path, clock)
        contact._settle(Seen(found))
        contact.finish()
        assert server.state(action) == "open"
    contact_of(client, tmp_path, clock).meet(Seen(system(TWO, TWO, TWO)))
    assert server.state(action) == "finished"


def test_what_is_being_done_is_stopped_when_the_server_says_so(server: Double, client: Client) -> None:
    action, clock = server.add_action(NAME, {}), [0.0]
    watch = Watch(client, action, lambda: clock[0])
    server.cancel(action)
    watch()
    assert server.asked == []
    clock[0] = 61
    # A server that does not answer stops nothing.
    server.fault = lambda request: Answer(503)
    watch()
    server.fault = lambda request: None
    watch()
    clock[0] = 122
    with pytest.raises(WithdrawnError) as raised:
        watch()
    assert isinstance(raised.value, NothingToDo)
    other = Watch(client, "99", lambda: clock[0])
    clock[0] = 200
    other()


@pytest.mark.parametrize(
    ("checks", "said"),
    [("", None), ("rw", "good"), ("rwW", "degraded"), ("rRW", "failed")],
)
def test_it_is_told_how_healthy_a_device_is(
    server: Double, client: Client, tmp_path: Path, checks: str, said: str | None
) -> None:
    results = [health.Result(one, one in "rR", one.islower(), 1, "why") for one in checks]
    contact_of(client, tmp_path, [0.0]).meet(Seen(System(default_id=5), checks=results))
    assert server.attributes(NAME).get("health") == said


def program(place: Path, name: str, text: str) -> Path:
    (place / inventory.KIND).mkdir(exist_ok=True)
    made = place / inventory.KIND / name
    made.write_text(f"#!/bin/sh\n{text}\n")
    made.chmod(0o755)
    return made


def test_the_inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "LIMIT", 2.0)
    monkeypatch.setenv("SECRET", "of mine")
    program(
        tmp_path,
        "a",
        "echo serial=12; echo release=9; echo 'no line'; echo '../x=1'; env | grep SECRET; pwd=`pwd`; echo at=$pwd",
    )
    program(tmp_path, "b", "yes x=1")
    program(tmp_path, "c", "exit 3")
    program(tmp_path, "d", "echo mine=1").chmod(0o777)
    program(
        tmp_path,
        "e",
        f"printf 'long={'x' * 500}\\033[31m\\n'; head -c 1000000 /dev/zero | tr '\\0' y; echo; echo last=1",
    )
    program(tmp_path, "f", "printf 'odd=\\377\\000x\\n'")
    program(tmp_path, "g", "echo none=1").chmod(0o644)
    said, faults = inventory.gather({"release": "1.0"}, [str(tmp_path)])
    assert said == {"release": "1.0", "serial": "12", "at": "/", "last": "1", "odd": "\ufffdx"}
    assert [fault.partition(":")[0] for fault in faults] == [f"{inventory.KIND}/{name}" for name in "bcd"]
    # A directory that others can write to.
    (tmp_path / inventory.KIND).chmod(0o777)
    assert inventory.gather({}, [str(tmp_path)])[0] == {}


def test_a_program_leaves_nothing_behind(tmp_path: Path) -> None:
    made = program(tmp_path, "a", "sleep 1000 & echo $! ; sleep 1000")
    ended = dropins.run(str(made), 0.5, 1000)
    assert "did not end" in ended.why
    left = subprocess.run(
        ["ps", "-o", "stat=", "-p", ended.said.decode().strip()], capture_output=True, text=True
    ).stdout
    assert left.strip()[:1] in ("", "Z")


def test_the_head_of_an_image_is_asked_for_alone(server: Double, client: Client) -> None:
    action = server.add_action(NAME, {"x": b"y" * (1 << 20)})
    deployment = client.deployment(Link(href=f"{client.account.base}/deploymentBase/{action}"))
    assert deployment is not None
    (artifact,) = deployment.deployment.chunks[0].artifacts
    assert client.head(artifact) is None
    assert server.asked[-1].headers["range"] == "bytes=0-65535"
    elsewhere = artifact.model_copy(
        update={"links": artifact.links.model_copy(update={"download": Link(href="http://x/y"), "download_http": None})}
    )
    with pytest.raises(Rejected, match="not on it"):
        client.head(elsewhere)


def test_a_server_of_another_kind_is_no_server() -> None:
    def answer(request: Request) -> Answer:
        return Answer(200, b"hello")

    with serving(answer) as url:
        account = identity.Account(f"{url}/x/controller/v1/y", identity.Identity(url))
        with pytest.raises(Failed, match="no poll"):
            Client(account, Line()).poll()


REPORTING = """
import sys
from tbdiff.line import Line
from tbupdate import identity
from tbupdate.ddi import Client
from tbupdate.spool import Spool, report
state, url, token, action, many = sys.argv[1:]
who = identity.Identity(url, {"Authorization": f"TargetToken {token}"})
client = Client(identity.Account(f"{url}/demo/controller/v1/kiosk-7", who), Line(identity=who))
spool = Spool(state)
for n in range(int(many)):
    spool.add(report(action, "proceeding", "none", [str(n)], 0))
spool.deliver(client)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["KILL", "ENOSPC", "EIO"])
def test_reports_survive_a_fault_at_any_system_call(server: Double, tmp_path: Path, how: str) -> None:
    """What was kept is told, in order and once; with a call that fails all is told at once."""
    token, script = server.add_device(NAME), tmp_path / "script.py"
    script.write_text(REPORTING)

    def command(state: Path, action: str, many: int = 3) -> list[str]:
        state.mkdir(exist_ok=True)
        return [sys.executable, str(script), str(state), server.url, token, action, str(many)]

    ended, calls = faults.record(command(tmp_path / "first", server.add_action(NAME, {})), tmp_path / "first")
    assert ended.code == 0, ended.err
    for n, call in enumerate(faults.some(calls, 10)):
        state, action = tmp_path / f"state-{n:03}", server.add_action(NAME, {})
        state.mkdir()
        if how == "KILL":
            assert faults.kill_at(call, command(state, action)).code in (-9, 0)
        else:
            assert faults.fail_at(call, command(state, action), how).code == 0
        again = subprocess.run(command(state, action, 0), capture_output=True, text=True, cwd=faults.REPOSITORY)
        assert again.returncode == 0, again.stderr
        told = server.told(action)
        assert told == [str(m) for m in range(len(told))], call
        assert how == "KILL" or len(told) == 3, call


ENROLLING = """
import sys
from tbdiff.line import Line
from tbupdate import identity
from tbupdate.cli.serving import enrol
from tbupdate.config import Server
state, url, once = sys.argv[1:]
class Reach:
    def line_to(self, who):
        return Line(identity=who)
server = Server(url=url, tenant="demo", id="new-1")
enrol(identity.enrolling(server, once), server, state, Reach())
"""


@pytest.mark.slow
def test_an_enrolment_survives_a_kill_at_any_system_call(tmp_path: Path) -> None:
    """The same again, with the token that is good once, ends with a device that is known."""
    script = tmp_path / "script.py"
    script.write_text(ENROLLING)
    known = []
    with double() as server:

        def command(name: str) -> list[str]:
            (tmp_path / name).mkdir()
            return [sys.executable, str(script), str(tmp_path / name), server.url, server.add_enrolment("new-1")]

        ended, calls = faults.record(command("first"), tmp_path / "first", faults.TALKING)
        assert ended.code == 0, ended.err
        for n, call in enumerate(faults.some(calls, 10)):
            wanted = command(f"state-{n:03}")
            assert faults.kill_at(call, wanted).code in (-9, 0)
            state = wanted[2]
            again = subprocess.run(wanted, capture_output=True, text=True, cwd=faults.REPOSITORY)
            assert again.returncode == 0, again.stderr
            account = identity.account(Server(url=server.url, tenant=TENANT, id="new-1"), state)
            Client(account, Line(identity=account.identity)).poll()
            assert (Path(state) / identity.PLACE).stat().st_mode & 0o777 == 0o600
            known.append(identity.read(state))
    # No two of them chose the same.
    assert len({one.token for one in known if one is not None}) == len(known)
