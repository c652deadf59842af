"""Decide how a root that was written to becomes a deployment: as it is, or with what a command makes of it. Pure.

A root belongs to the deployment that it was made from, and Btrfs remembers no other: what is frozen is kept beside it,
and the root goes on as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tbdiff.errors import Rejected
from tbupdate import booting, carrying, fstab, marks, userdata
from tbupdate.history import Event
from tbupdate.layout import CURRENT, SNAPSHOTS, aside, coming, kept_root, partial
from tbupdate.offer import RESERVE, refuse_without_room
from tbupdate.planning import refuse_during_trial, refuse_foreign_names, require_layout, switch_to
from tbupdate.record import Record
from tbupdate.rootvocabulary import EmptyTemporary, ReadChanges, RunCommand, Stand, TakeInKernel
from tbupdate.steps import (
    AppendHistory,
    ClearMark,
    DeleteSubvolume,
    MakeReadOnly,
    MakeSnapshot,
    Plan,
    Rename,
    SetMark,
    Step,
    SyncFileSystem,
    TakeSnapshot,
    TidySnapshot,
    WriteRecord,
)
from tbupdate.system import Deployment, Subvolume, System

MEMORY = ("tmpfs", "ramfs")
# What is written down of a command: enough to know it again.
_TOLD_MAX = 4096


@dataclass(frozen=True)
class Wish:
    """What a new deployment out of a root is to be called, and what is run in it (nothing: a shell)."""

    id: str
    now: str
    name: str | None = None
    release: str | None = None
    command: tuple[str, ...] = ()
    stands: tuple[Stand, ...] = ()
    over_staged: bool = False
    reserve: int = field(default=RESERVE)


def plan_snapshot(system: System, wish: Wish) -> Plan:
    """What runs is kept as a deployment of its own, with its local changes; what runs and boots stays as it is."""
    root, base = _begin(system, wish)
    new, unfinished = wish.id, partial(wish.id)
    record = _record(wish, base, "snapshot")
    steps: tuple[Step, ...] = (
        *_take_in(system, record, root),
        MakeReadOnly(unfinished),
        ReadChanges(unfinished, base.id),
        *booting.require(system, unfinished, record),
        WriteRecord(record),
        SyncFileSystem(),
        Rename(unfinished, new),
        SyncFileSystem(),
        *booting.add(system, record),
        ClearMark(marks.DEPLOYING),
    )
    history = AppendHistory(Event(wish.now, "snapshot", new, more={"from": base.id}))
    said = f"{new} is kept: what runs, as it is now. To make it boot next: tb-update rollback {new}"
    return Plan(new, steps, (SyncFileSystem(), history), _notes_on(root), done=(said,))


def plan_run(system: System, wish: Wish) -> Plan:
    """What a command makes of a copy of the root becomes a deployment, and what boots next, if the command succeeds."""
    root, base = _begin(system, wish)
    new, unfinished, before = wish.id, partial(wish.id), aside("before", wish.id)
    record = _record(wish, base, "run", *_told(wish.command))
    copies = [stand for stand in wish.stands if stand.copy is not None]
    prepare: tuple[Step, ...] = (
        *_take_in(system, record, root),
        *(carrying.wait(root.name, new) if not wish.over_staged else ()),
        MakeSnapshot(unfinished, before, read_only=True),
        *(TakeSnapshot(stand.subvolume, stand.copy) for stand in copies if stand.copy is not None),
        RunCommand(unfinished, wish.command, wish.stands),
        *(DeleteSubvolume(stand.copy) for stand in copies if stand.copy is not None),
        MakeReadOnly(unfinished),
        ReadChanges(unfinished, base.id, before),
        DeleteSubvolume(before),
        *booting.require(system, unfinished, record),
        WriteRecord(record),
        SyncFileSystem(),
        Rename(unfinished, new),
        MakeSnapshot(new, kept_root(new)),
        MakeSnapshot(new, coming(CURRENT), read_only=True),
        *booting.give_tries(system, new),
        SyncFileSystem(),
        *booting.add(system, record),
    )
    switch, names = switch_to(system, new)
    event = Event(wish.now, "run", new, more={"from": base.id, "command": list(_told(wish.command))})
    notes = list(_notes_on(root))
    if system.staged is not None:
        how = "It is made over" if wish.over_staged else "It takes the place of"
        notes.append(f"{how} {system.staged.id}, which was staged.")
    if system.choice is None:
        notes.append("No boot loader is looked after here: the kernel that boots must fit what the command installs.")
    late = carrying.pass_on(system, system.staged, new) if wish.over_staged else carrying.forget_all(system)
    left = (*booting.drop_tries(system, system.staged), *late)
    afterwards = (*left, *names, SyncFileSystem(), AppendHistory(event))
    return Plan(new, prepare + switch, afterwards, tuple(notes))


def source_root(system: System, *, over_staged: bool = False) -> Subvolume:
    """The root that is taken: the one that runs (on an image of another system: that was committed), or the staged."""
    require_layout(system)
    staged = system.staged
    if over_staged:
        if staged is None or system.default_root is None:
            raise Rejected("nothing is staged that could be continued; nothing was changed", "Leave out --continue.")
        return system.subvolumes[staged.template] if system.throws_away(staged) else system.default_root
    if system.booted_id is not None:
        root = system.by_number(system.booted_id)
        if system.booted is None or root is None:
            raise Rejected("what runs is the root of no deployment; nothing was changed", "Reboot into one first.")
        return root
    kept = system.good if staged is not None else system.default
    if kept is None or not kept.roots:
        raise Rejected("there is no root of a deployment to start from; nothing was changed", "See: tb-update doctor")
    return kept.roots[0]


def stands(lines: Iterable[fstab.Line], system: System, file_system: str, deployment: str) -> tuple[Stand, ...]:
    """What a command in the new root finds at the mount points of the system's /etc/fstab, the outermost first."""
    lines = list(lines)
    data = userdata.mounted(lines, system, file_system)
    found: dict[str, Stand] = {}
    for line in fstab.outside(lines):
        if line.point in data:
            number = len(found)
            found[line.point] = Stand(line.point, aside(f"data{number}", deployment), data[line.point].path)
        elif line.kind in MEMORY:
            found[line.point] = Stand(line.point, memory=True)
        else:
            found[line.point] = Stand(line.point, live=system.booted_id is not None)
    return tuple(sorted(found.values(), key=lambda stand: stand.point.count("/")))


def _begin(system: System, wish: Wish) -> tuple[Subvolume, Deployment]:
    require_layout(system)
    refuse_foreign_names(system)
    refuse_during_trial(system)
    root = source_root(system, over_staged=wish.over_staged)
    base = system.owner(root)
    if base is None or base.record is None:
        raise Rejected(
            f"{SNAPSHOTS}/{root.name} was made from no deployment that has a record; nothing was changed",
            "See: tb-update doctor",
        )
    refuse_without_room(system, wish.reserve)
    return root, base


def _take_in(system: System, record: Record, root: Subvolume) -> tuple[Step, ...]:
    unfinished, inside = partial(record.id), _outermost(root.nested)
    tidy = (TidySnapshot(unfinished, f"{SNAPSHOTS}/{root.name}", (), inside),) if inside else ()
    kernel = (TakeInKernel(unfinished, record.boot_files),) if system.choice is not None else ()
    mark = SetMark(marks.DEPLOYING, record.id)
    return (mark, MakeSnapshot(root.name, unfinished), *tidy, EmptyTemporary(unfinished), *kernel)


def _record(wish: Wish, base: Deployment, *made_by: str) -> Record:
    known = base.record or Record(id=base.id, created="")
    return Record(
        id=wish.id,
        name=wish.name or known.name,
        release=wish.release or known.release,
        epoch=0 if known.own else known.epoch,
        base=base.id,
        created=wish.now,
        made_by=made_by,
        boot_files=known.boot_files,
    )


def _told(command: tuple[str, ...]) -> tuple[str, ...]:
    """A command as it is written down: as text, whatever bytes it has, and not without end."""
    told, room = [], _TOLD_MAX
    for word in command:
        text = word.encode("utf-8", "backslashreplace").decode()
        told.append(text if len(text) <= room else f"{text[:room]}…")
        room -= len(text)
        if room < 0:
            break
    return tuple(told)


def _outermost(nested: tuple[str, ...]) -> tuple[str, ...]:
    outer: list[str] = []
    for one in sorted(nested):
        if not any(one.startswith(f"{seen}/") for seen in outer):
            outer.append(one)
    return tuple(outer)


def _notes_on(root: Subvolume) -> tuple[str, ...]:
    return tuple(
        f"/{path} is a subvolume of its own, and no part of the new system; it stays where it is."
        for path in _outermost(root.nested)
    )
