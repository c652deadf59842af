"""A device and its server: orders are carried out as far as the device's own policy allows, and all of it is told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tbdiff.create import Label, create_image
from tbdiff.publish import publish
from tbdiff.signature import create_key
from tests.console import Device
from tests.ddi_server import TENANT, Answer, Double, Request, double

NAME = "kiosk-7"


@dataclass
class Client:
    """A device, its server, and images by the numbers of their releases."""

    dev: Device
    server: Double
    made: dict[tuple[int | None, int], bytes] = field(default_factory=dict)

    def configure(self, more: str = "", server: str = "", sources: str = "") -> None:
        token = self.dev.work / "token"
        token.write_text(self.server.add_device(NAME))
        token.chmod(0o600)
        first = f'keys = "{self.dev.work}/keys"\ndevice_type = "test"\n'
        said = f'[server]\nurl = "{self.server.url}"\ntenant = "{TENANT}"\nid = "{NAME}"\n'
        said += server or f'token_file = "{token}"\n'
        (self.dev.work / "config.toml").write_text(f"{first}{more}\n{said}\n{sources}")

    def tree(self, number: int) -> Path:
        place = self.dev.work / f"tree{number}"
        return place if place.exists() else self.dev.tree(f"tree{number}", version=f"{number}", same="same" * 9999)

    def image(self, base: int | None, target: int, **more: Any) -> bytes:
        if (base, target) not in self.made or more:
            before = self.tree(base) if base else None
            made = self.dev.image(before, self.tree(target), f"{target}.0", **more)
            self.made[base, target] = Path(made).read_bytes()
        return self.made[base, target]

    def order(self, *images: tuple[int | None, int], **how: Any) -> str:
        files = {f"{base}-{target}.tbdiff": self.image(base, target) for base, target in images}
        return self.server.add_action(NAME, files, version=f"{images[-1][1]}.0", **how)

    def step(self, code: int | tuple[int, ...] = (0, 4)) -> str:
        done = self.dev.run("upgrade", "--unattended")
        assert done.returncode in ((code,) if isinstance(code, int) else code), done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    @property
    def version(self) -> str:
        return (self.dev.top / "snapshots/root/etc/version").read_text()

    @property
    def asked(self) -> list[str]:
        """What was asked since the last time: methods, and paths below the device's own."""
        base = f"/{TENANT}/controller/v1/{NAME}"
        found = [f"{one.method} {one.path.partition('?')[0].removeprefix(base)}" for one in self.server.asked]
        self.server.asked.clear()
        return found


@pytest.fixture
def server() -> Iterator[Double]:
    with double() as made:
        yield made


@pytest.fixture
def client(dev: Device, server: Double) -> Client:
    made = Client(dev, server)
    made.configure()
    dev("deploy", str(_written(made, None, 1)))
    dev("commit")
    return made


def _written(client: Client, base: int | None, target: int) -> Path:
    place = client.dev.work / f"{base}-{target}.tbdiff"
    place.write_bytes(client.image(base, target))
    return place


def test_an_order_is_carried_out_and_is_a_success_when_it_is_committed(client: Client) -> None:
    action = client.order((1, 2), (None, 2))
    assert client.dev.json("check")["update"]["release"] == "2.0"
    assert client.server.told(action) == []
    client.step(0)
    assert client.version == "2"
    assert client.server.state(action) == "open"
    told = client.server.told(action)
    assert "to fetch" in told[0]
    assert "2.0 is deployed" in told[-1]
    client.step(4)
    assert client.server.state(action) == "open"
    client.dev("commit")
    client.step(4)
    assert client.server.state(action) == "finished"
    assert any("committed" in line for line in client.server.told(action))
    assert client.server.installed(NAME) == ("demo", "2.0")
    attributes = client.server.attributes(NAME)
    assert (attributes["release"], attributes["device_type"], attributes["tb-update"]) == ("2.0", "test", "1.0.0")
    assert len(attributes["keys"]) == 16
    # The cheapest way was taken: of the full image only the head was read.
    full = [one for one in client.server.asked if one.path.endswith("None-2.tbdiff")]
    assert {one.headers.get("range") for one in full} == {"bytes=0-65535"}
    # All is told; and what was told once is not told again.
    client.asked  # noqa: B018
    assert "wants nothing new" in client.step(4)
    assert client.asked == ["GET "]


def test_what_was_rolled_back_is_a_failure_with_its_reason(client: Client) -> None:
    action = client.order((None, 2))
    client.step(0)
    client.dev("rollback", "--reason", "it leaks")
    client.step(4)
    assert (client.server.state(action), client.version) == ("error", "1")
    assert any("it leaks" in line for line in client.server.told(action))
    # Offered again, it is refused at once.
    again = client.order((None, 2))
    client.step(4)
    assert (client.server.state(again), client.version) == ("error", "1")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"device_types": ("other",)}, "is for other"),
        ({"signed": False}, "the image is not signed"),
        ({}, "newer"),
    ],
)
def test_what_is_refused_is_a_failure_that_says_why(client: Client, more: dict[str, Any], why: str) -> None:
    number = 2
    if not more:
        client.dev("deploy", str(_written(client, None, 3)))
        client.dev("commit")
    client.image(None, number, **more)
    action = client.order((None, number))
    before = client.version
    client.step((3, 4))
    assert (client.server.state(action), client.version) == ("error", before)
    assert why in " ".join(client.server.told(action))


def test_a_stolen_server_makes_no_release(client: Client) -> None:
    create_key(client.dev.work / "thief")
    theirs = client.dev.work / "theirs.tbdiff"
    create_image(None, client.tree(9), theirs, label=Label(release="9.0"), key=client.dev.work / "thief")
    junk = client.image(None, 2)[:200] + bytes(5000)
    for files in ({"x.tbdiff": theirs.read_bytes()}, {"x.tbdiff": junk}, {"x": b"junk"}, {}):
        action = client.server.add_action(NAME, files)
        client.step((3, 4))
        assert (client.server.state(action), client.version) == ("error", "1")
    # A head that is good, and another body behind it.
    raw = bytearray(client.image(None, 2))
    raw[-2] ^= 1
    action = client.server.add_action(NAME, {"x.tbdiff": bytes(raw)})
    client.step(3)
    assert (client.server.state(action), client.version) == ("error", "1")


def test_a_delta_that_is_damaged_gives_way_to_the_full_image(client: Client) -> None:
    delta = bytearray(client.image(1, 2))
    delta[-2] ^= 1
    action = client.server.add_action(NAME, {"a.tbdiff": bytes(delta), "b.tbdiff": client.image(None, 2)})
    assert "trying the next way" in client.step(0)
    assert client.version == "2"
    assert client.server.state(action) == "open"


def test_a_chain_of_deltas(client: Client) -> None:
    client.order((1, 2), (2, 3))
    assert len(client.dev.json("check")["update"]["images"]) == 2
    client.step(0)
    assert client.version == "3"


def test_two_releases_are_no_order(client: Client) -> None:
    action = client.order((None, 2), (None, 3))
    client.step((3, 4))
    assert (client.server.state(action), client.version) == ("error", "1")


@pytest.mark.parametrize("how", ["skip", "window"])
def test_the_server_wants_it_to_wait(client: Client, how: str) -> None:
    action = client.order((None, 2), update="skip" if how == "skip" else "forced")
    client.server.actions[action].window = "unavailable" if how == "window" else None
    client.step(4)
    client.step(4)
    assert client.version == "1"
    assert len(client.server.told(action)) == 1
    client.server.actions[action].update, client.server.actions[action].window = "attempt", "available"
    client.step(0)
    assert client.version == "2"


def test_a_person_decides_whatever_the_server_forces(client: Client) -> None:
    client.configure('[upgrade]\npolicy = "ask"\n')
    action = client.order((None, 2), update="forced")
    client.step(4)
    assert client.version == "1"
    assert client.server.told(action) == ["it waits for approval: tb-update approve"]
    client.dev("decline")
    client.step(4)
    assert client.server.state(action) == "open"
    assert client.server.told(action)[-1] == "a person at the device declined it"
    client.dev("approve")
    assert client.version == "2"


def test_the_server_wants_a_person_to_agree(client: Client) -> None:
    action = client.order((None, 2), confirm=True)
    client.step(4)
    assert client.dev.status()["offered"]["called"] == "demo 2.0"
    client.asked  # noqa: B018
    client.dev("decline")
    client.step(4)
    client.step(4)
    # While it waits, no head is fetched again.
    assert not [one for one in client.asked if "softwaremodules" in one]
    said = client.server.actions[action].consents
    assert [one.confirmation for one in said] == ["denied"]
    client.dev("approve")
    assert [one.confirmation for one in said] == ["denied", "confirmed"]
    assert client.version == "2"
    client.dev("commit")
    client.step(4)
    assert client.server.state(action) == "finished"


def test_an_action_is_stopped_before_the_switch_and_not_after_it(client: Client) -> None:
    client.configure('[upgrade]\npolicy = "ask"\n')
    first = client.order((None, 2))
    client.step(4)
    client.server.cancel(first)
    client.step(4)
    assert client.server.state(first) == "canceled"
    client.configure()
    second = client.order((None, 3))
    client.step(0)
    client.server.cancel(second)
    client.step(4)
    assert client.server.state(second) == "open"
    assert any(line.startswith("too late: ") for line in client.server.told(second))
    client.dev("commit")
    client.step(4)
    assert client.server.state(second) == "finished"


def test_a_rollback_is_ordered(client: Client) -> None:
    client.order((None, 2))
    client.step(0)
    client.dev("commit")
    client.step(4)
    back = client.server.add_action(NAME, {}, command="rollback", version="1.0")
    assert client.dev.json("check")["update"]["bytes"] == 0
    client.step(0)
    assert client.version == "1"
    client.step(4)
    assert client.server.state(back) == "finished"
    # One that is older than what was obeyed does not count any more.
    client.dev("rollback", client.dev.json("list")["deployments"][0]["id"])
    client.server._numbers = iter(range(3, 9))
    old = client.server.add_action(NAME, {}, command="rollback", version="1.0")
    client.step((3, 4))
    assert (client.server.state(old), client.version) == ("error", "2")


@pytest.mark.parametrize(
    ("more", "version", "why"),
    [("commands = []\n", "1.0", "does not let its server"), ("", "0.9", "is not kept here")],
)
def test_a_rollback_that_policy_forbids(client: Client, more: str, version: str, why: str) -> None:
    client.dev("deploy", str(_written(client, None, 2)))
    client.dev("commit")
    client.configure(server=f'token_file = "{client.dev.work}/token"\n{more}')
    action = client.server.add_action(NAME, {}, command="rollback", version=version)
    client.step((3, 4))
    assert (client.server.state(action), client.version) == ("error", "2")
    assert why in " ".join(client.server.told(action))


def test_it_is_postponed_by_the_server_but_not_over_a_persons_word(client: Client) -> None:
    folder = client.dev.work / "folder"
    publish([_written(client, None, 2)], folder, "stable", client.dev.work / "builder", 30)
    client.configure('[upgrade]\npolicy = "ask"\n', sources=f'[[source]]\nurl = "{folder}"\n')
    client.step(4)
    action = client.server.add_action(NAME, {}, command="postpone", version="5")
    assert "postponed until" in client.step(4)
    assert client.server.state(action) == "finished"
    client.dev("approve", "--later")
    refused = client.server.add_action(NAME, {}, command="postpone", version="5")
    client.step(0)
    assert (client.server.state(refused), client.version) == ("error", "2")
    for odd in ("0", "99999", "x"):
        wrong = client.server.add_action(NAME, {}, command="postpone", version=odd)
        client.step((3, 4))
        assert client.server.state(wrong) == "error"


def test_what_is_ordered_may_come_from_a_folder(client: Client) -> None:
    folder = client.dev.work / "folder"
    publish([_written(client, 1, 2)], folder, "stable", client.dev.work / "builder", 30)
    client.configure(sources=f'[[source]]\nurl = "{folder}"\n')
    action = client.order((None, 2))
    client.step(0)
    assert client.version == "2"
    paths = [one for one in client.server.asked if one.path.endswith(".tbdiff")]
    assert {one.headers.get("range") for one in paths} == {"bytes=0-65535"}
    client.dev("commit")
    client.step(4)
    assert client.server.state(action) == "finished"


def test_reports_wait_for_a_server_that_is_away(client: Client) -> None:
    action = client.order((None, 2))
    broken = [503]

    def fault(request: Request) -> Answer | None:
        return Answer(broken[0]) if broken[0] and request.path.endswith("feedback") else None

    client.server.fault = fault
    # A server that takes no reports keeps nobody from its order.
    client.step(0)
    assert client.version == "2"
    client.dev("commit")
    state = client.dev.top / "tb-update/server.json"
    client.step((1, 4))
    # It is left alone for a while, which the next run knows.
    client.asked  # noqa: B018
    assert "asked again" in client.step(1)
    assert client.asked == []
    broken[0] = 0
    state.write_text(json.dumps(json.loads(state.read_text()) | {"again": 0}))
    client.step(4)
    told = client.server.told(action)
    assert [one.status.execution for one in client.server.actions[action].reports] == [
        "download",
        "proceeding",
        "closed",
    ]
    assert len(told) == len(set(told))
    assert client.server.state(action) == "finished"
    assert os.listdir(client.dev.top / "tb-update/reports") == []


def test_it_enrols(client: Client) -> None:
    once = client.server.add_enrolment("new-1")
    client.configure(server=" ")
    text = (client.dev.work / "config.toml").read_text().replace(NAME, "new-1")
    (client.dev.work / "config.toml").write_text(text)
    assert "nothing to show" in client.dev.run("check").stderr
    assert client.dev.run("enrol", "--token", "wrong-token-here").returncode == 3
    assert "new-1" in client.dev("enrol", "--token", "-", input=once)
    kept = client.dev.top / "tb-update/enrolled.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    client.dev("check", code=4)
    client.dev("enrol", "--token", once, code=4)
    # From then on no configuration is needed.
    (client.dev.work / "config.toml").write_text(f'keys = "{client.dev.work}/keys"\n')
    client.dev("check", code=4)
    assert "another" not in client.dev.run("enrol", client.server.url + "/x", "--token", once).stderr


def test_a_token_that_others_can_read_is_not_sent(client: Client) -> None:
    (client.dev.work / "token").chmod(0o644)
    client.asked  # noqa: B018
    assert "others than root can read" in client.step(3)
    assert client.asked == []
