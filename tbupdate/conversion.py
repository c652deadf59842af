"""Decide how an installed root becomes the first deployment (`init`). Pure, like `planning`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tbdiff.errors import NothingToDo, Rejected
from tbupdate import booting, layout, marks, moving
from tbupdate.bootvocabulary import SetUpBoot, TakeDownBoot
from tbupdate.datavocabulary import DeleteOutside, Move
from tbupdate.history import Event
from tbupdate.layout import CURRENT, ROOT, SNAPSHOTS, STATE, carried, kept_root, partial
from tbupdate.record import Record
from tbupdate.steps import (
    AppendHistory,
    ClearMark,
    DeleteRecord,
    DeleteSubvolume,
    Exchange,
    FreeFstab,
    MakeDirectories,
    MakeReadOnly,
    MakeSnapshot,
    Plan,
    ReadTree,
    RemoveDirectories,
    Rename,
    SetDefault,
    SetDefaultPath,
    SetMark,
    Step,
    SyncFileSystem,
    TakeSnapshot,
    TidySnapshot,
    WriteRecord,
)
from tbupdate.system import System

DISPLACED = "root.before-init"
TOP = "the top level"


@dataclass(frozen=True)
class Source:
    """The subvolume that holds the installed root; an empty path is the top level itself."""

    path: str
    nested: tuple[str, ...] = ()


def find_source(system: System, named: str | None, systems: Collection[str]) -> Source:
    """The installed root: the named subvolume, else what runs, else the default one or, where that holds none, another.

    `systems` are the paths of those that hold what looks like a system; "" is the top level.
    """
    held = {f"{SNAPSHOTS}/{name}": one.id for name, one in system.subvolumes.items()}
    places = {place.path: place.id for place in system.elsewhere} | held
    if named is not None:
        path = named.strip("/")
        if path in ("", "5", ".") and named:
            return Source("", moving.nested(system, ""))
        if path not in places:
            raise Rejected(
                f"{named!r} is no subvolume of this file system; nothing was changed",
                f"Name one of: {', '.join(sorted(places)) or 'none, there are no subvolumes but the top level (5)'}",
            )
        return Source(path, moving.nested(system, path))
    number = system.booted_id or system.default_id
    path = next((path for path, one in places.items() if one == number), "")
    if not path and "" not in systems:
        path = _find_another(sorted(set(systems) & set(places)), places)
    return Source(path, moving.nested(system, path))


def _find_another(systems: Sequence[str], places: Collection[str]) -> str:
    """Where the system is that is not in the top level."""
    if "@" in places:
        return "@"
    if len(systems) > 1:
        raise Rejected(
            f"the default subvolume is the top level, which holds no system, but {', '.join(systems)} do; "
            "nothing was changed",
            f"Name the one that boots: tb-update init --root {systems[0]}",
        )
    return systems[0] if systems else ""


def plan_init(
    system: System, source: Source, record: Record, now: str, moves: tuple[Move, ...] = (), said: tuple[str, ...] = ()
) -> Plan:
    """Keep the installed root as the first deployment, and boot a writable copy of it; the original stays as it is.

    `moves` is data that gets subvolumes of its own; `said` are further notes.
    """
    if system.initialised:
        return plan_boot(system)
    replaces = source.path == f"{SNAPSHOTS}/{ROOT}"
    taken = {ROOT, CURRENT, layout.PREVIOUS} & set(system.subvolumes)
    if taken and not (replaces and taken == {ROOT}):
        raise Rejected(
            f"{', '.join(f'{SNAPSHOTS}/{name}' for name in sorted(taken))} exists already; nothing was changed",
            f"If it is the installed root: tb-update init --root {SNAPSHOTS}/{ROOT}. Otherwise move it away.",
        )
    new, unfinished = record.id, partial(record.id)
    own = (SNAPSHOTS, STATE) if not source.path else ()
    root = kept_root(new) if replaces else ROOT
    steps: list[Step] = [
        MakeDirectories(),
        SetMark(marks.DEPLOYING, new),
        TakeSnapshot(source.path, unfinished),
        TidySnapshot(unfinished, source.path, own, source.nested),
        FreeFstab(unfinished),
        *moving.take_out(moves, unfinished, new),
        ReadTree(unfinished),
        WriteRecord(record),
        SyncFileSystem(),
        MakeReadOnly(unfinished),
        Rename(unfinished, new),
        MakeSnapshot(new, root),
        MakeSnapshot(new, CURRENT, read_only=True),
        *_await_reboot(system, source, new),
        SyncFileSystem(),
        *moving.put_outside(moves, new),
        *((SyncFileSystem(),) if moves else ()),
        *booting.set_up(system, record),
        SetDefault(root, follows=system.boot is not None),
        SyncFileSystem(),
        SetMark(f"{marks.COMMITTED}.{new}", now),
        SetMark(marks.GOOD, new),
        ClearMark(marks.DEPLOYING),
    ]
    names: list[Step] = [Exchange(ROOT, root), Rename(root, DISPLACED)] if replaces else []
    history = AppendHistory(Event(now, "init", new, more={"from": source.path or TOP}))
    notes = [
        f"What is in /{move.place} comes to the subvolume {move.subvolume}, and stays where it is as well until you "
        "remove the installed root."
        for move in moves
    ]
    if system.booted_id is not None:
        notes.append(
            "Reboot soon: what is written until then is brought at the shutdown (tb-update-carry.service), from /etc"
            + "".join(f" and /{move.place}" for move in moves)
            + " only."
        )
    return Plan(new, tuple(steps), (*names, SyncFileSystem(), history), (*notes, *said))


def _await_reboot(system: System, source: Source, new: str) -> tuple[Step, ...]:
    """Where the installed root runs, it is written to until the reboot: how it is now is kept to know that from."""
    runs = next((place.path for place in system.elsewhere if place.id == system.booted_id), None)
    if system.booted_id == layout.TOP_LEVEL_ID:
        runs = ""
    if runs != source.path:
        return ()
    return (TakeSnapshot(source.path, carried(new), read_only=True), SetMark(marks.INSTALLED, source.path))


def plan_boot(system: System) -> Plan:
    """Where the layout is there already: let a boot loader that was found boot what boots next."""
    default = system.default
    if system.boot is None or (system.choice is not None and system.boot.leads):
        raise NothingToDo("the layout is there already")
    if system.choice is not None:
        # Somebody has written the boot loader's own files anew.
        return Plan(default.id if default is not None else None, (SetUpBoot(system.choice),))
    if default is None or system.pending is not None:
        raise Rejected(
            "what boots next is not committed; nothing was changed", "Keep it with `tb-update commit`, then try again."
        )
    record = default.record or Record(id=default.id, created="")
    return Plan(default.id, booting.set_up(system, record))


def plan_undo(system: System, source: str | None) -> Plan:
    """Take all of it back until the first deploy: the installed root, `source`, boots again as it always did."""
    if not system.has_snapshots:
        raise NothingToDo("there is no layout here")
    kept = system.deployments
    if len(kept) > 1 or any(one.record is None or one.record.image_digest is not None for one in kept):
        raise Rejected("something was deployed since `init`; nothing was changed", "Undo is for a fresh layout only.")
    paths = {place.path for place in system.elsewhere}
    there = "" if source == TOP else source
    if there is None or (there and there not in paths):
        raise Rejected(
            "the root that `init` was run on is not there any more; nothing was changed", "There is nothing to go to."
        )
    data = moving.outside(system)
    notes = [
        f"{move.subvolume} was written to since `init`: it stays, and is yours to look through and to remove."
        for move, unchanged in data.items()
        if not unchanged
    ]
    steps: list[Step] = [TakeDownBoot()] if system.choice is not None else []
    steps += [SetDefaultPath(there), SyncFileSystem()]
    names = sorted(system.subvolumes, key=layout.is_id)
    runs = system.by_number(system.booted_id)
    afterwards: list[Step] = [DeleteSubvolume(name) for name in names if runs is None or name != runs.name]
    if runs is not None:
        note = f"{SNAPSHOTS}/{runs.name} runs: reboot, then run this again to remove the rest."
        return Plan(None, tuple(steps), (*afterwards, SyncFileSystem()), (note,))
    afterwards += [DeleteOutside(move.subvolume) for move, unchanged in data.items() if unchanged]
    afterwards += [DeleteRecord(one.id) for one in kept]
    return Plan(None, tuple(steps), (*afterwards, RemoveDirectories(), SyncFileSystem()), tuple(notes))
