"""Which local changes are brought from where to where: decided on systems as they may be found. Pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tbdiff.errors import NothingToDo
from tbupdate import carrying, planning, upkeep
from tbupdate.layout import ROOT, carried, coming
from tbupdate.record import Record
from tbupdate.steps import CarryLocal, DeleteSubvolume, Exchange, MakeSnapshot
from tbupdate.system import Subvolume, System
from tests.unit.test_planning import NOW, a_manifest, a_system, an_offer, identity, kinds


def awaiting(system: System, deployment: int, source: int) -> System:
    """The same, where changes of the root of `source` are awaited by `deployment`."""
    name = carried(identity(deployment))
    one = Subvolume(name, 500, b"w" * 16, bytes([source + 100] * 16), True)
    return replace(system, subvolumes={**system.subvolumes, name: one})


STAGED = awaiting(a_system(good=1, committed=(1,), booted=1), 2, 1)
TRIAL = awaiting(a_system(good=1, committed=(1,), booted=2), 2, 1)


@pytest.mark.parametrize(
    ("system", "source", "root"),
    [
        (a_system(), 2, ROOT),
        (a_system(booted=2), 2, ROOT),
        (a_system(good=1, committed=(1,), booted=1), 1, f"{identity(1)}.root"),
    ],
)
def test_a_deploy_brings_the_changes_of_what_runs(system: System, source: int, root: str) -> None:
    plan = planning.plan_deploy(system, a_manifest(), an_offer())
    new = identity(9)
    assert kinds(plan.steps, CarryLocal) == [CarryLocal(identity(source), carried(new), f"{new}.root", new, own=True)]
    assert MakeSnapshot(root, carried(new), read_only=True) in plan.steps
    names = [type(step).__name__ for step in plan.steps]
    assert (
        names.index("CarryLocal") < names.index("SyncFileSystem", names.index("CarryLocal")) < names.index("SetDefault")
    )


def test_what_is_the_machines_own_is_asked_of_an_installed_system_only() -> None:
    """Not of one that came by an image, nor where the image starts from that very system."""
    system = a_system()
    installed = system.deployments[-1]
    by_image = replace(installed, record=Record(id=installed.id, created=NOW, image_digest="1"))
    by_run = Record(id=installed.id, created=NOW, made_by=("run", "x"), base="gone-000000")
    made_here = replace(installed, record=by_run)
    for kept, base, own in (
        (installed, None, True),
        (installed, installed, False),
        (installed, system.deployments[0], True),
        (by_image, None, False),
        (made_here, None, False),
    ):
        here = replace(system, deployments=(*system.deployments[:-1], kept))
        steps = carrying.carry(here, identity(9), base)
        assert [step.own for step in kinds(steps, CarryLocal)] == [own]  # type: ignore[union-attr]


def test_what_was_frozen_counts_from_the_image_before_it() -> None:
    system = a_system(count=3, default=3, good=3, committed=(1, 2, 3))
    frozen = tuple(
        replace(
            kept, record=Record(id=kept.id, created=NOW, base=identity(n - 1), made_by=("run", "x") if n > 1 else ())
        )
        for n, kept in enumerate(system.deployments, 1)
    )
    system = replace(system, deployments=frozen)
    plan = planning.plan_deploy(system, a_manifest(release="9"), an_offer(allow_downgrade=True))
    assert [step.base for step in kinds(plan.steps, CarryLocal)] == [identity(1)]  # type: ignore[union-attr]
    # Who made an image that starts from what was frozen knew what is in that.
    for base in frozen[:2]:
        steps = carrying.carry(system, identity(9), base)
        assert [step.base for step in kinds(steps, CarryLocal)] == [base.id]  # type: ignore[union-attr]


def test_late_changes_come_before_the_boot_and_once_more_after_it() -> None:
    plan = carrying.plan_carry(STAGED)
    then, now = carried(identity(2)), coming(carried(identity(2)))
    bring = CarryLocal(identity(1), now, ROOT, identity(2), since=then)
    assert kinds(plan.steps, CarryLocal) == [bring]
    assert plan.steps.index(bring) < plan.steps.index(Exchange(then, now)) < plan.steps.index(DeleteSubvolume(now))
    assert upkeep.plan_repair(STAGED, NOW).every_step == ()
    late = upkeep.plan_repair(TRIAL, NOW).every_step
    assert kinds(late, CarryLocal, DeleteSubvolume) == [bring, DeleteSubvolume(then), DeleteSubvolume(now)]
    assert upkeep.plan_mending(TRIAL, NOW).every_step == (), "nothing was cut"


@pytest.mark.parametrize("system", [a_system(), a_system(booted=2), TRIAL, a_system(good=1, committed=(1,), booted=1)])
def test_where_nothing_is_awaited_there_is_nothing_to_do(system: System) -> None:
    with pytest.raises(NothingToDo, match="no deployment waits"):
        carrying.plan_carry(system)


def test_the_way_back_takes_along_what_goes_both_ways_if_the_other_one_ran() -> None:
    ran = planning.plan_rollback(TRIAL, None, NOW, "test")
    (bring,) = kinds(ran.every_step, CarryLocal)
    assert bring in ran.afterwards, "a full disk must not hold a rollback back"
    assert bring == CarryLocal(identity(2), coming(carried(identity(1))), f"{identity(1)}.root", identity(1), back=True)
    never_ran = planning.plan_rollback(STAGED, None, NOW, "test")
    assert kinds(never_ran.every_step, CarryLocal) == []
    for plan in (ran, never_ran):
        assert DeleteSubvolume(carried(identity(2))) in plan.afterwards


def test_what_waits_for_nobody_is_cleared() -> None:
    stray = awaiting(a_system(), 1, 2)
    assert DeleteSubvolume(carried(identity(1))) in upkeep.plan_repair(stray, NOW).steps
