"""Decide: from the system as it was found, and what is asked for, to a plan. Pure; nothing here looks or touches."""

from __future__ import annotations

from tbdiff.errors import NothingToDo, Rejected
from tbdiff.manifest import Manifest
from tbupdate import booting, carrying, layout, marks
from tbupdate.boot.chooser import Choice
from tbupdate.history import Event
from tbupdate.journal import NO_LOG, Tail
from tbupdate.layout import CURRENT, coming, kept_root, partial
from tbupdate.mirrors import held_names, settle, way_back
from tbupdate.offer import (
    Offer,
    find_base,
    image_facts,
    notes_on_signers,
    record_of,
    refuse_downgrade,
    refuse_other_devices,
    refuse_what_failed,
    refuse_what_is_there,
    refuse_without_space,
)
from tbupdate.record import Record
from tbupdate.rootvocabulary import TellHidden
from tbupdate.steps import (
    AppendHistory,
    ApplyImage,
    ClearMark,
    MakeReadOnly,
    MakeSnapshot,
    MakeSubvolume,
    Plan,
    Rename,
    SetMark,
    Step,
    SyncFileSystem,
    WriteRecord,
)
from tbupdate.system import Deployment, System


def plan_deploy(system: System, manifest: Manifest, offer: Offer) -> Plan:
    """An image becomes a new deployment beside the others, and what boots next."""
    record, steps = make(system, manifest, offer)
    prepare, switch, afterwards = take_up(system, record)
    event = Event(offer.now, "deploy", offer.id, more=image_facts(manifest, offer, record.base))
    return Plan(
        offer.id,
        (*steps, *prepare, *switch),
        (*afterwards, SyncFileSystem(), AppendHistory(event)),
        (*notes_on_staged(system), *notes_on_signers(offer)),
    )


def make(system: System, manifest: Manifest, offer: Offer) -> tuple[Record, tuple[Step, ...]]:
    """The steps after which the new deployment is complete beside the others, and its record."""
    require_layout(system)
    refuse_foreign_names(system)
    refuse_what_is_there(system, manifest)
    refuse_during_trial(system)
    refuse_other_devices(manifest, offer)
    if not offer.allow_downgrade:
        refuse_downgrade(system, manifest)
    base = find_base(system, manifest)
    refuse_without_space(system, manifest, base, offer)

    refuse_what_failed(system, manifest, offer)
    new, unfinished = offer.id, partial(offer.id)
    record = record_of(manifest, offer, base)
    begin = MakeSnapshot(base.id, unfinished) if base else MakeSubvolume(unfinished)
    steps: tuple[Step, ...] = (
        SetMark(marks.DEPLOYING, new),
        begin,
        ApplyImage(unfinished, base.id if base else None, booting.kernel(system, record)),
        *booting.require(system, unfinished, record),
        WriteRecord(record),
        SyncFileSystem(),
        MakeReadOnly(unfinished),
        Rename(unfinished, new),
    )
    return record, steps


def take_up(system: System, record: Record) -> tuple[tuple[Step, ...], tuple[Step, ...], tuple[Step, ...]]:
    """What gives a complete deployment all that it boots with, what switches to it, and what follows."""
    new = record.id
    prepare: tuple[Step, ...] = (
        MakeSnapshot(new, kept_root(new)),
        *carrying.carry(system, new, system.get(record.base)),
        TellHidden(kept_root(new)),
        MakeSnapshot(new, coming(CURRENT), read_only=True),
        *booting.give_tries(system, new),
        SyncFileSystem(),
        *booting.add(system, record),
    )
    switch, names = switch_to(system, new)
    left = (*booting.drop_tries(system, system.staged), *carrying.forget_all(system))
    return prepare, switch, (*left, *names)


def notes_on_staged(system: System) -> tuple[str, ...]:
    """That something else was to boot next."""
    return (f"It takes the place of {system.staged.id}, which was staged.",) if system.staged else ()


def switch_to(system: System, new: str) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """What makes a new deployment boot next, on trial; and what its names then do, with its root and `current` made."""
    switch = (
        *booting.switch(system, kept_root(new), booting.on_trial(system, new)),
        *((ClearMark(marks.READY),) if system.ready and system.ready.id == new else ()),
        ClearMark(marks.DEPLOYING),
    )
    held = held_names(system) | {kept_root(new): new, coming(CURRENT): new}
    back = way_back(system, new, system.marks.good)
    return switch, settle(held, kept_root(new), back, names_in_use(system))


def plan_rollback(
    system: System, target: str | None, now: str, reason: str, log: Tail = NO_LOG, *, bad: bool = False
) -> Plan:
    """Another kept deployment becomes what boots next; one that was never committed (or is `bad`) is marked as bad.

    `log` is how the boot that failed ended, for the history.
    """
    require_layout(system)
    here, there = system.default, find_way_back(system, target)
    if here == there:
        raise NothingToDo(f"{there.id} is what boots next already")

    steps: list[Step] = []
    left = system.pending or (here if bad else None)
    if left is not None:
        steps += booting.mark_bad(left, reason)
    held = held_names(system)
    if there.roots:
        root = there.roots[0].name
    else:
        root = next(name for name in free_roots(there.id) if name not in system.subvolumes)
        steps += [MakeSnapshot(there.id, root), SyncFileSystem()]
        held[root] = there.id
    good, choice = system.marks.good, booting.on_trial(system, there.id)
    steps += booting.add_missing(system, there)
    if system.is_committed(there):
        choice = Choice(there.id, back=way_back(system, there.id, there.id))
    else:
        steps += [*booting.give_tries(system, there.id), SyncFileSystem()]
    steps += booting.switch(system, root, choice)
    if system.is_committed(there):
        good = there.id
        steps += [SetMark(marks.GOOD, there.id), SyncFileSystem()]
    names = settle(held, root, way_back(system, there.id, good), names_in_use(system))
    more = {"from": here.id if here else None, "reason": reason} | log.to_fields()
    event = Event(now, "rollback", there.id, more=more)
    # Behind the switch, for a full disk must hold nobody back.
    follow = carrying.follow(system, system.booted or here, there, root)
    left_over = (*booting.drop_tries(system, here), *carrying.forget_all(system))
    afterwards = (*follow, *left_over, *names, SyncFileSystem(), AppendHistory(event))
    return Plan(there.id, tuple(steps), afterwards)


def plan_leave(system: System, now: str, reason: str, log: Tail = NO_LOG) -> Plan:
    """Leave what runs as bad, because a program found that it does not work; also what was committed, but only once.

    Several that find the same must not go back one after the other; and what was gone back to is not left in its turn:
    what fails there too, as a network may, is not the deployment's fault.
    """
    require_layout(system)
    here = system.booted
    if here is None or here != system.default:
        raise NothingToDo("what runs is not what boots next, so it is left already", "It ends with the next reboot.")
    newer = system.deployments[system.deployments.index(here) + 1 :]
    failed = next((kept.id for kept in reversed(newer) if kept.id in system.marks.bad), None)
    if failed is not None and system.pending is None:
        raise Rejected(
            f"{here.id} is what was gone back to from {failed}, and is not left in its turn; nothing was changed",
            "Look what they have in common; a person can go further back: tb-update rollback ID",
        )
    return plan_rollback(system, None, now, reason, log, bad=True)


def plan_commit(system: System, now: str) -> Plan:
    """The deployment on trial (or staged, on an image of another system) is kept for good."""
    require_layout(system)
    pending = system.pending
    if pending is None:
        if system.default is None:
            raise Rejected("the default subvolume is none of the deployments", "See: tb-update doctor")
        raise NothingToDo(f"{system.default.id} is committed already")
    if system.staged is not None and system.booted_id is not None:
        raise Rejected(
            f"{pending.id} is staged but does not run yet, so nobody knows whether it works; nothing was changed",
            "Reboot into it first.",
        )
    # `previous` stays what it was before the commit: the deployment that was good until now.
    back = way_back(system, pending.id, system.marks.good)
    steps: list[Step] = [*booting.keep(system, pending.id, back), SetMark(f"{marks.COMMITTED}.{pending.id}", now)]
    if pending.id in system.marks.bad:
        steps.append(ClearMark(f"{marks.BAD}.{pending.id}"))
    # An image of the owner's own must not shut out those of whoever made the device.
    if pending.record is not None and not pending.record.own and pending.record.epoch > system.marks.epoch:
        steps.append(SetMark(marks.EPOCH, str(pending.record.epoch)))
    steps += [SetMark(marks.GOOD, pending.id), *booting.drop_tries(system, pending), SyncFileSystem()]
    held = held_names(system)
    root = system.default_root
    names = settle(held, root.name, back, names_in_use(system)) if root else ()
    late = carrying.finish(system, anyhow=True)
    return Plan(pending.id, tuple(steps), (*late, *names, AppendHistory(Event(now, "commit", pending.id))))


def require_layout(system: System) -> None:
    """Refuse a file system that `init` was not run on (or did not finish)."""
    if not system.initialised:
        raise Rejected("this file system has no deployments yet", "Make the layout with: tb-update init")


def refuse_foreign_names(system: System) -> None:
    """What stands where our names belong is not ours to remove."""
    for name in sorted(system.foreign):
        raise Rejected(f"snapshots/{name} is no subvolume; nothing was changed", "Move it away, then try again.")


def refuse_during_trial(system: System) -> None:
    """A deployment on trial must be judged before the next one comes; what `init` made must have been booted."""
    carrying.refuse_before_boot(system)
    if system.trial is not None:
        raise Rejected(
            f"{system.trial.id} runs on trial; nothing was changed",
            "Keep it with `tb-update commit`, or go back with `tb-update rollback`, then deploy again.",
        )


def find_way_back(system: System, target: str | None) -> Deployment:
    """The deployment that a rollback leads to: the one that was named, else the last good one, else `previous`."""
    if target is not None:
        return find(system, target)
    if system.default is None:
        there = system.get(way_back(system, "", system.marks.good))
    elif system.pending is not None:
        there = system.good
    else:
        there = system.get(way_back(system, system.default.id, system.marks.good))
    if there is None or there == system.default:
        raise Rejected("there is no earlier deployment to go back to; nothing was changed", "See: tb-update list")
    return there


def find(system: System, named: str) -> Deployment:
    """The kept deployment that a person means: its id, the beginning of it, or `root`, `current`, `previous`."""
    mirrors = {layout.ROOT: system.root, layout.CURRENT: system.current, layout.PREVIOUS: system.previous}
    exact = mirrors.get(named) or system.get(named)
    if exact is not None:
        return exact
    like = [kept for kept in system.deployments if named and kept.id.startswith(named)]
    if len(like) == 1:
        return like[0]
    here = ", ".join(kept.id for kept in like or system.deployments)
    what = "more than one deployment begins with" if like else "no deployment is kept as"
    raise Rejected(f"{what} {named!r}; nothing was changed", f"Choose one of: {here}")


def names_in_use(system: System) -> frozenset[str]:
    """The subvolumes that run or boot next: deleting a mounted subvolume would succeed, so it must never be planned."""
    used = (system.by_number(system.booted_id), system.by_number(system.default_id))
    return frozenset(one.name for one in used if one is not None)


def free_roots(deployment: str) -> tuple[str, ...]:
    """The names that a root of a deployment can have, the proper one first."""
    return (kept_root(deployment), *(kept_root(f"{deployment}.{n}") for n in range(2, 100)))
