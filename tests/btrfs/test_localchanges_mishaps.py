"""Local changes where something goes wrong: power cuts, systems that fall back by themselves, late changes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tbupdate import carrying, planning, upkeep
from tbupdate.boot.chooser import Choice
from tbupdate.system import survey
from tests import device, systems
from tests.btrfs.test_deploy_boot import SECOND, a_device
from tests.conftest import MakeBtrfs
from tests.console import Device
from tests.device import NOW, TinyImage, check_settled, commit, deploy, initialised, run, run_first

pytestmark = pytest.mark.slow


def old_root(top: Path) -> Path:
    """The root that is left by the switch."""
    held = [one for one in survey(str(top)).subvolumes if one.endswith(".carried")]
    source = survey(str(top)).subvolumes[held[0]].parent_uuid
    return top / "snapshots" / next(n for n, one in survey(str(top)).subvolumes.items() if one.uuid == source)


def test_deploy_cut_after_every_step_has_local_changes_or_is_not_there(btrfs: Path) -> None:
    initialised(btrfs)
    (btrfs / "snapshots/root/etc/mine").write_text("x" * 100_000)
    for count in range(100):
        image = TinyImage(f"n{count}", f"{count + 2}.0")
        plan = device.plan_deploy(btrfs, image)
        if count > len(plan.every_step):
            return
        run_first(btrfs, plan, count, image)
        device.repair(btrfs)
        check_settled(btrfs)
        assert (btrfs / "snapshots/root/etc/mine").read_text() == "x" * 100_000
        if survey(str(btrfs)).pending is None:
            deploy(btrfs, image)
        commit(btrfs)
        run(btrfs, upkeep.plan_prune(survey(str(btrfs)), 2, NOW)) if count > 2 else None
    raise AssertionError("a plan of a hundred steps")


def test_what_is_late_is_brought_whenever_the_power_goes(btrfs: Path) -> None:
    initialised(btrfs)
    for count in range(100):
        deploy(btrfs, TinyImage(f"n{count}", f"{count + 2}.0"))
        (old_root(btrfs) / "etc/late").write_text(f"{count}")
        plan = carrying.plan_carry(survey(str(btrfs)))
        if count > len(plan.every_step):
            return
        run_first(btrfs, plan, count)
        device.repair(btrfs)
        check_settled(btrfs)
        commit(btrfs)
        assert (btrfs / "snapshots/root/etc/late").read_text() == f"{count}"
        assert not [name for name in os.listdir(btrfs / "snapshots") if "carried" in name]
    raise AssertionError("a plan of a hundred steps")


def test_what_is_late_is_brought_over_what_the_first_boot_did(btrfs: Path) -> None:
    initialised(btrfs)
    (btrfs / "snapshots/root/etc/text").write_text("1\n2\n3\n4\n5\n")
    deploy(btrfs, TinyImage("new", "2.0"))
    (old_root(btrfs) / "etc/text").write_text("late\n2\n3\n4\n5\n")
    (btrfs / "snapshots/root/etc/text").write_text("1\n2\n3\n4\nboot\n")
    (btrfs / "snapshots/root/etc/boot").write_text("made by the first boot")
    commit(btrfs)
    assert (btrfs / "snapshots/root/etc/text").read_text() == "late\n2\n3\n4\nboot\n"
    assert (btrfs / "snapshots/root/etc/boot").exists()


def test_what_goes_both_ways_follows_a_system_that_fell_back_by_itself(make_btrfs: MakeBtrfs, tmp_path: Path) -> None:
    with a_device(make_btrfs, tmp_path, "grub") as dev:
        first = dev.survey().marks.good or ""
        second = dev.deploy(SECOND)
        root = dev.top / "snapshots/root/etc"
        (root / "machine-id").write_text("b" * 32)
        (root / "hosts").write_text("changed on trial")
        dev.chooser.choose(Choice(first, second, 0, first))
        dev.repair()
        assert dev.survey().default.id == first  # type: ignore[union-attr]
        assert (root / "machine-id").read_text() == "b" * 32
        assert not (root / "hosts").exists()
        check_settled(dev.top)


def test_what_cannot_follow_holds_no_rollback_back(btrfs: Path) -> None:
    initialised(btrfs)
    deploy(btrfs, TinyImage("new", "2.0"))
    commit(btrfs)
    (btrfs / "snapshots/root/etc/ssh").mkdir()
    (btrfs / "snapshots/root/etc/ssh/ssh_host_key").write_text("b")
    old = next((btrfs / "snapshots").glob("first-*.root"))
    subprocess.run(["btrfs", "-q", "subvolume", "create", old / "etc/ssh"], check=True)
    said = run(btrfs, planning.plan_rollback(survey(str(btrfs)), None, NOW, "test"))
    assert len(said) == 1
    assert "nested subvolume" in said[0]
    assert check_settled(btrfs).default == check_settled(btrfs).good
    assert os.listdir(btrfs / "snapshots/root/etc/ssh") == []


def test_nothing_is_written_through_a_link(btrfs: Path) -> None:
    initialised(btrfs)
    outside = btrfs / "outside"
    (outside / "d").mkdir(parents=True)
    at = btrfs / "snapshots/root/etc"
    (at / "d").mkdir()
    (at / "d/mine").write_text("mine")

    def hostile(tree: Path) -> None:
        (tree / "etc/d").symlink_to(outside / "d")
        (tree / "etc/machine-id").symlink_to(outside / "id")

    (at / "machine-id").write_text("a")
    deploy_with_conflicts(btrfs, TinyImage("new", "2.0", failure=hostile))
    assert os.listdir(outside / "d") == []
    assert sorted(os.listdir(outside)) == ["d"]
    assert (at / "d/mine").read_text() == "mine"
    assert not (at / "d").is_symlink()
    assert (at / "machine-id").read_text() == "a"


def deploy_with_conflicts(top: Path, image: TinyImage) -> None:
    said = run(top, device.plan_deploy(top, image), image)
    assert said
    assert all("the local one stays" in one for one in said)


@pytest.mark.parametrize("instead", [None, "empty", "link"])
def test_an_etc_that_was_lost_is_brought_to_no_new_system(dev: Device, instead: str | None) -> None:
    tree = dev.tree("one", passwd="root:x:0:0::/:/bin/sh\n")
    dev("deploy", dev.image(None, tree, "1.0"))
    dev("commit")
    etc = dev.top / "snapshots/root/etc"
    etc.rename(etc.with_name("lost"))
    if instead is not None:
        etc.mkdir() if instead == "empty" else etc.symlink_to("lost")
    before = device.names(dev.top)
    image = dev.image(tree, dev.tree("two", passwd="root:x:0:0::/:/bin/sh\n"), "2.0")
    error = dev.json("deploy", image, code=3)["error"]
    assert error["message"].startswith("local changes would leave the new system without /etc/passwd; nothing")
    assert device.names(dev.top) == before
    dev("reset", "1.0", "--yes")
    dev("deploy", image)
    assert (etc / "passwd").exists()
    dev("rollback")
    (etc / "passwd").unlink()
    (etc / "passwd").symlink_to("/data/passwd")
    dev("deploy", image, "--again")
    assert (etc / "passwd").is_symlink()


def test_a_command_in_a_new_root_loses_no_local_change(btrfs: Path) -> None:
    systems.initialised(btrfs)
    root = btrfs / "snapshots/root/etc"
    (root / "hosts").write_text("mine")
    run(btrfs, systems.plan_run(btrfs, "sh", "-c", "echo of the command >/etc/other"))
    (old_root(btrfs) / "etc/late").write_text("late")
    run(btrfs, systems.plan_run(btrfs, "sh", "-c", "echo more >/etc/more", over_staged=True))
    (old_root(btrfs) / "etc/later").write_text("later")
    commit(btrfs)
    expected = {"hosts": "mine", "other": "of the command\n", "late": "late", "later": "later", "more": "more\n"}
    assert {name: (root / name).read_text() for name in expected} == expected
    # What was frozen is local all the same: the image knows nothing of it.
    deploy(btrfs, TinyImage("new", "2.0"))
    assert {name: (root / name).read_text() for name in expected} == expected
    check_settled(btrfs)
