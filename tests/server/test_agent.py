"""Our agent and a server, over HTTP, on a real Btrfs: a rollout, a full disk, an order that is withdrawn."""

from __future__ import annotations

import http.client
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tbserver import tending
from tbserver.accounts import Role
from tbupdate import contact
from tests.btrfs.test_enospc import empty, fill_data
from tests.console import Device, set_up
from tests.ddi_server import TENANT, Answer, DDIServer, Request, serving
from tests.rig import Ended, tb_update
from tests.server.harness import Fleet
from tests.server.images import upload
from tests.server.live import listening
from tests.unit.test_ddi_contract import SERVERS

NAME = "kiosk-7"
PASSED_ON = ("Content-Type", "Content-Range", "ETag", "Last-Modified")
# More than can be written down where no room is left.
LARGE = 4 << 20


@dataclass
class Box:
    """A device with 1.0, and images of others."""

    dev: Device

    def configure(self, url: str, tenant: str, credential: str) -> None:
        first = f'keys = "{self.dev.work}/keys"\ndevice_type = "test"\n'
        said = f'[server]\nurl = "{url}"\ntenant = "{tenant}"\nid = "{NAME}"\n{credential}\n'
        (self.dev.work / "config.toml").write_text(first + said)

    def token(self, secret: str) -> str:
        path = self.dev.work / "token"
        path.write_text(secret)
        path.chmod(0o600)
        return f'token_file = "{path}"'

    def image(self, base: int | None, target: int) -> Path:
        trees = [self.dev.work / f"tree{number}" if number else None for number in (base, target)]
        if not (trees[1] and trees[1].exists()):
            made = self.dev.tree(f"tree{target}", version=f"{target}")
            (made / "etc/large").write_bytes(random.Random(1).randbytes(LARGE))
        image = Path(self.dev.image(trees[0], self.dev.work / f"tree{target}", f"{target}.0"))
        return image.rename(self.dev.work / f"{base}-{target}.tbdiff")

    def install(self, number: int) -> None:
        self.dev("deploy", str(self.image(None, number)))
        self.dev("commit")

    def step(self) -> Ended:
        ended = tb_update(self.dev.top, "upgrade", "--unattended", config=self.dev.work / "config.toml")
        assert "Traceback" not in ended.err
        return ended

    @property
    def version(self) -> str:
        return (self.dev.top / "snapshots/root/etc/version").read_text()


@pytest.fixture
def box(make_btrfs: Callable[..., Path], tmp_path: Path) -> Box:
    made = Box(set_up(make_btrfs(512 << 20), tmp_path))
    made.install(1)
    return made


# --- what comes in the middle


@contextmanager
def between(url: str, hear: Callable[[Request], None]) -> Iterator[str]:
    """A proxy in front of a server; `hear` is told of each request before the server is."""

    def answer(request: Request) -> Answer:
        hear(request)
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        try:
            connection.request(request.method, request.path, request.body or None, dict(request.headers))
            said = connection.getresponse()
            headers = {name: value for name in PASSED_ON if (value := said.getheader(name)) is not None}
            return Answer(said.status, said.read(), headers)
        finally:
            connection.close()

    with serving(answer) as front:
        yield front


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[DDIServer]:
    with SERVERS[request.param]() as made:
        yield made


@pytest.fixture
def meanwhile(box: Box, server: DDIServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """What is done once, when the device asks whether what it fetches is still wanted."""
    monkeypatch.setattr(contact, "WATCH", 0.0)
    planned: list[Callable[[], None]] = []
    fetching = [False]

    def hear(request: Request) -> None:
        if request.path.endswith(".tbdiff") and request.headers.get("range") != "bytes=0-65535":
            fetching[0] = True
        elif fetching[0] and planned and request.method == "GET":
            planned.pop()()

    with between(server.url, hear) as url:
        if hasattr(server, "asked"):
            server.url = url
        box.configure(url, TENANT, box.token(server.add_device(NAME)))
        yield planned


def kept(box: Box) -> list[str]:
    return sorted(os.listdir(box.dev.top / "snapshots"))


def test_a_disk_that_becomes_full_while_it_fetches(
    box: Box, server: DDIServer, meanwhile: list[Callable[[], None]]
) -> None:
    action = server.add_action(NAME, {"full.tbdiff": box.image(None, 2).read_bytes()}, version="2.0")
    before = kept(box)
    meanwhile.append(lambda: void(fill_data(box.dev.top)))
    ended = box.step()
    assert (ended.code, meanwhile) == (1, [])
    assert (box.version, kept(box)) == ("1", before)
    assert "No space left on device" in ended.err
    assert server.state(action) == "open"
    first = server.told(action)
    assert len(first) == 2
    assert "to fetch" in first[0]
    assert first[1].startswith("try 1 of 5 failed: No space left")
    empty(box.dev.top / "filler")
    assert box.step().code == 0
    assert box.version == "2"
    box.dev("commit")
    box.step()
    assert server.state(action) == "finished"
    told = server.told(action)
    assert told[:2] == first
    # Each of it once; but the second try, too, says that it begins.
    assert [line for line in told[2:] if told.count(line) > 1] == [first[0]]
    assert not box.dev.status()["interrupted"]


def test_an_order_that_is_withdrawn_while_it_is_fetched(
    box: Box, server: DDIServer, meanwhile: list[Callable[[], None]]
) -> None:
    action = server.add_action(NAME, {"full.tbdiff": box.image(None, 2).read_bytes()}, version="2.0")
    before = kept(box)
    meanwhile.append(lambda: server.cancel(action))
    ended = box.step()
    assert (ended.code, meanwhile) == (4, [])
    assert "the server wants it no more" in ended.err
    assert (box.version, kept(box)) == ("1", before)
    assert (server.state(action), len(server.told(action))) == ("canceled", 2)
    assert box.step().code == 4
    assert len(server.told(action)) == 2
    # Ordered anew, it is done: nothing was bad about it.
    again = server.add_action(NAME, {"full.tbdiff": box.image(None, 2).read_bytes()}, version="2.0")
    assert box.step().code == 0
    assert (box.version, server.state(again)) == ("2", "open")


def void(_: object) -> None:
    """Whatever it was."""


# --- a rollout


def test_a_rollout_from_the_enrolment_to_a_rollback(box: Box, small_fleet: Fleet) -> None:
    admin, operator = (small_fleet.person(role) for role in (Role.ADMIN, Role.OPERATOR))
    admin.post("/keys", name="builder", kind="release", pem=(box.dev.work / "builder.pub").read_text())
    for base, target in ((None, 1), (None, 2), (1, 2), (None, 3), (None, 4)):
        status, said = upload(operator, box.image(base, target))
        assert status == 201, said
    releases = {one["version"]: one for one in operator.get("/releases")["items"]}
    once = admin.post("/device-tokens", kind="enrolment", name="box", controller=NAME, days=1)["secret"]

    def order(version: str) -> int:
        said = {"name": version, "release_id": releases[version]["id"], "filter": "", "plan": {}}
        return int(operator.post("/rollouts", **said)["rollout"]["id"])

    def shown() -> dict[str, Any]:
        number = operator.get("/devices")["items"][0]["id"]
        return dict(operator.get(f"/devices/{number}"))

    with listening(small_fleet.server) as url:
        box.configure(url, "default", "")
        box.dev("enrol", "--token", once)
        assert "wants nothing new" in box.step().err
        known = shown()
        assert (known["device"]["release"], known["device"]["state"]) == ("1.0", "idle")
        assert known["attributes"]["tree"] == releases["1.0"]["tree"]
        second = order("2.0")
        tending.tend(small_fleet.server.database)
        # By the delta, which the server offers to who runs that very tree.
        (image,) = box.dev.json("check")["update"]["images"]
        assert image["base"] == releases["1.0"]["tree"]
        ended = box.step()
        assert (ended.code, box.version) == (0, "2"), ended.err
        assert count(operator, second) == 0
        box.step()
        assert count(operator, second) == 0
        # Only now it counts.
        box.dev("commit")
        box.step()
        assert count(operator, second) == 1
        tending.tend(small_fleet.server.database)
        assert operator.get(f"/rollouts/{second}")["rollout"]["state"] == "finished"
        assert shown()["device"]["release"] == "2.0"
        # One that fails here says why.
        third = order("3.0")
        tending.tend(small_fleet.server.database)
        assert box.step().code == 0
        box.dev("rollback", "--reason", "it leaks")
        box.step()
        assert (box.version, count(operator, third)) == ("2", 0)
        known = shown()
        assert known["device"]["state"] == "failed"
        assert any("it leaks" in line for said in known["reports"] for line in said["details"])
        # And one that refuses, also what is to be done.
        config = box.dev.work / "config.toml"
        config.write_text(f'{config.read_text()}[upgrade]\nexactly = "2.0"\n')
        fourth = order("4.0")
        tending.tend(small_fleet.server.database)
        refused = box.step()
        assert (refused.code, box.version, count(operator, fourth)) == (3, "2", 0)
        (todo,) = (one for one in shown()["todo"] if one["rollout_id"] == fourth)
        assert todo["why"].startswith("it failed: 4.0 is not what this device may run")
        assert "; nothing was changed. Order another release; or see at_most and exactly" in todo["why"]


def count(operator: Any, rollout_id: int) -> int:
    """How many devices run what it brings."""
    return sum(phase["succeeded"] for phase in operator.get(f"/rollouts/{rollout_id}")["phases"])
