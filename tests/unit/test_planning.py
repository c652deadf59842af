"""Planning as tables: systems as they may be found, and what is decided on them. Pure: nothing is mounted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from tbdiff.errors import NothingToDo, Rejected, Stop
from tbdiff.manifest import Manifest, Target, Way
from tbupdate import booting, planning, status, upkeep
from tbupdate.boot.chooser import Choice
from tbupdate.bootvocabulary import AddEntry, Choose, MakeTries, PutKernel, RequireBootable
from tbupdate.journal import NO_LOG, Tail
from tbupdate.layout import CURRENT, PREVIOUS, ROOT
from tbupdate.marks import Marks
from tbupdate.mirrors import SHOWN, SPARE, settle
from tbupdate.offer import Offer
from tbupdate.record import Record
from tbupdate.space import Space
from tbupdate.steps import (
    ApplyImage,
    DeleteSubvolume,
    Exchange,
    MakeSnapshot,
    MakeSubvolume,
    Rename,
    SetDefault,
    SetMark,
    Step,
)
from tbupdate.system import Boot, Deployment, Subvolume, System

NOW = "2020-02-02T02:02:02Z"
ROOM = Space(1 << 40, 1 << 40, 1 << 41)


def identity(number: int) -> str:
    return f"{number}.0-{number:06x}"


def tree(number: int) -> str:
    return f"{number:064x}"


def a_system(
    count: int = 2,
    default: int = 2,
    good: int = 2,
    booted: int | None = None,
    committed: tuple[int, ...] = (1, 2),
    **more: Any,
) -> System:
    """Deployments 1 to `count`, each with its root; `booted` is whose root runs."""
    held: dict[str, Subvolume] = {}
    kept = []
    for n in range(1, count + 1):
        own = Subvolume(identity(n), 256 + n, bytes([n] * 16), b"\0" * 16, True)
        root = Subvolume(
            ROOT if n == default else f"{identity(n)}.root", 300 + n, bytes([n + 100] * 16), own.uuid, False
        )
        held |= {own.name: own, root.name: root}
        record = Record(id=identity(n), release=f"{n}.0", epoch=n, tree=tree(n), created=NOW)
        kept.append(Deployment(identity(n), own, record, (root,)))
    held[CURRENT] = Subvolume(CURRENT, 400, b"c" * 16, bytes([default] * 16), True)
    back = good if good != default else max((n for n in committed if n != default), default=0)
    if back:
        held[PREVIOUS] = Subvolume(PREVIOUS, 401, b"p" * 16, bytes([back] * 16), True)
    marks = Marks(good=identity(good), committed={identity(n): NOW for n in committed}, **more)
    return System(
        default_id=300 + default,
        booted_id=300 + booted if booted else None,
        subvolumes=held,
        deployments=tuple(kept),
        marks=marks,
        records=frozenset(one.id for one in kept),
        space=ROOM,
        has_snapshots=True,
    )


def without_records(system: System) -> System:
    return replace(system, deployments=tuple(replace(kept, record=None) for kept in system.deployments))


def a_manifest(base: int | None = None, leads_to: int = 9, free: int = 0, **target: Any) -> Manifest:
    made = {"release": f"{leads_to}.0", "epoch": leads_to, "tree": tree(leads_to), "entries": 10} | target
    way = Way(target="0" * 64, base=tree(base) if base else None, chunks="0" * 64, free=free)
    return Manifest(target=Target(**made), way=way)


def an_offer(**more: Any) -> Offer:
    return Offer(**({"id": identity(9), "now": NOW, "image_digest": "1" * 64, "signers": ("k",)} | more))


def kinds(steps: tuple[Step, ...], *wanted: type) -> list[Step]:
    return [step for step in steps if isinstance(step, wanted)]


def test_a_settled_system_needs_no_repair() -> None:
    for system in (a_system(), a_system(good=1, committed=(1,)), a_system(booted=2), a_system(count=5)):
        assert upkeep.plan_repair(system, NOW).every_step == ()


def test_a_delta_is_applied_to_a_snapshot_of_its_base_and_a_full_image_to_nothing() -> None:
    plan = planning.plan_deploy(a_system(), a_manifest(base=1), an_offer())
    assert MakeSnapshot(identity(1), f"{identity(9)}.partial") in plan.steps
    assert ApplyImage(f"{identity(9)}.partial", identity(1)) in plan.steps
    plan = planning.plan_deploy(a_system(), a_manifest(), an_offer())
    assert MakeSubvolume(f"{identity(9)}.partial") in plan.steps
    assert kinds(plan.every_step, SetDefault) == [SetDefault(f"{identity(9)}.root")]


REJECTED: list[tuple[str, System, Manifest, dict[str, Any]]] = [
    ("starts from the tree", a_system(), a_manifest(base=8), {}),
    ("runs on trial", a_system(good=1, committed=(1,), booted=2), a_manifest(), {}),
    ("older than", a_system(), a_manifest(leads_to=7, release="1.9"), {}),
    ("epoch", a_system(), a_manifest(epoch=1), {}),
    ("epoch", a_system(good=1), a_manifest(epoch=1), {}),
    ("epoch", a_system(epoch=4), a_manifest(epoch=3), {}),
    ("epoch", without_records(a_system(epoch=4)), a_manifest(epoch=3), {}),
    ("record", without_records(a_system()), a_manifest(), {}),
    ("no release", a_system(), a_manifest(release=None), {}),
    ("is for pump", a_system(), a_manifest(device_types=("pump",)), {}),
    ("is for pump", a_system(), a_manifest(device_types=("pump",)), {"device_type": "valve"}),
    ("not enough space", a_system(), a_manifest(free=1 << 41), {}),
    ("not enough space", a_system(), a_manifest(), {"reserve": 1 << 41}),
    ("not enough metadata", a_system(), a_manifest(entries=1 << 40), {}),
    ("no deployments yet", System(default_id=5), a_manifest(), {}),
]


@pytest.mark.parametrize(
    ("words", "system", "manifest", "more"), REJECTED, ids=lambda v: v if isinstance(v, str) else ""
)
def test_deploy_rejects(words: str, system: System, manifest: Manifest, more: dict[str, Any]) -> None:
    with pytest.raises(Rejected, match=words) as refused:
        planning.plan_deploy(system, manifest, an_offer(**more))
    assert refused.value.remedy


def test_a_commit_raises_the_epoch_and_nothing_lowers_it() -> None:
    staged = a_system(good=1, committed=(1,))
    assert SetMark("epoch", "2") in planning.plan_commit(staged, NOW).steps
    higher = a_system(good=1, committed=(1,), epoch=7)
    assert "epoch" not in " ".join(map(str, planning.plan_commit(higher, NOW).steps))
    planning.plan_deploy(staged, a_manifest(epoch=1, release="1.5"), an_offer())
    planning.plan_deploy(without_records(a_system(epoch=4)), a_manifest(epoch=3), an_offer(allow_downgrade=True))


def test_deploy_accepts() -> None:
    for manifest, more in (
        (a_manifest(device_types=("pump", "valve")), {"device_type": "valve"}),
        (a_manifest(release="1.0", epoch=0), {"allow_downgrade": True}),
        (a_manifest(release="2.0"), {}),
        (a_manifest(release=None), {"allow_downgrade": True}),
    ):
        planning.plan_deploy(a_system(), manifest, an_offer(**more))


def test_a_downgrade_is_measured_against_what_was_committed_not_against_what_is_staged() -> None:
    system = a_system(count=3, default=3, good=1, committed=(1,))
    planning.plan_deploy(system, a_manifest(release="2.5"), an_offer())


def test_there_is_nothing_to_deploy_when_it_boots_next_already() -> None:
    with pytest.raises(NothingToDo):
        planning.plan_deploy(a_system(booted=2, good=1, committed=(1,)), a_manifest(leads_to=2), an_offer())


@pytest.mark.parametrize(
    ("system", "named", "leads_to"),
    [
        (a_system(), None, 1),
        (a_system(good=1, committed=(1,)), None, 1),
        (a_system(count=3, default=3, good=3, committed=(1, 2, 3)), identity(1), 1),
        (a_system(count=3, default=3, good=3, committed=(1, 2, 3)), "1.0", 1),
        (a_system(), "previous", 1),
        (a_system(count=1, default=1, good=1, committed=(1,)), None, Rejected),
        (a_system(), "9.0", Rejected),
        (a_system(), "", Rejected),
        (a_system(), "current", NothingToDo),
    ],
)
def test_rollback_leads_to(system: System, named: str | None, leads_to: int | type[Stop]) -> None:
    if isinstance(leads_to, int):
        plan = planning.plan_rollback(system, named, NOW, "test")
        assert plan.deployment == identity(leads_to)
        assert SetDefault(f"{identity(leads_to)}.root") in plan.steps
    else:
        with pytest.raises(leads_to):
            planning.plan_rollback(system, named, NOW, "test")


def test_status_names_no_way_back_to_where_one_is() -> None:
    """On a full disk `previous` may lag behind."""
    system = a_system(count=1, default=1, good=1, committed=(1,))
    lagging = Subvolume(PREVIOUS, 401, b"p" * 16, bytes([1] * 16), True)
    system = replace(system, subvolumes={**system.subvolumes, PREVIOUS: lagging})
    assert "goes back to: nothing" in status.summary(system)


def test_rollback_needs_no_new_name_before_the_switch() -> None:
    """On a file system that is full, attributes and the switch work; creating and renaming do not."""
    plan = planning.plan_rollback(a_system(good=1, committed=(1,), booted=2), None, NOW, "test")
    assert not kinds(plan.steps, MakeSnapshot, MakeSubvolume, Rename, Exchange)


def test_a_committed_deployment_can_be_left_as_bad() -> None:
    plan = planning.plan_rollback(a_system(), None, NOW, "it leaks", bad=True)
    marked = {step.mark: step.value for step in plan.steps if isinstance(step, SetMark)}
    assert marked[f"bad.{identity(2)}"] == "it leaks"
    assert marked["failed"].startswith(tree(2))
    assert not any(
        step.mark.startswith("bad.")
        for step in planning.plan_rollback(a_system(), None, NOW, "test").steps
        if isinstance(step, SetMark)
    )
    left = replace(a_system(default=1, good=1), marks=replace(a_system(good=1).marks, failed=f"{tree(2)} x: it leaks"))
    with pytest.raises(Rejected, match="it leaks"):
        planning.plan_deploy(left, a_manifest(leads_to=2), an_offer())


def test_a_program_leaves_what_was_committed_once_and_goes_no_further() -> None:
    three = a_system(3, default=3, good=3, committed=(1, 2, 3), booted=3)
    plan = planning.plan_leave(three, NOW, "it leaks")
    assert plan.deployment == identity(2)
    assert f"bad.{identity(3)}" in {step.mark for step in plan.steps if isinstance(step, SetMark)}
    # The second that says so in the same boot.
    left = a_system(3, default=2, good=2, committed=(1, 2, 3), booted=3, bad={identity(3): "it leaks"})
    with pytest.raises(NothingToDo, match="left already"):
        planning.plan_leave(left, NOW, "it leaks, too")
    # And after the reboot: what fails there too is not the fault of a deployment.
    again = a_system(3, default=2, good=2, committed=(1, 2, 3), booted=2, bad={identity(3): "it leaks"})
    with pytest.raises(Rejected, match="gone back to"):
        planning.plan_leave(again, NOW, "it leaks here as well")
    assert planning.plan_rollback(again, None, NOW, "by hand").deployment == identity(1)
    # A next release has its own chance, on trial and after it.
    fourth = a_system(4, default=4, good=2, committed=(1, 2, 3), booted=4, bad={identity(3): "it leaks"})
    assert planning.plan_leave(fourth, NOW, "no").deployment == identity(2)
    with pytest.raises(Rejected, match="no earlier"):
        planning.plan_leave(a_system(1, default=1, good=1, committed=(1,), booted=1), NOW, "no")


@pytest.mark.parametrize(
    ("system", "error"),
    [
        (a_system(), NothingToDo),
        (a_system(good=1, committed=(1,), booted=1), Rejected),
        (a_system(good=1, committed=(1,), booted=2), None),
        (a_system(good=1, committed=(1,)), None),
        (replace(a_system(), default_id=5), Rejected),
    ],
)
def test_commit(system: System, error: type[Stop] | None) -> None:
    if error is None:
        assert planning.plan_commit(system, NOW).deployment == identity(2)
    else:
        with pytest.raises(error):
            planning.plan_commit(system, NOW)


def test_prune_never_takes_what_is_needed() -> None:
    system = a_system(count=9, default=4, good=3, booted=2, committed=(1, 2, 3), pinned=frozenset({identity(1)}))
    kept = {one.deployment for one in upkeep.judge(system, 1) if one.kept}
    assert kept == {identity(n) for n in (1, 2, 3, 4)}
    kept = {one.deployment for one in upkeep.judge(system, 6) if one.kept}
    assert kept == {identity(n) for n in (1, 2, 3, 4, 8, 9)}
    deleted = {step.name for step in upkeep.plan_prune(system, 1, NOW).steps if isinstance(step, DeleteSubvolume)}
    assert deleted == {name for n in (5, 6, 7, 8, 9) for name in (identity(n), f"{identity(n)}.root")}


def test_what_failed_goes_before_what_worked() -> None:
    bad = {identity(7): "slow", identity(8): "slow"}
    system = a_system(count=8, default=3, good=3, booted=3, committed=(1, 2, 3, 4, 5), bad=bad)
    verdicts = {one.deployment: one for one in upkeep.judge(system, 5)}
    assert {name for name, one in verdicts.items() if one.kept} == {identity(n) for n in (2, 3, 4, 5, 6)}
    assert verdicts[identity(8)].why == "failed here"
    # With room for one of them the newer one stays, until there is too little room on the disk.
    assert {one.deployment for one in upkeep.judge(system, 7) if not one.kept} == {identity(7)}
    verdicts = {one.deployment: one for one in upkeep.judge(system, 9, min_free=1 << 60)}
    assert [name for name, one in verdicts.items() if not one.kept] == [identity(7)]
    assert verdicts[identity(7)].why.startswith("failed here, and goes first: only")


def test_what_a_rollback_of_what_is_staged_goes_back_to_keeps_its_own_way_back() -> None:
    system = a_system(count=9, default=9, good=4, booted=4, committed=(1, 2, 3, 4), bad={identity(3): "slow"})
    verdicts = {one.deployment: one for one in upkeep.judge(system, 3)}
    assert {name for name, one in verdicts.items() if one.kept} == {identity(n) for n in (2, 4, 9)}
    assert verdicts[identity(2)].why == "is where what was committed last goes back to"


def test_prune_leaves_roots_that_hold_other_subvolumes() -> None:
    system = a_system(count=3, default=3, good=3, committed=(2, 3))
    root = replace(system.deployments[0].roots[0], nested=("var/lib/docker/x",))
    first = replace(system.deployments[0], roots=(root,))
    system = replace(
        system, deployments=(first, *system.deployments[1:]), subvolumes=dict(system.subvolumes) | {root.name: root}
    )
    with pytest.raises(NothingToDo):
        upkeep.plan_prune(system, 1, NOW)
    with pytest.raises(Rejected, match="docker"):
        upkeep.plan_remove(system, identity(1), NOW)


def test_the_repair_clears_an_unfinished_deployment_but_never_one_that_counts() -> None:
    system = a_system(count=3, default=2, good=2, deploying=identity(3))
    deleted = {step.name for step in upkeep.plan_repair(system, NOW).every_step if isinstance(step, DeleteSubvolume)}
    assert deleted == {identity(3), f"{identity(3)}.root"}
    for counts in (replace(system, booted_id=303), a_system(count=3, committed=(1, 2, 3), deploying=identity(3))):
        assert not kinds(upkeep.plan_repair(counts, NOW).every_step, DeleteSubvolume)


# --- the names, whatever they were ----------------------------------------------------------------------------------

IDS = ("a-000001", "b-000002", "c-000003")


@st.composite
def found_names(draw: st.DrawFn) -> tuple[dict[str, str], str, str | None]:
    roots = draw(
        st.dictionaries(
            st.sampled_from([ROOT, *(f"{one}.root" for one in IDS)]), st.sampled_from([*IDS, ""]), min_size=1
        )
    )
    shown = draw(st.dictionaries(st.sampled_from(SHOWN + SPARE), st.sampled_from([*IDS, ""])))
    default = draw(st.sampled_from(sorted(roots)))
    roots[default] = roots[default] or IDS[0]
    back = draw(st.sampled_from([None, *(one for one in IDS if one != roots[default])]))
    return roots | shown, default, back


@hypothesis.given(found_names(), st.data())
def test_what_runs_is_never_deleted(found: tuple[dict[str, str], str, str | None], data: st.DataObject) -> None:
    held, default, back = found
    runs = data.draw(st.sampled_from(sorted(held)))
    steps = settle(held, default, back, frozenset({default, runs}))
    assert "!" in "".join(play(held, runs, steps).values())


@hypothesis.given(found_names())
def test_names_settle_from_wherever_they_were(found: tuple[dict[str, str], str, str | None]) -> None:
    held, default, back = found
    steps = settle(held, default, back, frozenset({default}))
    after = play(held, default, steps)
    assert after[ROOT] == f"{held[default]}!"
    assert after[CURRENT] == held[default]
    assert after.get(PREVIOUS) == back
    assert not set(SPARE) & set(after)
    roots = sorted(of for name, of in held.items() if name == ROOT or name.endswith(".root"))
    assert sorted(of.rstrip("!") for name, of in after.items() if name == ROOT or name.endswith(".root")) == roots
    plain = {name: of.rstrip("!") for name, of in after.items()}
    assert settle(plain, ROOT, back, frozenset()) == ()


def play(held: Mapping[str, str], default: str, steps: tuple[Step, ...]) -> dict[str, str]:
    """What the names are after the steps; the default subvolume is marked, so that it can be followed."""
    names = dict(held) | {default: f"{held[default]}!"}
    for step in steps:
        match step:
            case Exchange(one, other):
                names[one], names[other] = names[other], names[one]
            case Rename(old, new):
                assert new not in names
                names[new] = names.pop(old)
            case MakeSnapshot(source, name, True):
                assert name not in names
                names[name] = source
            case DeleteSubvolume(name):
                assert "!" not in names.pop(name)
            case _:
                raise AssertionError(step)
        assert {ROOT, *SHOWN} & set(held) <= set(names) | {PREVIOUS}
    return names


# --- with a boot chooser ----------------------------------------------------------------------------------------------


def a_boot(choice: Choice, tries: int = 3, **more: Any) -> Boot:
    entries = frozenset(identity(n) for n in (1, 2, 3))
    return Boot("grub", choice, entries, "root-uuid", "boot-uuid", tries=tries, **more)


def on_trial(left: int = 2, held: int = 2, booted: int | None = 2, **more: Any) -> System:
    choice = Choice(identity(1), identity(2), left, identity(1))
    system = a_system(good=1, committed=(1,), booted=booted)
    return replace(system, boot=a_boot(choice, **more), tries={identity(2): held})


def test_the_boot_chooser_says_what_boots_next() -> None:
    assert on_trial().default == on_trial().get(identity(2))
    assert on_trial(left=0, booted=1).default == on_trial().get(identity(1))
    # Its last try may be this very boot.
    assert on_trial(left=0, booted=2).trial == on_trial().get(identity(2))


def test_a_deploy_with_a_chooser_switches_once_and_last() -> None:
    plan = planning.plan_deploy(replace(a_system(), boot=a_boot(Choice(identity(2)))), a_manifest(), an_offer())
    kinds_of = [type(step) for step in plan.steps]
    assert kinds_of.index(PutKernel) < kinds_of.index(AddEntry) < kinds_of.index(Choose) < kinds_of.index(SetDefault)
    assert kinds_of.index(ApplyImage) < kinds_of.index(RequireBootable) < kinds_of.index(Rename)
    assert kinds(plan.every_step, Choose) == [Choose(Choice(identity(2), identity(9), 3, identity(2)))]
    (entry,) = (step for step in plan.steps if isinstance(step, AddEntry))
    assert f"tb.id={identity(9)} tb.boot=UUID=boot-uuid" in entry.options
    assert entry.options.startswith("root=UUID=root-uuid")


def test_a_rollback_with_a_chooser_needs_no_new_name_before_the_switch() -> None:
    plan = planning.plan_rollback(on_trial(), None, NOW, "test")
    assert not kinds(plan.steps, MakeSnapshot, MakeSubvolume, Rename, Exchange, PutKernel, AddEntry)
    assert kinds(plan.steps, Choose) == [Choose(Choice(identity(1)))]


def test_a_clean_reboot_gives_the_try_back() -> None:
    plan = booting.plan_give_back(on_trial(left=1, held=0), NOW)
    assert plan.steps == (Choose(Choice(identity(1), identity(2), 2, identity(1))),)
    assert plan.afterwards[0] == MakeTries(identity(2), 1)
    for nothing in (on_trial(left=3, held=3), on_trial(booted=1), a_system(), a_system(booted=2)):
        with pytest.raises(NothingToDo):
            booting.plan_give_back(nothing, NOW)


@pytest.mark.parametrize(
    ("system", "why"),
    [
        (on_trial(left=0, held=3, booted=1), "the initramfs was never reached"),
        (on_trial(left=0, held=1, booted=1), "never committed"),
        (on_trial(left=3, held=3, booted=1, note=f"{identity(3)}: it has no init"), None),
        (on_trial(left=1, held=1, booted=1), None),
        (on_trial(left=0, held=0, booted=2), None),
        (a_system(), None),
    ],
)
def test_what_was_left_by_itself_is_told_from_what_goes_on(system: System, why: str | None) -> None:
    failed = booting.fallen(system)
    assert (booting.why_fallen(system, failed, NO_LOG) if failed else None) == why or (why and failed)
    panicked = Tail(("Kernel panic - not syncing: no working init", "Call Trace:"))
    assert failed is None or booting.why_fallen(system, failed, panicked) == "its kernel panicked: no working init"
    plan = upkeep.plan_repair(system, NOW)
    marked = [step for step in plan.every_step if isinstance(step, SetMark) and step.mark.startswith("bad.")]
    assert len(marked) == (1 if why else 0)
    if why:
        assert why in marked[0].value


def test_what_the_boot_chooser_may_boot_is_never_removed() -> None:
    system = a_system(count=5, default=5, good=5, committed=(1, 2, 3, 4, 5))
    system = replace(system, boot=a_boot(Choice(identity(5), back=identity(2))))
    assert {one.deployment for one in upkeep.judge(system, 1) if one.kept} >= {identity(5), identity(2)}
