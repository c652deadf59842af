"""Decide what may go: the repair of an interrupted run, retention, removal. Pure, like `planning`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tbdiff.errors import NothingToDo, Rejected
from tbdiff.show import size
from tbupdate import booting, carrying, layout, marks, moving, saving, userdata
from tbupdate.boot.chooser import Choice
from tbupdate.bootvocabulary import Choose, ClearNote, DropTries, ForgetEntry
from tbupdate.history import Event
from tbupdate.journal import NO_LOG, Tail
from tbupdate.layout import PARTIAL, ROOT, SNAPSHOTS, partial
from tbupdate.mirrors import SHOWN, SPARE, held_names, settle, way_back
from tbupdate.planning import find, free_roots, names_in_use, require_layout
from tbupdate.steps import (
    AppendHistory,
    ClearMark,
    DeleteRecord,
    DeleteSubvolume,
    MakeSnapshot,
    Plan,
    SetDefault,
    SetMark,
    Step,
    SyncFileSystem,
)
from tbupdate.system import Deployment, System


@dataclass(frozen=True)
class Verdict:
    """Whether retention keeps a deployment, and why."""

    deployment: str
    kept: bool
    why: str


def plan_repair(system: System, now: str, log: Tail = NO_LOG) -> Plan:
    """Put right what a cut left, and finish what waited for the boot of what was deployed; else an empty plan.

    `log` is how the last boot ended of what boot loader or hook went back from, for the history.
    """
    plan = plan_mending(system, now, log)
    # Of an image of another system nothing boots: what is committed is final.
    late = carrying.finish(system, anyhow=_is_final(system))
    whole = bool(plan.every_step)
    if late and not whole:
        carried = AppendHistory(Event(now, "carry", system.default.id if system.default else None))
        plan = Plan(None, (), (SyncFileSystem(), carried))
    # A root that was made anew gets its name with each boot: nothing was interrupted, and no history is made of it.
    names = _names(system) if not whole and saving.is_anew(system) else ()
    swept = (*names, *saving.sweep(system, (*plan.every_step, *names)))
    afterwards = (*late, *plan.afterwards, *swept)
    return replace(plan, afterwards=(*afterwards, SyncFileSystem()) if swept else afterwards)


def _names(system: System) -> tuple[Step, ...]:
    """The names, where nothing else is to be done."""
    default, root, good = system.default, system.default_root, system.marks.good
    if default is None or root is None:
        return ()
    return settle(held_names(system), root.name, way_back(system, default.id, good), names_in_use(system))


def _is_final(system: System) -> bool:
    """Whether what boots next waits for no boot."""
    return system.booted_id is None and system.default is not None and system.is_committed(system.default)


def plan_mending(system: System, now: str, log: Tail = NO_LOG) -> Plan:
    """Finish what a cut run had switched to, clear what it had not; an empty plan where nothing was cut."""
    doing, default, good = system.marks.deploying, system.default, system.marks.good
    failed = booting.fallen(system)
    steps: list[Step] = []
    if doing is not None and default is not None and default.id == doing:
        if good is None:
            # `init` is all but done: the first deployment needs no trial, it is what ran before.
            good = doing
            steps += [SetMark(f"{marks.COMMITTED}.{doing}", now), SetMark(marks.GOOD, doing)]
        if (system.marks.ready or "").partition(" ")[0] == doing:
            steps.append(ClearMark(marks.READY))
        steps.append(ClearMark(marks.DEPLOYING))
    elif doing is not None:
        steps += _clear(system, doing) if failed is None or failed.id != doing else ()
        steps += moving.take_back(system) if good is None else ()
        steps.append(ClearMark(marks.DEPLOYING))
    steps += _stray_partials(system, doing)
    steps += carrying.clear(system, doing)
    steps += userdata.finish(system)
    if good is not None:
        steps += _forgotten(system)
    if failed is not None and default is not None:
        steps += _leave(system, failed, default, log)
    steps += booting.stop_counting(system)
    if good is None or default is None:
        return _repair(system, steps, (), now, log)
    held = {name: of for name, of in held_names(system).items() if of != doing or doing == default.id}
    steps += _bring_root(system, default, held)
    root = _root_of(system, default, held)
    if root is None:
        return _repair(system, steps, (), now, log)
    # What was committed before is good again as soon as a rollback switched to it.
    if default.id != good and system.is_committed(default):
        good = default.id
        steps.append(SetMark(marks.GOOD, good))
    # Of a deployment that was cleared or left they went with it; one that was kept is not counted any more.
    counted = {doing, failed.id if failed else None, default.id if default.id != good else None}
    steps += [DropTries(one) for one in sorted(system.tries) if one not in counted]
    names = settle(held, root, way_back(system, default.id, good), names_in_use(system))
    if not steps and saving.is_anew(system):
        return Plan(None, ())
    if failed is not None:
        names = (*carrying.follow(system, failed, default, root), *names)
    return _repair(system, steps, names, now, log)


def _leave(system: System, failed: Deployment, default: Deployment, log: Tail) -> list[Step]:
    """What boot loader or hook have left by themselves stays left, and it is written down why."""
    steps: list[Step] = [*booting.mark_bad(failed, booting.why_fallen(system, failed, log)), SyncFileSystem()]
    if system.choice is not None and system.choice.trial is not None:
        steps.append(Choose(Choice(default.id, back=way_back(system, default.id, default.id))))
    return [*steps, *booting.drop_tries(system, failed), ClearNote()]


def _root_of(system: System, default: Deployment, held: dict[str, str]) -> str | None:
    """The root that boots next, by its name; where /boot decides, it may have to be made first."""
    root = system.default_root
    if root is not None or system.choice is None:
        return root.name if root is not None else None
    return next((name for name in free_roots(default.id) if name not in system.subvolumes), None)


def _bring_root(system: System, default: Deployment, held: dict[str, str]) -> list[Step]:
    """Let the default subvolume follow the boot chooser, which has decided."""
    root = system.default_root
    if system.choice is None or (root is not None and root.id == system.default_id):
        return []
    name = _root_of(system, default, held)
    if name is None:
        return []
    made: list[Step] = [] if root is not None else [MakeSnapshot(default.id, name), SyncFileSystem()]
    held.setdefault(name, default.id)
    return [*made, SetDefault(name, follows=True), SyncFileSystem()]


def _repair(system: System, steps: list[Step], names: tuple[Step, ...], now: str, log: Tail) -> Plan:
    if not steps and not names:
        return Plan(None, ())
    event = Event(now, "repair", system.default.id if system.default else None)
    failed = booting.fallen(system)
    if failed is not None:
        event = Event(now, "fallback", event.deployment, more=_account(system, failed, log) | log.to_fields())
    elif system.marks.deploying is not None:
        event = Event(now, "repair", event.deployment, more={"interrupted": system.marks.deploying})
    history = (AppendHistory(event),) if system.initialised or names else ()
    return Plan(event.deployment, (*steps, SyncFileSystem()), (*names, SyncFileSystem(), *history))


def _account(system: System, failed: Deployment, log: Tail) -> dict[str, object]:
    """What the history says of a system that went back by itself."""
    return {"from": failed.id, "reason": booting.why_fallen(system, failed, log)}


def _clear(system: System, deployment: str) -> list[Step]:
    """All that an unfinished deployment left: what was made from it first, or nobody would know whose it is."""
    kept = system.get(deployment)
    steps: list[Step] = []
    if kept is not None:
        if kept in (system.booted, system.good) or system.is_committed(kept):
            return steps
        steps += booting.forget(system, deployment)
        made = [name for name, of in held_names(system).items() if of == deployment]
        steps += saving.forget(kept)
        steps += [DeleteSubvolume(name) for name in (*made, *saving.of(system, deployment))]
        if kept == system.ready:
            # It was complete before, and waits for the next try.
            return [*steps, *carrying.forget(system, deployment), *booting.collect(system)]
        steps.append(DeleteSubvolume(deployment))
    steps += _delete_unfinished(system, partial(deployment))
    steps += carrying.forget(system, deployment)
    if deployment in system.records:
        steps.append(DeleteRecord(deployment))
    return [*steps, *booting.collect(system)]


def _stray_partials(system: System, doing: str | None) -> list[Step]:
    stray = (name for name in sorted(system.subvolumes) if name.endswith(PARTIAL) and name != partial(doing or ""))
    unfinished = (name for name in stray if layout.is_id(name.removesuffix(PARTIAL)))
    return [step for name in unfinished for step in _delete_unfinished(system, name)]


def _delete_unfinished(system: System, name: str) -> list[Step]:
    """With the subvolumes that a command may have made in it; what is deepest first."""
    held = system.subvolumes.get(name)
    if held is None:
        return []
    return [DeleteSubvolume(one) for one in (*(f"{name}/{path}" for path in sorted(held.nested, reverse=True)), name)]


def _forgotten(system: System) -> list[Step]:
    """Records and marks of deployments that are gone: a removal was cut in the middle."""
    doing = system.marks.deploying
    known = {kept.id for kept in system.deployments} | {doing}
    steps: list[Step] = [DeleteRecord(one) for one in sorted(system.records - known)]
    for gone in sorted(system.marks.marked - known):
        steps += [ClearMark(mark) for mark in system.marks.names_of(gone)]
    entries = system.boot.entries if system.boot is not None else frozenset()
    lost = sorted(entries - known - set(booting.needed(system)))
    steps += [ForgetEntry(gone) for gone in lost]
    loose = system.boot is not None and system.boot.loose
    if lost or loose:
        steps += booting.collect(system)
    return [*steps, *booting.add_lost(system)]


def protections(system: System) -> dict[str, str]:
    """The deployments that must not be removed, and why."""
    reasons = (
        (system.booted, "runs now"),
        (system.default, "boots next"),
        (system.root, "is `root`"),
        (system.current, "is `current`"),
        (system.previous, "is `previous`"),
        (system.good, "was committed last"),
        (_before(system), "is where what was committed last goes back to"),
        (system.ready, "is fetched, and waits to be deployed"),
    )
    why = {kept.id: reason for kept, reason in reversed(reasons) if kept is not None}
    why = {kept: reason for kept, reason in booting.needed(system).items() if system.get(kept)} | why
    for kept in system.deployments:
        inside = [root for root in kept.roots if root.nested]
        if kept.id not in why and kept.id in system.marks.pinned:
            why[kept.id] = "is pinned"
        elif kept.id not in why and inside:
            why[kept.id] = f"has the subvolume {inside[0].nested[0]} in its {inside[0].name}"
        elif kept.id not in why and kept.id == system.marks.deploying:
            why[kept.id] = "is being made"
    return why


def _before(system: System) -> Deployment | None:
    """What `previous` shows again when what is staged or on trial is left."""
    good = system.marks.good
    return system.get(way_back(system, good, good)) if good is not None else None


def judge(system: System, keep: int, min_free: int = 0) -> tuple[Verdict, ...]:
    """What retention says of every deployment, newest first: at most `keep`, but never one that is protected.

    What failed here is no way back: it goes before all others. Where less than `min_free` bytes are free, one more
    goes: how much room that gives is known when it is gone.
    """
    why, bad = protections(system), system.marks.bad
    newest = tuple(reversed(system.deployments))
    # The last of them goes first.
    free_to_go = sorted((kept.id for kept in newest if kept.id not in why), key=lambda one: one in bad)
    room = max(keep - len(why), 0)
    gone = {one: "failed here" if one in bad else f"is older than the newest {keep}" for one in free_to_go[room:]}
    free = system.space.data
    if free < min_free and free_to_go and not gone:
        what = "failed here, and goes first" if free_to_go[-1] in bad else "is the oldest that may go"
        gone = {free_to_go[-1]: f"{what}: only {size(free)} are free, and {size(min_free)} shall be"}
    stays = why | dict.fromkeys(free_to_go, f"is among the newest {keep}")
    return tuple(Verdict(one.id, one.id not in gone, gone.get(one.id) or stays[one.id]) for one in newest)


def surplus_roots(system: System) -> tuple[str, ...]:
    """The roots that were left by a reset: their deployment has another one that is used."""
    used = names_in_use(system)
    roots = (root for kept in system.deployments for root in kept.roots[1:])
    return tuple(root.name for root in roots if root.name not in used and root.name != ROOT and not root.nested)


def plan_prune(system: System, keep: int, now: str, min_free: int = 0) -> Plan:
    """Remove what retention does not keep, the oldest first."""
    require_layout(system)
    judged = {verdict.deployment for verdict in judge(system, keep, min_free) if not verdict.kept}
    gone = [kept for kept in system.deployments if kept.id in judged]
    roots = surplus_roots(system)
    if not gone and not roots:
        raise NothingToDo(f"no deployment is beyond the {keep} to keep")
    steps: list[Step] = [DeleteSubvolume(root) for root in roots]
    steps += [step for kept in gone for step in removal(system, kept, roots)]
    history = [AppendHistory(Event(now, "prune", kept.id)) for kept in gone]
    said = (
        *(f"{SNAPSHOTS}/{root}, which was left by a reset, is removed." for root in roots),
        *(f"{kept.id} is removed." for kept in gone),
    )
    return Plan(None, (*steps, *booting.collect(system), SyncFileSystem()), tuple(history), done=said)


def plan_remove(system: System, named: str, now: str) -> Plan:
    """Remove one deployment that a person names."""
    require_layout(system)
    kept = find(system, named)
    why = protections(system).get(kept.id)
    if why is not None:
        raise Rejected(f"{kept.id} {why}; nothing was changed", "See: tb-update list")
    history = AppendHistory(Event(now, "remove", kept.id))
    steps = (*removal(system, kept), *booting.collect(system), SyncFileSystem())
    return Plan(kept.id, steps, (history,), done=(f"{kept.id} is removed.",))


def plan_pin(system: System, named: str, on: bool, now: str) -> Plan:
    """Protect a deployment from retention, or no longer."""
    require_layout(system)
    kept = find(system, named)
    if (kept.id in system.marks.pinned) == on:
        raise NothingToDo(f"{kept.id} is {'pinned already' if on else 'not pinned'}")
    mark = f"{marks.PIN}.{kept.id}"
    step: Step = SetMark(mark, now) if on else ClearMark(mark)
    history = AppendHistory(Event(now, "pin" if on else "unpin", kept.id))
    said = f"{kept.id} is {'pinned' if on else 'no longer pinned'}."
    return Plan(kept.id, (step, SyncFileSystem()), (history,), done=(said,))


def removal(system: System, kept: Deployment, gone: tuple[str, ...] = ()) -> list[Step]:
    """The steps that remove a deployment. Roots first: they are known by the deployment that they were made from."""
    used = names_in_use(system)
    roots = [root.name for root in kept.roots if root.name not in used and root.name not in gone]
    mirrors = [name for name in SHOWN + SPARE if system.made_from(system.subvolumes.get(name)) == kept]
    # The entry goes after the deployment: without it, that could not be gone back to after a cut in between.
    steps: list[Step] = [DeleteSubvolume(name) for name in (*roots, *mirrors, *saving.of(system, kept.id), kept.id)]
    steps += booting.forget(system, kept.id)
    steps += carrying.forget(system, kept.id)
    if kept.id in system.records:
        steps.append(DeleteRecord(kept.id))
    return steps + [ClearMark(mark) for mark in system.marks.names_of(kept.id)]
