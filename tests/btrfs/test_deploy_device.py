"""The device on real Btrfs: init, deploy, commit, rollback, prune, each whole and cut after every step."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from tbdiff.errors import Failed, NothingToDo, Rejected
from tbupdate import conversion, planning, upkeep
from tbupdate.record import Record
from tbupdate.steps import Plan, SetDefault
from tbupdate.system import Place, survey
from tests import device
from tests.device import TinyImage, boots, check_settled, commit, deploy, initialised, rollback, run, run_first


def test_init_keeps_the_original_and_boots_a_copy(btrfs: Path) -> None:
    initialised(btrfs)
    system = check_settled(btrfs)
    assert [kept.id for kept in system.deployments] == [system.marks.good]
    assert boots(btrfs) == "first"
    assert (btrfs / "etc/system").read_text() == "first"
    assert not (btrfs / "snapshots/root/snapshots").exists()
    assert not (btrfs / "snapshots/root/tb-update").exists()


def test_deploy_commit_rollback(btrfs: Path) -> None:
    first = initialised(btrfs).marks.good
    second = deploy(btrfs, TinyImage("second", "2.0"))
    system = check_settled(btrfs)
    assert boots(btrfs) == "second"
    assert (system.staged.id, system.previous.id, system.marks.good) == (second, first, first)  # type: ignore[union-attr]
    commit(btrfs)
    system = check_settled(btrfs)
    assert system.pending is None
    assert system.previous.id == first  # type: ignore[union-attr]
    rollback(btrfs)
    system = check_settled(btrfs)
    assert boots(btrfs) == "first"
    assert system.pending is None
    assert system.previous.id == second  # type: ignore[union-attr]
    assert not system.marks.bad


def test_rollback_of_what_is_staged_marks_it_bad_and_leaves_no_previous(btrfs: Path) -> None:
    first = initialised(btrfs).marks.good
    second = deploy(btrfs, TinyImage("second", "2.0"))
    rollback(btrfs)
    system = check_settled(btrfs)
    assert system.default.id == first  # type: ignore[union-attr]
    assert system.previous is None
    assert set(system.marks.bad) == {second}


def test_local_changes_come_along_and_stay_where_they_were(btrfs: Path) -> None:
    initialised(btrfs)
    root = btrfs / "snapshots/root"
    (root / "etc/mine").write_text("kept")
    (root / "srv").mkdir()
    deploy(btrfs, TinyImage("second", "2.0"))
    assert (root / "etc/mine").read_text() == "kept"
    assert not (root / "srv").exists()
    (root / "etc/mine").write_text("other")
    rollback(btrfs)
    assert (root / "etc/mine").read_text() == "kept"
    assert (root / "srv").exists()


def test_a_second_deploy_takes_the_place_of_a_staged_one(btrfs: Path) -> None:
    first = initialised(btrfs).marks.good
    deploy(btrfs, TinyImage("second", "2.0"))
    third = deploy(btrfs, TinyImage("third", "3.0"))
    system = check_settled(btrfs)
    assert system.staged.id == third  # type: ignore[union-attr]
    assert system.previous.id == first  # type: ignore[union-attr]
    rollback(btrfs)
    assert boots(btrfs) == "first"
    check_settled(btrfs)


def test_a_delta_starts_from_any_kept_deployment(btrfs: Path) -> None:
    base = initialised(btrfs).deployments[0].record
    assert base is not None
    deploy(btrfs, TinyImage("second", "2.0"))
    commit(btrfs)
    (btrfs / "snapshots/root/etc/mine").write_text("local")
    deploy(btrfs, TinyImage("third", "3.0", base=base.tree))
    assert (btrfs / "snapshots/root/etc/fstab").exists()
    with pytest.raises(Rejected, match="starts from the tree"):
        device.plan_deploy(btrfs, TinyImage("x", "4.0", base="f" * 64))


def test_a_failed_deploy_leaves_no_trace(btrfs: Path) -> None:
    initialised(btrfs)
    before = device.names(btrfs), sorted(os.listdir(btrfs / "tb-update"))

    def fail(tree: Path) -> None:
        raise Failed("the image is damaged")

    def no_room(tree: Path) -> None:
        raise OSError(28, "No space left on device", "etc/x")

    for failure in (fail, no_room):
        image = TinyImage("second", "2.0", failure=failure)
        with pytest.raises(Failed):
            run(btrfs, device.plan_deploy(btrfs, image), image)
        check_settled(btrfs)
        assert (device.names(btrfs), sorted(os.listdir(btrfs / "tb-update"))) == before
    deploy(btrfs, TinyImage("second", "2.0"))
    assert boots(btrfs) == "second"


def test_prune_keeps_what_is_needed(btrfs: Path) -> None:
    first = initialised(btrfs).marks.good
    ids = [first]
    for number in range(2, 7):
        ids.append(deploy(btrfs, TinyImage(f"n{number}", f"{number}.0")))
        commit(btrfs)
    assert first is not None
    run(btrfs, upkeep.plan_pin(survey(str(btrfs)), first, True, device.NOW))
    run(btrfs, upkeep.plan_prune(survey(str(btrfs)), 4, device.NOW))
    system = check_settled(btrfs)
    assert [kept.id for kept in system.deployments] == [first, *ids[-3:]]
    with pytest.raises(NothingToDo):
        upkeep.plan_prune(system, 4, device.NOW)
    with pytest.raises(Rejected):
        upkeep.plan_remove(system, first, device.NOW)


def test_init_from_an_at_subvolume_with_subvolumes_within(btrfs: Path) -> None:
    os.system(f"btrfs -q subvolume create {btrfs}/@ && btrfs -q subvolume create {btrfs}/@/srv")
    (btrfs / "@/srv/data").write_text("mine")
    (btrfs / "@/srv").chmod(0o750)
    device.make_root(btrfs / "@")
    system = survey(str(btrfs))
    source = conversion.find_source(system, None, [])
    assert source == conversion.Source("@", ("srv",))
    with pytest.raises(Rejected, match="'' is no subvolume"):
        # What a script says whose variable is empty.
        conversion.find_source(system, "", [])
    # Others call it otherwise: Fedora `root`.
    elsewhere = (Place("root", 300), Place("home", 301), Place("old", 302))
    fedora = dataclasses.replace(system, elsewhere=elsewhere)
    assert conversion.find_source(fedora, None, ["root"]).path == "root"
    assert conversion.find_source(fedora, None, ["", "root"]).path == ""
    assert conversion.find_source(fedora, None, []).path == ""
    with pytest.raises(Rejected, match="holds no system, but old, root do"):
        conversion.find_source(fedora, None, ["root", "old"])
    plan = conversion.plan_init(system, source, Record(id=device.fresh_id(), created=device.NOW), device.NOW)
    run(btrfs, plan)
    check_settled(btrfs)
    assert list((btrfs / "snapshots/root/srv").iterdir()) == []
    assert (btrfs / "snapshots/root/srv").stat().st_mode & 0o7777 == 0o750
    (btrfs / "snapshots/root/srv/mountable").mkdir()
    assert (btrfs / "@/srv/data").read_text() == "mine"


def test_init_from_a_hand_made_root(btrfs: Path) -> None:
    (btrfs / "snapshots").mkdir()
    os.system(f"btrfs -q subvolume create {btrfs}/snapshots/root")
    device.make_root(btrfs / "snapshots/root")
    system = survey(str(btrfs))
    with pytest.raises(Rejected, match="exists already"):
        conversion.plan_init(
            system, conversion.Source(""), Record(id=device.fresh_id(), created=device.NOW), device.NOW
        )
    source = conversion.find_source(system, "snapshots/root", [])
    run(btrfs, conversion.plan_init(system, source, Record(id=device.fresh_id(), created=device.NOW), device.NOW))
    system = survey(str(btrfs))
    assert system.subvolumes["root"].id == system.default_id
    assert (btrfs / "snapshots/root.before-init/etc/system").read_text() == "first"
    deploy(btrfs, TinyImage("second", "2.0"))
    assert boots(btrfs) == "second"


# --- cut after every step -------------------------------------------------------------------------------------------


def switched(plan: Plan, count: int) -> bool:
    return any(isinstance(step, SetDefault) for step in plan.every_step[:count])


def test_deploy_cut_after_every_step(btrfs: Path) -> None:
    initialised(btrfs)
    here = "first"
    count, number = 0, 2
    while True:
        image = TinyImage(f"n{number}", f"{number}.0")
        plan = device.plan_deploy(btrfs, image)
        if count > len(plan.every_step):
            break
        run_first(btrfs, plan, count, image)
        there = image.content if switched(plan, count) else here
        assert boots(btrfs) == there, plan.every_step[:count]
        device.repair(btrfs)
        system = check_settled(btrfs)
        assert boots(btrfs) == there
        assert system.good is not None
        if there != here:
            assert system.staged is not None
            assert system.previous == system.good
            commit(btrfs)
        here = there
        count, number = count + 1, number + 1
    assert count > 15


@pytest.mark.parametrize("committed", [True, False])
def test_rollback_cut_after_every_step(btrfs: Path, committed: bool) -> None:
    initialised(btrfs)
    number = 2
    for count in range(100):
        deploy(btrfs, TinyImage(f"n{number}", f"{number}.0"))
        if committed:
            commit(btrfs)
        system = survey(str(btrfs))
        before = system.default
        plan = planning.plan_rollback(system, None, device.NOW, "test")
        if count > len(plan.every_step):
            return
        run_first(btrfs, plan, count)
        device.repair(btrfs)
        system = check_settled(btrfs)
        assert (system.default != before) == switched(plan, count)
        if switched(plan, count):
            assert system.pending is None
        else:
            rollback(btrfs)
            assert check_settled(btrfs).default != before
        number += 1
        if not committed:
            run(btrfs, upkeep.plan_prune(survey(str(btrfs)), 1, device.NOW))
    raise AssertionError("a plan of a hundred steps")


def test_commit_cut_after_every_step(btrfs: Path) -> None:
    initialised(btrfs)
    for count in range(100):
        new = deploy(btrfs, TinyImage(f"n{count}", f"{count + 2}.0"))
        plan = planning.plan_commit(survey(str(btrfs)), device.NOW)
        if count > len(plan.every_step):
            return
        run_first(btrfs, plan, count)
        device.repair(btrfs)
        system = check_settled(btrfs)
        assert system.default.id == new  # type: ignore[union-attr]
        if system.pending is not None:
            assert count == 0
            commit(btrfs)
        assert check_settled(btrfs).marks.good == new
    raise AssertionError("a plan of a hundred steps")


def test_prune_cut_after_every_step(btrfs: Path) -> None:
    initialised(btrfs)
    deploy(btrfs, TinyImage("good", "2.0"))
    commit(btrfs)
    number = 3
    for count in range(100):
        for _ in range(3):
            deploy(btrfs, TinyImage(f"n{number}", f"{number}.0"))
            number += 1
        rollback(btrfs)
        plan = upkeep.plan_prune(survey(str(btrfs)), 1, device.NOW)
        if count > len(plan.every_step):
            return
        run_first(btrfs, plan, count)
        assert boots(btrfs) == "good"
        device.repair(btrfs)
        check_settled(btrfs)
        try:
            run(btrfs, upkeep.plan_prune(survey(str(btrfs)), 1, device.NOW))
        except NothingToDo:
            pass
        assert len(check_settled(btrfs).deployments) <= 2
    raise AssertionError("a plan of a hundred steps")


@pytest.mark.parametrize("place", ["", "@", "snapshots/root"])
def test_init_cut_after_every_step(btrfs: Path, make_btrfs: object, place: str) -> None:
    for count in range(100):
        top = btrfs if count == 0 else make_btrfs(256 << 20)  # type: ignore[operator]
        if place:
            (top / "snapshots").mkdir() if "/" in place else None
            os.system(f"btrfs -q subvolume create {top}/{place}")
        device.make_root(top / place)

        def plan_it(top: Path = top) -> Plan:
            system = survey(str(top))
            source = conversion.find_source(system, place or "5", [""])
            return conversion.plan_init(system, source, Record(id=device.fresh_id(), created=device.NOW), device.NOW)

        plan = plan_it()
        run_first(top, plan, count)
        device.repair(top)
        if survey(str(top)).initialised:
            assert switched(plan, count)
        else:
            assert not switched(plan, count)
            run(top, plan_it())
        system = survey(str(top))
        assert boots(top) == "first"
        assert upkeep.plan_repair(system, device.NOW).every_step == ()
        assert len(system.deployments) == 1
        assert system.subvolumes["root"].id == system.default_id
        if count > len(plan.every_step):
            return
    raise AssertionError("a plan of a hundred steps")


def test_rollback_makes_a_root_where_none_is_kept(btrfs: Path) -> None:
    first = initialised(btrfs).marks.good
    deploy(btrfs, TinyImage("second", "2.0"))
    os.system(f"btrfs -q subvolume delete {btrfs}/snapshots/{first}.root")
    rollback(btrfs)
    check_settled(btrfs)
    assert boots(btrfs) == "first"


def test_a_root_that_somebody_renamed_is_given_its_name_again(btrfs: Path) -> None:
    first = initialised(btrfs).marks.good
    deploy(btrfs, TinyImage("second", "2.0"))
    commit(btrfs)
    (btrfs / "snapshots/root").rename(btrfs / "snapshots/moved")
    assert planning.plan_rollback(survey(str(btrfs)), None, device.NOW, "test").deployment == first
    device.repair(btrfs)
    check_settled(btrfs)
    rollback(btrfs)
    assert boots(btrfs) == "first"
    check_settled(btrfs)


def test_a_deployment_itself_as_default_subvolume_is_no_reason_to_rename_it(btrfs: Path) -> None:
    first = initialised(btrfs).deployments[0]
    assert first.record is not None
    second = deploy(btrfs, TinyImage("second", "2.0", base=first.record.tree))
    before = device.names(btrfs)
    os.system(f"btrfs subvolume set-default {btrfs}/snapshots/{second}")
    device.repair(btrfs)
    assert device.names(btrfs) == before
    assert survey(str(btrfs)).default is None
    rollback(btrfs, first.id)
    assert boots(btrfs) == "first"
    rollback(btrfs, second)
    check_settled(btrfs)
