"""What runs is kept with its local changes as a deployment of its own: whole, and cut after every step."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tbdiff.errors import NothingToDo, Rejected
from tbdiff.tree import read_tree
from tbupdate import freezing, planning, record, subvolumes
from tbupdate.flags import LOCKED, flags_of, opened
from tbupdate.offer import NoRoom
from tbupdate.system import survey
from tests import device, systems
from tests.console import Device
from tests.device import TinyImage, boots, check_settled, deploy, initialised, rollback, run, run_first


def test_what_runs_is_kept_and_goes_on_as_it_was(btrfs: Path) -> None:
    first = initialised(btrfs).marks.good
    (btrfs / "snapshots/root/etc/mine").write_text("kept")
    before = survey(str(btrfs))
    plan = systems.plan_snapshot(btrfs, name="mine", release="1.1")
    assert run(btrfs, plan) == ()
    system = check_settled(btrfs)
    assert (system.default_id, system.default.id, system.pending) == (before.default_id, first, None)  # type: ignore[union-attr]
    kept = system.get(plan.deployment)
    assert kept is not None
    assert kept.record is not None
    assert (kept.record.name, kept.record.release, kept.record.base) == ("mine", "1.1", first)
    assert kept.record.made_by == ("snapshot",)
    tree = btrfs / "snapshots" / kept.id
    assert (tree / "etc/mine").read_text() == "kept"
    assert read_tree(tree).digest.hex() == kept.record.tree
    assert kept.record.seal == subvolumes.seal(str(tree))
    (btrfs / "snapshots/root/etc/mine").write_text("later")
    # Nobody has started it yet: going to it is a trial.
    rollback(btrfs, kept.id)
    system = check_settled(btrfs)
    assert system.staged == system.get(kept.id)
    assert (btrfs / "snapshots/root/etc/mine").read_text() == "kept"
    rollback(btrfs)
    assert (btrfs / "snapshots/root/etc/mine").read_text() == "later"


def test_without_local_changes_there_is_nothing_to_do(btrfs: Path) -> None:
    initialised(btrfs)
    names = device.names(btrfs)
    for litter in ("tmp/x", "var/log/syslog", "var/cache/apt/x.bin"):
        (btrfs / "snapshots/root" / litter).parent.mkdir(parents=True, exist_ok=True)
    # The directories themselves are new; what programs leave in them is nothing.
    run(btrfs, systems.plan_snapshot(btrfs))
    rollback(btrfs, "run")
    run(btrfs, planning.plan_commit(survey(str(btrfs)), device.NOW))
    names = device.names(btrfs)
    for litter in ("tmp/x", "var/log/syslog", "var/cache/apt/x.bin"):
        (btrfs / "snapshots/root" / litter).write_text("x")
    with pytest.raises(NothingToDo, match="exactly"):
        run(btrfs, systems.plan_snapshot(btrfs))
    check_settled(btrfs)
    assert device.names(btrfs) == names


def test_what_lies_in_tmp_and_in_other_subvolumes_is_left_out(btrfs: Path) -> None:
    initialised(btrfs)
    root = btrfs / "snapshots/root"
    (root / "tmp/private").mkdir(parents=True)
    (root / "tmp/link").symlink_to("/etc")
    (root / "var/lib").mkdir(parents=True)
    subprocess.run(["btrfs", "-q", "subvolume", "create", root / "var/lib/machines"], check=True)
    (root / "var/lib/machines/big").write_text("x")
    plan = systems.plan_snapshot(btrfs)
    assert plan.notes == (
        "/var/lib/machines is a subvolume of its own, and no part of the new system; it stays where it is.",
    )
    run(btrfs, plan)
    assert plan.deployment is not None
    tree = btrfs / "snapshots" / plan.deployment
    assert os.listdir(tree / "tmp") == []
    assert os.listdir(tree / "var/lib/machines") == []
    assert (root / "etc/system").exists()
    assert (root / "var/lib/machines/big").exists()
    assert read_tree(tree).digest.hex() == survey(str(btrfs)).get(plan.deployment).record.tree  # type: ignore[union-attr]


def test_a_base_that_was_written_to_is_read_as_a_whole(btrfs: Path) -> None:
    first = initialised(btrfs).marks.good
    assert first is not None
    base = btrfs / "snapshots" / first
    subprocess.run(["btrfs", "property", "set", base, "ro", "false"], check=True)
    (base / "etc/spoiled").write_text("x")
    subprocess.run(["btrfs", "property", "set", base, "ro", "true"], check=True)
    (btrfs / "snapshots/root/etc/mine").write_text("kept")
    plan = systems.plan_snapshot(btrfs)
    run(btrfs, plan)
    assert plan.deployment is not None
    listing = record.trusted_listing(str(btrfs / "tb-update" / plan.deployment), btrfs / "snapshots" / plan.deployment)
    assert listing is not None
    assert read_tree(btrfs / "snapshots" / plan.deployment).digest == listing.digest


def test_what_is_refused(btrfs: Path) -> None:
    with pytest.raises(Rejected, match="no deployments yet"):
        freezing.plan_snapshot(survey(str(btrfs)), freezing.Wish("x-000000", device.NOW))
    initialised(btrfs)
    with pytest.raises(NoRoom, match="not enough space"):
        systems.plan_snapshot(btrfs, reserve=1 << 60)


def test_snapshot_cut_after_every_step(btrfs: Path) -> None:
    initialised(btrfs)
    deploy(btrfs, TinyImage("second", "2.0"))
    run(btrfs, planning.plan_commit(survey(str(btrfs)), device.NOW))
    for count in range(100):
        (btrfs / "snapshots/root/etc/mine").write_text(str(count))
        plan = systems.plan_snapshot(btrfs)
        if count > len(plan.every_step):
            return
        run_first(btrfs, plan, count)
        kept = count >= len(plan.steps)
        device.repair(btrfs)
        system = check_settled(btrfs)
        assert boots(btrfs) == "second"
        assert (system.get(plan.deployment) is not None) == kept
    raise AssertionError("a plan of a hundred steps")


def test_the_command(dev: Device) -> None:
    dev("snapshot", code=4)
    (dev.top / "snapshots/root/etc/mine").write_text("x")
    for option, said in (("--name", "two\nlines"), ("--name", b"\xff"), ("--release", "a b"), ("--release", "../x")):
        assert f"{option} " in dev.json("snapshot", option, said, code=2)["error"]["message"]  # type: ignore[arg-type]
    planned = dev.json("snapshot", "--dry-run", "--name", "golden")
    assert planned["id"].startswith("golden-")
    assert len(dev.status()["deployments"]) == 1
    made = dev.json("snapshot", "--name", "golden", "--release", "3")
    assert made["done"] == "snapshot"
    newest = made["deployments"][0]
    assert (newest["id"], newest["name"], newest["release"], newest["state"]) == (made["id"], "golden", "3", "untried")
    assert newest["made_by"] == ["snapshot"]
    dev("verify", made["id"])
    assert dev.json("history")["events"][-1]["event"] == "snapshot"


def test_what_is_locked_in_what_runs_stands_in_the_way_of_no_image(dev: Device) -> None:
    root = dev.top / "snapshots/root"
    (root / "etc/locked").write_text("1")
    (root / "etc/log").write_text("1")
    subprocess.run(["chattr", "+i", root / "etc/locked"], check=True)
    subprocess.run(["chattr", "+a", root / "etc/log"], check=True)
    kept = dev.json("snapshot")["id"]
    dev("rollback", kept)
    dev("commit")
    here = dev.top / "snapshots" / kept
    assert _flags(here / "etc/locked"), "the deployment is what ran, flags and all"
    target = dev.work / "target"
    subprocess.run(["cp", "-a", here, target], check=True)
    (target / "etc/locked").write_text("2")
    (target / "etc/log").unlink()
    dev("deploy", dev.image(here, target, "9"))
    assert (root / "etc/locked").read_text() == "2"
    assert not (root / "etc/log").exists()
    assert not _flags(root / "etc/locked")


def _flags(path: Path) -> bool:
    """Whether what is there is locked."""
    with opened(str(path)) as fd:
        return bool(flags_of(fd) & LOCKED)
