"""Back to a deployment as it was deployed, and what is removed for its room: whole, and cut after every step."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from tbdiff.errors import NothingToDo, Rejected
from tbdiff.tree import read_tree
from tbupdate import planning, resetting, upkeep
from tbupdate.layout import carried
from tbupdate.steps import Plan
from tbupdate.system import survey
from tests import device
from tests.console import Device
from tests.device import NOW, TinyImage, boots, check_settled, commit, deploy, initialised, run, run_first


def plan_reset(top: Path, named: str | None = None) -> Plan:
    system = survey(str(top))
    return resetting.plan_reset(system, resetting.find_target(system, named), NOW)


def prune(top: Path, keep: int = 99) -> None:
    run(top, upkeep.plan_prune(survey(str(top)), keep, NOW))


def test_the_local_changes_of_what_boots_are_gone(btrfs: Path) -> None:
    first = initialised(btrfs).marks.good
    (btrfs / "snapshots/root/etc/mine").write_text("x")
    assert run(btrfs, plan_reset(btrfs)) == ()
    system = check_settled(btrfs)
    assert system.default.id == first  # type: ignore[union-attr]
    assert read_tree(btrfs / "snapshots/root").digest.hex() == system.default.record.tree  # type: ignore[union-attr]
    assert upkeep.surplus_roots(system) == (f"{first}.root",)
    prune(btrfs)
    assert device.names(btrfs) == sorted([str(first), "root", "current"])
    with pytest.raises(NothingToDo):
        prune(btrfs)


def test_back_to_the_first_or_to_a_chosen_one(btrfs: Path) -> None:
    first = initialised(btrfs).marks.good
    (btrfs / "snapshots/root/etc/mine").write_text("x")
    second = deploy(btrfs, TinyImage("second", "2.0"))
    commit(btrfs)
    (btrfs / "snapshots/root/etc/mine").write_text("y")
    run(btrfs, plan_reset(btrfs))
    system = check_settled(btrfs)
    assert (boots(btrfs), system.pending, system.marks.good) == ("first", None, first)
    assert not (btrfs / "snapshots/root/etc/mine").exists()
    run(btrfs, plan_reset(btrfs, second[:3]))
    assert boots(btrfs) == "second"
    assert not (btrfs / "snapshots/root/etc/mine").exists()
    assert check_settled(btrfs).pending is None


def test_what_was_never_committed_is_staged(btrfs: Path) -> None:
    first = initialised(btrfs).marks.good
    second = deploy(btrfs, TinyImage("second", "2.0"))
    run(btrfs, planning.plan_rollback(survey(str(btrfs)), None, NOW, "test"))
    run(btrfs, plan_reset(btrfs, second))
    system = check_settled(btrfs)
    assert system.staged.id == second  # type: ignore[union-attr]
    assert system.marks.good == first


def test_a_subvolume_in_a_root_is_not_lost(btrfs: Path) -> None:
    initialised(btrfs)
    first = survey(str(btrfs)).default
    subprocess.run(["btrfs", "-q", "subvolume", "create", btrfs / "snapshots/root/data"], check=True)
    deploy(btrfs, TinyImage("second", "2.0"))
    commit(btrfs)
    assert first is not None
    with pytest.raises(Rejected, match="holds the subvolume data"):
        plan_reset(btrfs, first.id)


def test_what_is_staged_waits_for_no_local_changes_any_more(btrfs: Path) -> None:
    initialised(btrfs)
    staged = deploy(btrfs, TinyImage("second", "2.0"))
    assert carried(staged) in device.names(btrfs)
    run(btrfs, plan_reset(btrfs, staged))
    assert carried(staged) not in device.names(btrfs)
    check_settled(btrfs)


@pytest.mark.parametrize("named", [None, "current"])
def test_reset_cut_after_every_step(btrfs: Path, named: str | None) -> None:
    initialised(btrfs)
    for count in range(100):
        deploy(btrfs, TinyImage("second", f"{count + 2}.0"))
        commit(btrfs)
        (btrfs / "snapshots/root/etc/mine").write_text("x")
        plan = plan_reset(btrfs, named)
        if count > len(plan.every_step):
            return
        run_first(btrfs, plan, count)
        device.repair(btrfs)
        check_settled(btrfs)
        assert boots(btrfs) in ("first", "second")
        run(btrfs, plan_reset(btrfs, named))
        system = check_settled(btrfs)
        assert boots(btrfs) == ("first" if named is None else "second")
        assert read_tree(btrfs / "snapshots/root").digest.hex() == system.default.record.tree  # type: ignore[union-attr]
        with contextlib.suppress(NothingToDo):
            prune(btrfs, 2)
        assert upkeep.surplus_roots(check_settled(btrfs)) == ()
    raise AssertionError("a plan of a hundred steps")


def test_the_command_asks(dev: Device) -> None:
    (dev.top / "snapshots/root/etc/mine").write_text("x")
    dev("reset", code=3)
    assert (dev.top / "snapshots/root/etc/mine").exists()
    assert dev.json("reset", "--dry-run")["plan"]
    assert dev.json("reset", "--yes")["done"] == "reset"
    assert not (dev.top / "snapshots/root/etc/mine").exists()
    assert dev.json("history")["events"][-1]["event"] == "reset"
    # Nothing runs from this image: what was left is removed at once.
    assert len([name for name in os.listdir(dev.top / "snapshots") if name.endswith(".root")]) == 0


# --- room ------------------------------------------------------------------------------------------------------------


def filled(dev: Device, count: int, size: int) -> list[str]:
    """Deployments that hold `size` bytes each."""
    made = []
    for number in range(count):
        tree = dev.tree(f"big{number}")
        (tree / "big").write_bytes(os.urandom(size))
        made.append(dev.json("deploy", dev.image(None, tree, f"{number + 1}.0"))["id"])
        dev("commit")
        (tree / "big").unlink()
    return made


def test_old_ones_make_room_until_it_is_enough(dev: Device) -> None:
    first = dev.status()["default"]
    made = filled(dev, 4, 40 << 20)
    dev("pin", made[0])
    config = dev.work / "config.toml"
    free = dev.status()["free"]["data"]
    rules = config.read_text()
    config.write_text(f"{rules}[space]\nmin_free = {free + (20 << 20)}\n")
    shown = dev.json("prune", "--dry-run")
    verdicts = {one["id"]: one for one in shown["deployments"]}
    assert not verdicts[first]["kept"]
    assert "oldest that may go" in verdicts[first]["why"]
    assert "pinned" in verdicts[made[0]]["why"]
    assert "among the newest 5" in verdicts[made[1]]["why"]
    assert shown["min_free"] == free + (20 << 20)
    dev("prune")
    # The first alone gave hardly any room.
    assert {one["id"] for one in dev.status()["deployments"]} == {made[0], made[2], made[3]}
    assert dev.status()["free"]["data"] > free + (20 << 20)
    dev("prune", code=4)
    config.write_text(f"{rules}[space]\nmin_free = {1 << 50}\n")
    dev("prune", code=4)
    assert {one["id"] for one in dev.status()["deployments"]} == {made[0], made[2], made[3]}
