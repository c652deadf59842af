"""A device that fetches before it asks: what was fetched is complete, waits for a yes, and is then taken up at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tbdiff.signature import create_key
from tbupdate import fetching
from tbupdate.marks import READY
from tbupdate.system import survey
from tests import device
from tests.btrfs.test_upgrade import Fleet
from tests.console import Device
from tests.ddi_server import Answer, Request, ranged, serving
from tests.device import NOW, TinyImage


@pytest.fixture
def fleet(dev: Device) -> Fleet:
    made = Fleet(dev)
    made.publish((None, 1))
    dev("upgrade")
    dev("commit")
    made.follow(str(made.folder), more='[upgrade]\npolicy = "download"')
    return made


def test_fetched_then_asked_then_taken_up_without_the_source(fleet: Fleet) -> None:
    fleet.publish((1, 2))
    done = fleet.dev.run("upgrade", "--unattended")
    assert done.returncode == 0, done.stderr
    assert "it is fetched and waits for approval: tb-update approve" in done.stderr
    status = fleet.dev.status()
    assert (fleet.version, status["staged"], status["offered"]["called"]) == ("1", None, "demo 2.0")
    assert status["next"] == {
        "act": "wait",
        "reason": "approval",
        "words": "it is fetched and waits for approval: tb-update approve",
    }
    assert status["next"]["words"] in fleet.dev("status")
    ready = status["ready"]
    assert [one["state"] for one in status["deployments"] if one["id"] == ready] == ["ready"]
    # It stays through whatever else is done, and is not removed.
    fleet.dev("prune", "--keep", "1", code=4)
    fleet.dev("remove", ready, code=3)
    assert "waits for approval" in fleet.dev.run("upgrade", "--unattended").stderr
    shutil.rmtree(fleet.folder)
    fleet.dev("approve")
    status = fleet.dev.status()
    assert (fleet.version, status["default"], status["ready"], status["offered"]) == ("2", ready, None, None)
    fleet.dev("commit")
    fleet.dev("verify", ready)


def test_what_is_approved_while_it_is_fetched_is_not_asked_for_again(fleet: Fleet) -> None:
    fleet.publish((1, 2))
    asked = []

    def answer(request: Request) -> Answer:
        if request.path.endswith(".tbdiff") and not asked:
            asked.append(fleet.dev("approve", "--later"))
        place = fleet.folder / request.path.lstrip("/")
        return ranged(place.read_bytes(), request) if place.exists() else Answer(404)

    with serving(answer) as url:
        fleet.follow(url, more='[upgrade]\npolicy = "download"')
        done = fleet.dev.run("--json", "upgrade", "--unattended")
    assert (done.returncode, fleet.version, len(asked)) == (0, "2", 1), done.stderr
    # One object, for what it came to.
    assert json.loads(done.stdout)["done"] == "upgrade"
    assert fleet.dev.status()["last_run"]["result"] == "deployed"


def test_a_newer_release_takes_its_place_and_a_declined_one_goes(fleet: Fleet) -> None:
    fleet.publish((None, 2))
    fleet.dev("upgrade", "--unattended")
    first = fleet.dev.status()["ready"]
    fleet.publish((None, 3), (2, 3))
    fleet.dev("upgrade", "--unattended")
    second = fleet.dev.status()["ready"]
    assert first not in [one["id"] for one in fleet.dev.json("list")["deployments"]]
    assert second.startswith("3.0-")
    fleet.dev("decline")
    assert "declined" in fleet.dev.run("upgrade", "--unattended").stderr
    assert fleet.dev.status()["ready"] is None
    assert second not in [one["id"] for one in fleet.dev.json("list")["deployments"]]
    assert fleet.version == "1"


def test_whoever_is_there_need_not_say_yes_first(fleet: Fleet) -> None:
    fleet.publish((None, 2))
    fleet.dev("upgrade", "--unattended")
    ready = fleet.dev.status()["ready"]
    assert "THE SWITCH" in fleet.dev("upgrade", "--dry-run")
    assert fleet.dev.json("upgrade")["id"] == ready
    assert fleet.version == "2"


def test_what_was_fetched_under_a_key_that_is_revoked_since_is_not_taken_up(fleet: Fleet) -> None:
    fleet.publish((None, 2))
    fleet.dev("upgrade", "--unattended")
    fleet.dev("approve", "--later")
    create_key(fleet.dev.work / "second")
    shutil.copy(fleet.dev.work / "second.pub", fleet.dev.work / "keys")
    fleet.dev("trust", "revoke", "builder", "--yes")
    for gone in (False, True):
        if gone:
            shutil.rmtree(fleet.folder)
        assert fleet.dev.run("upgrade", "--unattended").returncode != 0
        assert fleet.version == "1"


def test_wherever_taking_up_is_cut_it_is_still_ready_or_switched_to(btrfs: Path) -> None:
    device.initialised(btrfs)
    image = TinyImage("second", release="2.0")
    plan = fetching.plan_fetch(survey(str(btrfs)), image.manifest, device.offer("2.0"), "keys")
    assert device.run(btrfs, plan, image) == ()
    ready = plan.deployment
    for count in range(1, 99):
        system = survey(str(btrfs))
        assert system.ready is not None and system.ready.id == ready
        taken = fetching.plan_take_up(system, NOW)
        device.run_first(btrfs, taken, count)
        device.repair(btrfs)
        system = survey(str(btrfs))
        assert not [name for name in system.subvolumes if name.endswith((".partial", ".next"))]
        if system.default is not None and system.default.id == ready:
            assert system.ready is None
            assert system.marks.ready is None
            return
        assert [name for name in system.subvolumes if name.startswith(f"{ready}.")] == []
    raise AssertionError(READY)
