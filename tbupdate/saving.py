"""Decide how local changes of a root that is thrown away at each boot are saved, forgotten, and brought along. Pure.

A saved copy is a read-only snapshot of the deployment with the local changes in it, of which the hook makes the root.
The two newest are kept. What proves one comes last, when it is durable: a cut before leaves the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from tbdiff.errors import NothingToDo, Rejected
from tbupdate import layout
from tbupdate.history import Event
from tbupdate.layout import ROOT, aside, carried, coming
from tbupdate.rootvocabulary import ForgetSaved, KeepSwitch, ProveSaved
from tbupdate.steps import (
    AppendHistory,
    CarryLocal,
    DeleteSubvolume,
    Exchange,
    MakeReadOnly,
    MakeSnapshot,
    Plan,
    Rename,
    Step,
    SyncFileSystem,
)
from tbupdate.system import Deployment, Subvolume, System

# Brings local changes to the subvolume of that name.
Bring = Callable[[str], Step]


def plan_save(system: System, now: str, *, wanted: bool) -> Plan:
    """The local changes of what runs come to each root that is made of its deployment from now on.

    `wanted`: what runs says by its configuration that its root is to be thrown away.
    """
    kept, root = _subject(system)
    if not (wanted or kept.volatile):
        raise Rejected(
            "the root is kept as it is over each boot, so that nothing has to be saved; nothing was changed",
            "To have it thrown away at each boot, set `volatile = true` below [local] in config.toml, then save.",
        )
    if system.choice is None:
        raise Rejected(
            "no boot loader that tb-update looks after boots this system, so nothing throws its root away; "
            "nothing was changed",
            "Set one up with: tb-update init. Or take `volatile = true` out of config.toml.",
        )
    look = aside("look", kept.id)
    bring = CarryLocal(kept.id, look, aside("saved", kept.id), kept.id)
    steps = (
        MakeSnapshot(root.name, look, read_only=True),
        *_make(system, kept, kept.id, (bring, DeleteSubvolume(look))),
    )
    number = next_number(system, kept)
    history = AppendHistory(Event(now, "save", kept.id, more={"copy": number}))
    said = [f"The local changes of {kept.id} are saved, as copy {number}."]
    if not wanted:
        said.append("From the next boot on its root is kept as it is: `volatile` is set no longer.")
    elif not kept.volatile:
        said.append("From the next boot on its root is made anew each time: what is not saved is lost.")
    afterwards = (*_pass_on(system, kept, number), *retire(system, kept), SyncFileSystem(), history)
    return Plan(kept.id, steps, afterwards, done=tuple(said))


def plan_drop(system: System, now: str) -> Plan:
    """What was saved of what runs is forgotten: the next root is made of the deployment as it was deployed."""
    kept, _ = _subject(system)
    if not kept.saved:
        raise NothingToDo(f"no local changes of {kept.id} are saved")
    history = AppendHistory(Event(now, "drop", kept.id))
    done = (f"No local changes of {kept.id} are saved any more.",)
    # Else the root would be kept from then on, with all that shall be forgotten.
    steps = (KeepSwitch(kept.id, kept.template, next_number(system, kept)), *forget(kept))
    return Plan(kept.id, steps, (*_delete(system, kept, set()), SyncFileSystem(), history), done=done)


def _subject(system: System) -> tuple[Deployment, Subvolume]:
    """What runs (else what boots next), and its root."""
    kept = system.booted or system.default
    if kept is None or not kept.roots:
        raise Rejected("what runs is the root of no deployment; nothing was changed", "See: tb-update doctor")
    return kept, kept.roots[0]


def next_number(system: System, kept: Deployment) -> int:
    """The number of the next saved copy: higher than all, also of one that is forgotten but still has a root."""
    held = (int(name.rpartition(".")[2]) for name in of(system, kept.id))
    return max((*held, *(one.number for one in kept.saved)), default=0) + 1


def _make(system: System, kept: Deployment, of: str, fill: tuple[Step, ...]) -> tuple[Step, ...]:
    """The next saved copy: a snapshot of `of`, in which `fill` writes."""
    unfinished, number = aside("saved", kept.id), next_number(system, kept)
    return (
        MakeSnapshot(of, unfinished),
        *fill,
        SyncFileSystem(),
        MakeReadOnly(unfinished),
        Rename(unfinished, layout.saved(kept.id, number)),
        SyncFileSystem(),
        ProveSaved(kept.id, number),
        SyncFileSystem(),
    )


def land(system: System, kept: Deployment, root: str, bring: Bring) -> tuple[Step, ...]:
    """Local changes come to the root of a deployment; where that is thrown away, to a saved copy (too, if it runs)."""
    if not system.throws_away(kept):
        return (bring(root),)
    made = _make(system, kept, kept.template, (bring(aside("saved", kept.id)),))
    running = (bring(root),) if kept == system.booted else ()
    return (*made, *running, *retire(system, kept))


def _pass_on(system: System, kept: Deployment, number: int) -> tuple[Step, ...]:
    """What was saved since a deploy comes to what was staged by it as well."""
    staged, root = system.staged, system.default_root
    if staged is None or root is None:
        return ()
    then = system.subvolumes.get(carried(staged.id))
    if then is None or system.owner(system.parent(then)) != kept:
        return ()
    now, saved = coming(then.name), layout.saved(kept.id, number)
    bring = land(system, staged, root.name, lambda to: CarryLocal(kept.id, saved, to, staged.id, since=then.name))
    again = (MakeSnapshot(saved, now, read_only=True), SyncFileSystem(), DeleteSubvolume(then.name))
    return (*bring, *again, Rename(now, then.name))


def retire(system: System, kept: Deployment) -> tuple[Step, ...]:
    """When a new copy was made: it stays with the newest that was whole before it."""
    newest = kept.newest
    gone = [one for one in kept.saved if one != newest]
    stays = {newest.name} if newest is not None else set()
    return (*(ForgetSaved(kept.id, one.number) for one in gone), *_delete(system, kept, stays))


def forget(kept: Deployment) -> tuple[Step, ...]:
    """No saved copy counts any more: a cut in between leaves the newest."""
    if not kept.saved:
        return ()
    return (*(ForgetSaved(kept.id, one.number) for one in kept.saved), SyncFileSystem())


def _delete(system: System, kept: Deployment, stays: set[str]) -> Iterator[Step]:
    """By what a root was made of its deployment is known, so that this must stay as long as the root."""
    for one in kept.saved:
        held = system.subvolumes.get(one.name)
        if held is not None and one.name not in stays and not _is_source(system, held, frozenset()):
            yield DeleteSubvolume(one.name)


def _is_source(system: System, held: Subvolume, gone: frozenset[str]) -> bool:
    """Whether something is known by it; another saved copy is known by its name."""
    made = (one.name for one in system.subvolumes.values() if one.parent_uuid == held.uuid)
    return any(name not in gone and layout.saved_of(name) is None for name in made)


def sweep(system: System, before: tuple[Step, ...]) -> tuple[Step, ...]:
    """Remove roots that were thrown away, and what nothing is made of any more; `before` are steps that rename."""
    used = {system.booted_id, system.default_id} | system.mounted
    left = [root for kept in system.deployments if system.throws_away(kept) for root in kept.roots[1:]]
    roots = [root for root in left if root.id not in used and not root.nested]
    gone = frozenset(root.name for root in roots)
    proved = {one.name for kept in system.deployments for one in kept.saved}
    loose = (
        one.name
        for name, one in sorted(system.subvolumes.items())
        if layout.saved_of(name) and name not in proved and not _is_source(system, one, gone)
    )
    names = _names_after(before)
    return (
        *(DeleteSubvolume(names.get(root.name, root.name)) for root in roots),
        *(DeleteSubvolume(name) for name in loose),
    )


def _names_after(steps: tuple[Step, ...]) -> Mapping[str, str]:
    """How subvolumes are named after steps, by how they were before, where that is another name."""
    origin: dict[str, str] = {}
    for step in steps:
        match step:
            case Exchange(one, other):
                origin[one], origin[other] = origin.get(other, other), origin.get(one, one)
            case Rename(old, new):
                origin[new] = origin.pop(old, old)
    return {was: now for now, was in origin.items()}


def of(system: System, deployment: str) -> tuple[str, ...]:
    """All saved copies of a deployment, also those that were never proved."""
    return tuple(name for name in sorted(system.subvolumes) if layout.saved_of(name) == deployment)


def is_anew(system: System) -> bool:
    """Whether the hook has made the root that runs, and no command has given it its name yet."""
    root, booted = system.by_number(system.booted_id), system.booted
    return root is not None and root.name != ROOT and booted == system.default and system.throws_away(booted)
