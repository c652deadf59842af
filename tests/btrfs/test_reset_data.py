"""A reset that empties user data: what is named, and nothing else; cut after every step, and while it is in use."""

from __future__ import annotations

import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tbupdate import fstab, moving, resetting, space, userdata
from tbupdate.steps import Plan
from tbupdate.system import System, survey
from tbupdate.userdata import Data
from tests import device
from tests.console import Device, set_up
from tests.device import NOW, TinyImage, commit, deploy, initialised, run, run_first
from tests.trees import build, directory, file

PASSWD = b"root:x:0:0::/root:/bin/sh\nme:x:1000:1001::/home/me:/bin/sh\nelse:x:1002:1002::/srv/deep/x:/bin/sh\n"
DATA = (Data("/home", "@home", shipped=True), Data("/srv", "@srv"))


def prepare(btrfs: Path) -> None:
    """Two subvolumes of user data, and an installed system that has something of its own for /home."""
    shipped = {b"home/kiosk": directory(uid=7), b"home/kiosk/.profile": file(b"shipped")}
    build({**shipped, b"etc/passwd": file(PASSWD), b"etc/skel/.bashrc": file(b"skeleton")}, btrfs)
    for name in ("@home", "@srv", "@other"):
        subprocess.run(["btrfs", "-q", "subvolume", "create", btrfs / name], check=True)
        (btrfs / name / "data").write_text("data")
    os.chown(btrfs / "@home", 0, 8)
    (btrfs / "@home").chmod(0o2751)
    os.setxattr(btrfs / "@home", "user.mine", b"1")


def mount_data(top: Path) -> None:
    """Let the device's /etc/fstab mount it."""
    with (top / "snapshots/root/etc/fstab").open("a") as table:
        table.write("LABEL=system /home btrfs subvol=@home 0 0\nLABEL=system /srv btrfs subvol=/@srv 0 0\n")
        table.write("LABEL=other /data btrfs subvol=@other 0 0\nLABEL=x /boot ext4 defaults 0 0\n")


@pytest.fixture
def top(btrfs: Path) -> Path:
    """A device with user data."""
    prepare(btrfs)
    initialised(btrfs)
    mount_data(btrfs)
    return btrfs


def plan_reset(top: Path, data: tuple[Data, ...] = DATA, system: System | None = None) -> Plan:
    system = system or survey(str(top))
    return resetting.plan_reset(system, resetting.find_target(system, None), NOW, data, "root")


def emptied(top: Path) -> None:
    assert sorted(os.listdir(top / "@home")) == ["kiosk", "me"], "what the system ships, and homes for its people"
    assert (top / "@home/kiosk").stat().st_uid == 7
    assert (top / "@home/kiosk/.profile").read_text() == "shipped"
    home = (top / "@home/me").stat()
    assert (home.st_uid, home.st_gid, stat.S_IMODE(home.st_mode)) == (1000, 1001, 0o700)
    skeleton = (top / "@home/me/.bashrc").stat()
    assert (skeleton.st_uid, skeleton.st_gid) == (1000, 1001)
    status = (top / "@home").stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (8, 0o2751)
    assert os.getxattr(top / "@home", "user.mine") == b"1"
    assert os.listdir(top / "@srv") == []
    assert (top / "@other/data").read_text() == "data"


def test_what_is_named_is_emptied(top: Path) -> None:
    assert run(top, plan_reset(top)) == ()
    emptied(top)
    device.check_settled(top)
    assert survey(str(top)).marks.emptying == {}
    assert "/boot" in fstab.points(fstab.read(str(top / "snapshots/root"))), "the disks are found as before"


def test_nothing_else_is(top: Path) -> None:
    run(top, plan_reset(top, DATA[1:]))
    assert (os.listdir(top / "@srv"), os.listdir(top / "@home")) == ([], ["data"])
    run(top, plan_reset(top, ()))
    assert os.listdir(top / "@home") == ["data"]


def test_emptying_cut_after_every_step(top: Path) -> None:
    for count in range(100):
        for name in ("@home", "@srv"):
            subprocess.run(["btrfs", "-q", "subvolume", "delete", top / name], check=True)
            subprocess.run(["btrfs", "-q", "subvolume", "create", top / name], check=True)
            (top / name / "data").write_text("data")
        os.chown(top / "@home", 0, 8)
        (top / "@home").chmod(0o2751)
        os.setxattr(top / "@home", "user.mine", b"1")
        (top / "snapshots/root/etc/mine").write_text("x")
        plan = plan_reset(top)
        if count > len(plan.every_step):
            return
        run_first(top, plan, count)
        switched = not (booted_root(top) / "etc/mine").exists()
        device.repair(top)
        device.check_settled(top)
        assert survey(str(top)).marks.emptying == {}
        if switched:
            emptied(top)
        else:
            assert os.listdir(top / "@home") == os.listdir(top / "@srv") == ["data"], count
    raise AssertionError("a plan of a hundred steps")


def booted_root(top: Path) -> Path:
    system = survey(str(top))
    (name,) = (one.name for one in system.subvolumes.values() if one.id == system.default_id)
    return top / "snapshots" / name


def test_data_that_is_in_use_is_deleted_after_the_reboot(top: Path) -> None:
    source = subprocess.run(
        ["findmnt", "-no", "SOURCE", "--nofsroot", top], check=True, capture_output=True, text=True
    ).stdout.strip()
    place = top.parent / "home"
    place.mkdir()
    subprocess.run(["mount", "-o", "subvol=@home", source, place], check=True)
    try:
        system = survey(str(top))
        assert next(one.id for one in system.elsewhere if one.path == "@home") in system.mounted
        run(top, plan_reset(top))
        emptied(top)
        assert (place / "data").read_text() == "data", "programs still see it"
        device.repair(top)
        assert len(list((top / "snapshots").glob("*.emptied"))) == 1
    finally:
        subprocess.run(["umount", place], check=True)
    device.repair(top)
    assert list((top / "snapshots").glob("*.emptied")) == []
    device.check_settled(top)


def test_data_that_came_back_before_the_cut_is_not_emptied_twice(top: Path) -> None:
    """A rollback in between: what waited for the reset's root waits no more."""
    deploy(top, TinyImage("second", "2.0"))
    commit(top)
    plan = plan_reset(top)
    names = [str(step) for step in plan.steps]
    run_first(top, plan, next(n for n, said in enumerate(names) if "THE SWITCH" in said))
    assert survey(str(top)).marks.emptying != {}
    device.repair(top)
    assert survey(str(top)).marks.emptying == {}
    assert os.listdir(top / "@home") == ["data"]
    device.check_settled(top)


def test_what_counts_as_user_data(top: Path) -> None:
    system = survey(str(top))
    known = space.identify(str(top))
    assert known is not None
    there = userdata.mounted(fstab.read(str(top / "snapshots/root")), system, space.dashed(known.fsid))
    assert {point: place.path for point, place in there.items()} == {"/home": "@home", "/srv": "@srv"}
    over = fstab.lines("UUID=1 / btrfs\nUUID=1 /home btrfs subvol=@home\nLABEL=x /home ext4 defaults")
    assert userdata.mounted(over, system, "1") == {}, "another disk is mounted over it"
    assert moving.outside(system) == {}


@pytest.fixture
def dev(btrfs: Path, tmp_path: Path) -> Device:
    prepare(btrfs)
    dev = set_up(btrfs, tmp_path)
    mount_data(btrfs)
    return dev


def test_the_command_names_what_goes_and_asks(dev: Device) -> None:
    refused = dev.run("reset", "--user-data", "all")
    assert refused.returncode == 3
    assert os.listdir(dev.top / "@home") == ["data"]
    plan = dev.json("reset", "--dry-run", "--user-data", "/home")["plan"]
    assert [step for step in plan if step.startswith("exchange @home, WITH ALL DATA in it")]
    assert not [step for step in plan if "@srv" in step]
    for wanted, why in (("/data", "is no subvolume of this file system"), ("/", "is no subvolume"), ("x", "/x is no")):
        refused = dev.run("reset", "--yes", "--user-data", wanted)
        assert (refused.returncode, why in refused.stderr) == (3, True), refused.stderr
    subprocess.run(["btrfs", "-q", "subvolume", "create", dev.top / "@srv/inner"], check=True)
    assert "holds the subvolume @srv/inner" in dev.run("reset", "--yes", "--user-data", "all").stderr
    assert os.listdir(dev.top / "@home") == ["data"]
    dev("reset", "--yes", "--user-data", "/home")
    assert "data" not in os.listdir(dev.top / "@home")
    assert os.listdir(dev.top / "@srv") == ["data", "inner"] or sorted(os.listdir(dev.top / "@srv")) == [
        "data",
        "inner",
    ]
    assert dev.json("history")["events"][-1]["emptied"] == ["@home"]
    assert list((dev.top / "snapshots").glob("*.emptied")) == []


def test_nothing_waits_where_nothing_was_asked(top: Path) -> None:
    system = replace(survey(str(top)), booted_id=1)
    plan = resetting.plan_reset(system, resetting.find_target(system, None), NOW)
    assert not [step for step in plan.every_step if "emptied" in str(step)]
