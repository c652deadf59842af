"""A device that looks after itself: check and upgrade from folders and web servers, real images on real Btrfs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tbdiff.create import Label, create_image
from tbdiff.publish import publish
from tbdiff.signature import create_key
from tbupdate import lock
from tests.console import Device
from tests.web import served


class Fleet:
    """A device and the folder that it follows, with releases by number."""

    def __init__(self, dev: Device) -> None:
        self.dev, self.folder = dev, dev.work / "folder"
        self.key = dev.work / "builder"
        self.follow(str(self.folder))

    def follow(self, *places: str, more: str = "") -> None:
        sources = "".join(f'[[source]]\nurl = "{place}"\n' for place in places)
        keys = f'keys = "{self.dev.work}/keys"\ndevice_type = "test"\n'
        (self.dev.work / "config.toml").write_text(f"{keys}{more}\n{sources}")

    def tree(self, number: int) -> Path:
        place = self.dev.work / f"tree{number}"
        return place if place.exists() else self.dev.tree(f"tree{number}", version=f"{number}", same="same" * 9999)

    def image(self, base: int | None, target: int) -> Path:
        made = Path(self.dev.image(self.tree(base) if base else None, self.tree(target), f"{target}.0"))
        return made.rename(self.dev.work / f"{base}-{target}.tbdiff")

    def publish(self, *images: tuple[int | None, int], days: int = 30) -> None:
        publish([self.image(*one) for one in images], self.folder, "stable", self.key, days)

    @property
    def version(self) -> str:
        return (self.dev.top / "snapshots/root/etc/version").read_text()


@pytest.fixture
def fleet(dev: Device) -> Fleet:
    made = Fleet(dev)
    made.publish((None, 1))
    dev("upgrade")
    dev("commit")
    return made


def test_from_a_folder_by_a_delta(fleet: Fleet) -> None:
    fleet.dev("check", code=4)
    fleet.dev("upgrade", code=4)
    fleet.publish((1, 2), (None, 2))
    update = fleet.dev.json("check")["update"]
    assert (update["release"], [image["base"] is None for image in update["images"]]) == ("2.0", [False])
    assert update["bytes"] == (fleet.folder / update["images"][0]["file"]).stat().st_size
    assert "as a delta" in fleet.dev("check")
    assert "THE SWITCH" in fleet.dev("upgrade", "--dry-run")
    assert fleet.version == "1"
    assert fleet.dev.json("upgrade")["done"] == "upgrade"
    assert fleet.version == "2"
    fleet.dev("commit")
    fleet.dev("upgrade", code=4)


def test_from_a_web_server_over_two_deltas(fleet: Fleet) -> None:
    fleet.publish((1, 2), (2, 3))
    with served(fleet.folder) as url:
        fleet.follow(url)
        said = fleet.dev("check", "--changes")
        assert "2 deltas" in said
        assert "Unattended: it is deployed by the next run." in said
        assert said.count("~ etc/version") == 2
        told = fleet.dev.json("check", "--changes")
        changed = [[one["path"] for one in image["operations"] if one["what"]] for image in told["update"]["changes"]]
        assert (changed.count([]), told["next"]["act"]) == (0, "deploy")
        fleet.dev("upgrade")
    assert fleet.version == "3"
    kept = fleet.dev.json("list")["deployments"]
    assert [one["release"] for one in kept][:2] == ["3.0", "1.0"]
    fleet.dev("verify", kept[0]["id"])


def test_a_delta_that_does_not_fit_gives_way_to_the_full_image(fleet: Fleet) -> None:
    fleet.publish((1, 2), (None, 2))
    update = fleet.dev.json("check")["update"]
    place = fleet.folder / update["images"][0]["file"]
    raw = bytearray(place.read_bytes())
    raw[-2] ^= 1
    place.write_bytes(raw)
    done = fleet.dev.run("upgrade")
    assert done.returncode == 0, done.stderr
    assert "trying the next way" in done.stderr
    assert fleet.version == "2"


def test_another_image_under_the_name_of_one_is_refused(fleet: Fleet) -> None:
    fleet.publish((None, 2))
    listed = fleet.dev.json("check")["update"]["images"][0]["file"]
    other = fleet.image(None, 3)
    shutil.copy(other, fleet.folder / listed)
    assert "is not what its index says" in fleet.dev.run("upgrade").stderr
    assert fleet.version == "1"


def test_what_was_rolled_back_is_not_installed_again(fleet: Fleet) -> None:
    fleet.publish((None, 2))
    fleet.dev("upgrade")
    fleet.dev("rollback", "--reason", "it leaks")
    done = fleet.dev.run("upgrade")
    assert (done.returncode, fleet.version) == (4, "1")
    assert "it leaks" in done.stderr
    fleet.publish((None, 3))
    fleet.dev("upgrade")
    assert fleet.version == "3"


def test_a_stolen_server_can_only_choose_among_what_was_signed(fleet: Fleet) -> None:
    fleet.publish((None, 2))
    old = (fleet.folder / "index.json").read_bytes()
    fleet.publish((None, 3))
    fleet.dev("upgrade")
    fleet.dev("commit")
    # An older index, replayed.
    (fleet.folder / "index.json").write_bytes(old)
    assert "is older than the one that was seen last" in fleet.dev.run("check").stderr
    # One of its own making, with a foreign key and without any.
    create_key(fleet.dev.work / "thief")
    shutil.rmtree(fleet.folder)
    publish([fleet.image(None, 4)], fleet.folder, "stable", fleet.dev.work / "thief", 30)
    assert fleet.dev.run("upgrade").returncode == 3
    index = json.loads((fleet.folder / "index.json").read_bytes())
    (fleet.folder / "index.json").write_text(json.dumps(index | {"signatures": []}))
    assert "signed by no trusted key (nobody)" in fleet.dev.run("upgrade").stderr
    # With a delivery key it can make an index, but no release.
    (fleet.dev.work / "keys/delivery").mkdir()
    shutil.copy(fleet.dev.work / "thief.pub", fleet.dev.work / "keys/delivery")
    (fleet.dev.top / "tb-update/sources.json").unlink()
    shutil.rmtree(fleet.folder)
    theirs = fleet.dev.work / "theirs.tbdiff"
    create_image(None, fleet.tree(5), theirs, label=Label(release="5.0"), key=fleet.dev.work / "thief")
    publish([theirs], fleet.folder, "stable", fleet.dev.work / "thief", 30)
    assert "5.0" in fleet.dev("check")
    refused = fleet.dev.run("upgrade")
    assert refused.returncode == 3
    assert "signed by no trusted key" in refused.stderr
    assert fleet.version == "3"


def test_an_index_that_expired_is_not_gone_by(fleet: Fleet) -> None:
    fleet.publish((None, 2))
    state = fleet.dev.top / "tb-update/sources.json"
    seen = json.loads(state.read_text())
    state.write_text(json.dumps({url: one | {"issued": "2100-01-01T00:00:00Z"} for url, one in seen.items()}))
    assert "was good until" in fleet.dev.run("upgrade").stderr
    assert fleet.version == "1"


def test_one_source_of_two_is_enough(fleet: Fleet) -> None:
    fleet.publish((None, 2))
    fleet.follow("/nowhere", str(fleet.folder))
    done = fleet.dev.run("upgrade")
    assert (done.returncode, fleet.version) == (0, "2")
    assert "there is no index of images at /nowhere" in done.stderr
    fleet.follow("/nowhere")
    assert fleet.dev.run("check").returncode == 1
    fleet.follow()
    assert "no source of updates is configured" in fleet.dev.run("check").stderr


def test_exactly_one_release_or_at_most_one(fleet: Fleet) -> None:
    fleet.publish((None, 2), (None, 3))
    fleet.follow(str(fleet.folder), more='[upgrade]\nat_most = "2.5"')
    fleet.dev("upgrade")
    assert fleet.version == "2"
    fleet.dev("commit")
    fleet.follow(str(fleet.folder), more='[upgrade]\nexactly = "3.0"')
    fleet.dev("upgrade")
    assert fleet.version == "3"


def test_several_images_are_one_deployment(fleet: Fleet) -> None:
    first, second = fleet.image(1, 2), fleet.image(2, 3)
    fleet.dev("deploy", str(second), str(first), code=3)
    fleet.dev("deploy", str(first), str(second))
    assert fleet.version == "3"
    assert [one["release"] for one in fleet.dev.json("list")["deployments"]][:2] == ["3.0", "1.0"]


def test_a_device_that_asks_first(fleet: Fleet) -> None:
    fleet.follow(str(fleet.folder), more='[upgrade]\npolicy = "ask"')
    fleet.dev("approve", code=4)
    fleet.publish((None, 2))
    waits = fleet.dev.run("upgrade", "--unattended")
    assert (waits.returncode, fleet.version) == (4, "1")
    assert "demo 2.0 is there, but it waits for approval: tb-update approve" in waits.stderr
    assert "Unattended: it waits for approval" in fleet.dev("check")
    assert fleet.dev.status()["offered"]["called"] == "demo 2.0"
    assert "offered:" in fleet.dev("status")
    assert re.fullmatch(r"demo 2.0 \(.*\): it was postponed until [-0-9: ]*\.\n", fleet.dev("postpone", "--hours", "1"))
    assert "postponed until" in fleet.dev.run("upgrade", "--unattended").stderr
    fleet.dev("decline")
    assert "declined" in fleet.dev.run("upgrade", "--unattended").stderr
    # Another release is another question.
    fleet.publish((None, 3))
    assert "approve" in fleet.dev.run("upgrade", "--unattended").stderr
    # Whoever says yes need not say it twice.
    fleet.dev("approve", "--later")
    assert fleet.version == "1"
    fleet.dev("approve")
    assert fleet.version == "3"
    assert fleet.dev.status()["offered"] is None


def test_what_is_approved_while_nothing_can_be_done_is_done_by_the_next_run(fleet: Fleet) -> None:
    fleet.follow(str(fleet.folder), more='[upgrade]\npolicy = "ask"')
    fleet.publish((None, 2))
    fleet.dev("upgrade", "--unattended", code=4)
    with lock.hold(str(fleet.dev.top)):
        said = fleet.dev.json("approve")
    assert (said["done"], fleet.version) == ("approved", "1")
    assert "another run is in progress" in said["waits"]
    away = fleet.folder.rename(fleet.dev.work / "away")
    failed = fleet.dev.run("approve")
    assert failed.returncode == 1
    assert "demo 2.0 is approved, but there is no index" in failed.stderr
    away.rename(fleet.folder)
    assert fleet.dev.json("upgrade", "--unattended")["done"] == "upgrade"
    assert fleet.version == "2"


def test_a_person_need_not_wait(fleet: Fleet) -> None:
    fleet.follow(str(fleet.folder), more='[upgrade]\npolicy = "ask"\n[[window]]\nstart = "00:00"\nallows = ["reboot"]')
    fleet.publish((None, 2))
    fleet.dev("upgrade", "--unattended", code=4)
    assert "no maintenance window allows a deploy" in fleet.dev("approve")
    assert "no maintenance window allows a deploy" in fleet.dev.run("upgrade", "--unattended").stderr
    fleet.dev("upgrade")
    assert fleet.version == "2"
    assert fleet.dev.status()["offered"] is None
    # What is here already is no question any more.
    for answer in ("approve", "postpone", "decline"):
        assert "nothing is offered" in fleet.dev.run(answer).stderr


def test_unattended_and_nothing_in_the_way(fleet: Fleet) -> None:
    fleet.dev("upgrade", "--unattended", code=4)
    fleet.publish((1, 2))
    fleet.dev("upgrade", "--unattended")
    assert fleet.version == "2"
    fleet.dev("upgrade", "--unattended", "--reboot", code=2)


def test_the_agent_looks_after_it(fleet: Fleet) -> None:
    fleet.publish((1, 2))
    with subprocess.Popen(fleet.dev.command("agent", "--every", "0.01"), stderr=subprocess.DEVNULL) as running:
        try:
            end = time.monotonic() + 60
            while fleet.version != "2" and time.monotonic() < end:
                time.sleep(0.2)
        finally:
            running.terminate()
    assert fleet.version == "2"
    assert running.returncode == 0
    fleet.dev("commit")


@pytest.mark.parametrize("by_web", [True, False])
def test_what_is_not_there_gives_way_to_the_full_image(fleet: Fleet, by_web: bool) -> None:
    fleet.publish((1, 2), (None, 2))
    with served(fleet.folder) as url:
        fleet.follow(url if by_web else str(fleet.folder))
        (image,) = fleet.dev.json("check")["update"]["images"]
        (fleet.folder / image["file"]).unlink()
        os.mkfifo(fleet.folder / ("odd" if by_web else image["file"]))
        done = fleet.dev.run("upgrade")
    assert (done.returncode, fleet.version) == (0, "2"), done.stderr
    assert "trying the next way" in done.stderr


def test_a_source_that_is_none_does_not_stand_before_another(fleet: Fleet) -> None:
    fleet.publish((None, 2))
    odd = fleet.dev.work / "odd"
    odd.mkdir()
    os.mkfifo(odd / "index.json")
    fleet.follow(str(odd), str(fleet.dev.work / "builder"), str(fleet.folder))
    done = fleet.dev.run("upgrade", timeout=60)
    assert (done.returncode, fleet.version) == (0, "2")
    assert "it is no regular file" in done.stderr
    assert "Not a directory" in done.stderr
    fleet.follow(str(odd), str(fleet.dev.work / "builder"))
    both = fleet.dev.run("check")
    assert both.returncode == 1
    assert "it is no regular file" in both.stderr
    assert "Not a directory" in both.stderr


def test_of_a_broken_second_image_nothing_is_left(fleet: Fleet) -> None:
    first, second = fleet.image(1, 2), fleet.image(2, 3)
    second.write_bytes(second.read_bytes()[:-9])
    before = sorted(os.listdir(fleet.dev.top / "snapshots"))
    done = fleet.dev.run("deploy", str(first), str(second))
    assert (done.returncode, fleet.version) == (3, "1")
    assert "nothing was changed" in done.stderr
    assert sorted(os.listdir(fleet.dev.top / "snapshots")) == before
    last = fleet.dev.json("history")["events"][-1]
    assert (last["event"], last["result"]) == ("deploy", "failed")
    assert not fleet.dev.status()["interrupted"]


def test_exactly_a_release_that_was_left_for_a_later_one(fleet: Fleet) -> None:
    fleet.publish((None, 2))
    fleet.dev("upgrade")
    fleet.dev("commit")
    fleet.follow(str(fleet.folder), more='[upgrade]\nexactly = "1.0"')
    fleet.dev("upgrade", "--unattended")
    assert fleet.version == "1"
    fleet.dev("upgrade", "--unattended", code=4)


@pytest.mark.parametrize("often", ["nan", "inf", "0", "1e300"])
def test_how_often_the_agent_asks_is_a_number_of_minutes(dev: Device, often: str) -> None:
    dev("agent", "--every", often, code=2, timeout=60)


def test_what_upgrade_has_no_option_for_is_said_of_deploy(fleet: Fleet) -> None:
    fleet.publish((None, 2))
    shutil.rmtree(fleet.dev.top / "tb-update" / fleet.dev.status()["committed"])
    done = fleet.dev.run("upgrade")
    assert (done.returncode, fleet.version) == (3, "1")
    assert "tb-update deploy --allow-downgrade IMAGE" in done.stderr
