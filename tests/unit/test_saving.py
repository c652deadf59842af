"""What is saved of a root that is made anew, what may go, and when it is refused: decided on systems. Pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tbdiff.errors import NothingToDo, Rejected
from tbupdate import carrying, layout, planning, resetting, saving, status, upkeep
from tbupdate.boot.chooser import Choice
from tbupdate.layout import ROOT, carried
from tbupdate.rootvocabulary import ForgetSaved, ProveSaved
from tbupdate.saved import Saved
from tbupdate.steps import CarryLocal, DeleteSubvolume, Exchange, MakeSnapshot, Rename, Step
from tbupdate.system import Boot, Subvolume, System
from tests.unit.test_planning import NOW, a_manifest, a_system, an_offer, identity, kinds


def anew(*numbers: int, damaged: tuple[int, ...] = (), of: int = 2, **more: int) -> System:
    """A system whose deployment `of` runs and is thrown away at each boot, with those saved copies."""
    system = a_system(**{"booted": of} | more)  # type: ignore[arg-type]
    held, copies = dict(system.subvolumes), []
    for number in numbers:
        name = layout.saved(identity(of), number)
        held[name] = Subvolume(name, 600 + number, b"s" * 15 + bytes([number]), bytes([of] * 16), True)
        copies.append(Saved(number, name, whole=number not in damaged))
    kept = tuple(
        replace(one, saved=tuple(copies) if one.id == identity(of) else (), volatile=one.id == identity(of))
        for one in system.deployments
    )
    good = system.marks.good or ""
    trial = identity(of) if good != identity(of) else None
    choice = Choice(good, trial, 3 if trial else 0, good if trial else None)
    boot = Boot("grub", choice, frozenset(one.id for one in kept), "root", "partition")
    return replace(system, subvolumes=held, deployments=kept, boot=boot)


def root_of_copy(system: System, number: int, name: str, uuid: int) -> System:
    """The same with another root, made of a saved copy."""
    copy = system.subvolumes[layout.saved(identity(2), number)]
    root = Subvolume(name, 700 + uuid, bytes([uuid] * 16), copy.uuid, False)
    kept = tuple(replace(one, roots=(*one.roots, root)) if one.id == identity(2) else one for one in system.deployments)
    return replace(system, subvolumes={**system.subvolumes, name: root}, deployments=kept)


def deleted(steps: tuple[Step, ...]) -> list[str]:
    return [step.name for step in steps if isinstance(step, DeleteSubvolume)]


@pytest.mark.parametrize(
    ("numbers", "damaged", "made", "gone"),
    [
        ((), (), 1, []),
        ((1,), (), 2, []),
        ((1, 2), (), 3, [1]),
        ((4, 5), (5,), 6, [5]),
        ((4, 5), (4, 5), 6, [4, 5]),
    ],
)
def test_the_new_copy_and_the_newest_whole_one_before_it_stay(
    numbers: tuple[int, ...], damaged: tuple[int, ...], made: int, gone: list[int]
) -> None:
    plan = saving.plan_save(anew(*numbers, damaged=damaged), NOW, wanted=True)
    assert kinds(plan.steps, ProveSaved) == [ProveSaved(identity(2), made)]
    assert kinds(plan.every_step, ForgetSaved) == [ForgetSaved(identity(2), one) for one in gone]
    # What proved a copy before goes when the new one is proved.
    assert not kinds(plan.steps, ForgetSaved)
    assert {layout.saved(identity(2), one) for one in gone} <= set(deleted(plan.afterwards))


def test_a_copy_is_proved_last_and_what_is_in_it_is_durable_then() -> None:
    steps = [type(step).__name__ for step in saving.plan_save(anew(1), NOW, wanted=True).steps]
    proved = steps.index("ProveSaved")
    assert steps[proved - 1] == "SyncFileSystem"
    assert steps.index("CarryLocal") < steps.index("SyncFileSystem") < steps.index("MakeReadOnly") < proved
    assert steps[proved + 1 :] == ["SyncFileSystem"]


def test_when_nothing_can_be_saved() -> None:
    with pytest.raises(Rejected, match="nothing has to be saved"):
        saving.plan_save(a_system(booted=2), NOW, wanted=False)
    with pytest.raises(Rejected, match="no boot loader"):
        saving.plan_save(a_system(booted=2), NOW, wanted=True)
    with pytest.raises(NothingToDo):
        saving.plan_drop(anew(), NOW)


def test_drop_forgets_the_newest_last() -> None:
    plan = saving.plan_drop(anew(3, 4), NOW)
    assert kinds(plan.steps, ForgetSaved) == [ForgetSaved(identity(2), 3), ForgetSaved(identity(2), 4)]


def test_what_a_root_was_made_of_stays_as_long_as_the_root() -> None:
    system = root_of_copy(anew(1, 2), 1, f"{identity(2)}.root", 9)
    assert system.made_from(system.subvolumes[f"{identity(2)}.root"]) == system.get(identity(2))
    assert layout.saved(identity(2), 1) not in deleted(saving.plan_drop(system, NOW).every_step)
    assert layout.saved(identity(2), 2) in deleted(saving.plan_drop(system, NOW).every_step)


def test_a_deploy_brings_what_was_saved_and_not_what_runs() -> None:
    for system, source in ((anew(1, 2), layout.saved(identity(2), 2)), (anew(), identity(2))):
        plan = planning.plan_deploy(system, a_manifest(), an_offer())
        assert MakeSnapshot(source, carried(identity(9)), read_only=True) in plan.steps
    damaged = planning.plan_deploy(anew(1, 2, damaged=(2,)), a_manifest(), an_offer())
    assert MakeSnapshot(layout.saved(identity(2), 1), carried(identity(9)), read_only=True) in damaged.steps


def test_reset_forgets_what_was_saved_before_it_switches() -> None:
    system = anew(1, 2)
    there = system.get(identity(2))
    assert there is not None
    steps = [type(step).__name__ for step in resetting.plan_reset(system, there, NOW).steps]
    assert steps.index("ForgetSaved") < steps.index("Choose")


def test_a_root_that_was_made_anew_gets_its_name_and_the_old_one_goes() -> None:
    fresh = f"{identity(2)}.root"
    system = root_of_copy(anew(1), 1, fresh, 9)
    system = replace(system, default_id=709, booted_id=709)
    kept = tuple(
        replace(one, roots=tuple(reversed(one.roots))) if one.id == identity(2) else one for one in system.deployments
    )
    system = replace(system, deployments=kept)
    assert saving.is_anew(system)
    assert not status.interrupted(system)
    plan = upkeep.plan_repair(system, NOW)
    assert plan.steps == ()
    assert kinds(plan.afterwards, Exchange, Rename) == [Exchange(ROOT, fresh)]
    # The old root has the name of the new one by then.
    assert deleted(plan.afterwards) == [fresh]
    assert not [step for step in plan.afterwards if type(step).__name__ == "AppendHistory"]


def test_a_copy_that_was_never_proved_is_removed() -> None:
    system = anew(1, 2)
    kept = tuple(replace(one, saved=one.saved[:1]) for one in system.deployments)
    plan = upkeep.plan_repair(replace(system, deployments=kept), NOW)
    assert deleted(plan.every_step) == [layout.saved(identity(2), 2)]


def test_what_is_lost_with_the_boot_is_not_brought_late() -> None:
    system = anew(1, of=1, default=2, good=1)
    name = carried(identity(2))
    then = Subvolume(name, 500, b"w" * 16, system.subvolumes[layout.saved(identity(1), 1)].uuid, True)
    system = replace(system, subvolumes={**system.subvolumes, name: then})
    choice = Choice(identity(1), identity(2), 3, identity(1))
    assert system.boot is not None
    system = replace(system, boot=replace(system.boot, choice=choice))
    with pytest.raises(NothingToDo):
        carrying.plan_carry(system)
    # But what is saved until then is.
    (_, late) = kinds(saving.plan_save(system, NOW, wanted=True).every_step, CarryLocal)
    assert (late.base, late.source, late.since) == (identity(1), layout.saved(identity(1), 2), name)  # type: ignore[union-attr]
    assert late.to == f"{ROOT}"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "of"),
    [
        (f"{identity(1)}.saved.000001", identity(1)),
        (f"{identity(1)}.saved.1", None),
        (f"{identity(1)}.root", None),
        ("x.saved.000001", None),
    ],
)
def test_names_of_saved_copies(name: str, of: str | None) -> None:
    assert layout.saved_of(name) == of
    assert not layout.is_id(name)
