"""Do the steps that give data subvolumes of its own: taken out of a snapshot of the root, so that nothing is copied."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from tbdiff.descent import Descent
from tbdiff.errors import Failed
from tbdiff.metadata import set_metadata
from tbdiff.tree import read_names
from tbupdate import fstab, marks, places, space, subvolumes, syscalls
from tbupdate.datavocabulary import (
    AddMounts,
    DeleteOutside,
    Isolate,
    LeaveEmpty,
    Move,
    MoveStep,
    PutOutside,
    RenewOutside,
    TellLate,
)
from tbupdate.flags import INHERITED, flags_of, opened, set_flags, unlock
from tbupdate.layout import SNAPSHOTS
from tbupdate.site import Site
from tbupdate.syscalls import sync


def do(step: MoveStep, site: Site) -> None:
    """Perform one step."""
    match step:
        case Isolate(name, place):
            _isolate(site.path(name), place)
        case LeaveEmpty(name, place):
            _leave_empty(os.path.join(site.path(name), place))
        case AddMounts(name, moves):
            known = space.identify(site.top)
            if known is None:
                raise Failed("the file system has no UUID", "See what `blkid` says of it.")
            fstab.add(site.path(name), [(f"/{one.place}", one.subvolume) for one in moves], space.dashed(known.fsid))
        case PutOutside(name, move):
            _put_outside(name, move, site)
        case RenewOutside(name, move):
            _renew(name, move, site)
        case DeleteOutside(subvolume):
            subvolumes.delete(os.path.join(site.top, subvolume))
            marks.remove(site.path(""), marks.moved(subvolume))
        case TellLate():
            _tell_late(step, site)


def _isolate(tree: str, place: str) -> None:
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with Descent(Path(tree)) as descent:
            entry = read_names(descent, [os.fsencode(place)])[os.fsencode(place)]
            flags = flags_of(descent.open(os.fsencode(place)))
        kept = f".moving-{secrets.token_hex(8)}"
        _insist(os.rename, os.path.join(tree, place), os.path.join(tree, kept))
        for name in os.listdir(root):
            if name != kept:
                _remove(os.path.join(tree, name))
        for name in os.listdir(os.path.join(tree, kept)):
            _insist(os.rename, os.path.join(tree, kept, name), os.path.join(tree, name))
        _insist(os.rmdir, os.path.join(tree, kept))
        set_flags(root, flags & INHERITED)
        set_metadata(entry, root)
    finally:
        os.close(root)


def _leave_empty(directory: str) -> None:
    before = os.stat(directory, follow_symlinks=False)
    for name in os.listdir(directory):
        _remove(os.path.join(directory, name))
    os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))


def _remove(path: str) -> None:
    """Remove a file or a directory of a snapshot that nobody else reaches, whatever protects it."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, onerror=lambda act, at, _: _insist(act, at))
    else:
        _insist(os.unlink, path)


def _insist(act: Callable[..., object], path: str, *more: str) -> None:
    """Do it, also where something is marked as not to be changed: in a snapshot that protects nobody."""
    try:
        act(path, *more)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        locked = {one: flags for one in (path, os.path.dirname(path)) if (flags := _unlock(one))}
        if not locked:
            raise
        act(path, *more)
        moved = more[0] if more else path
        if path in locked and os.path.lexists(moved):
            with opened(moved) as fd:
                set_flags(fd, locked[path])


def _unlock(path: str) -> int:
    """Take the locks off; what flags there were, or 0 where there was none of them."""
    if not (os.path.isfile(path) or os.path.isdir(path)) or os.path.islink(path):
        return 0
    with opened(path) as fd:
        return unlock(fd)


def _put_outside(name: str, move: Move, site: Site) -> None:
    # What is still to be written would change what the mark says of it.
    sync(site.top)
    _mark(site.path(name), move, site)
    top = os.open(site.top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Nothing is ever replaced that has this name.
        syscalls.rename(top, f"{SNAPSHOTS}/{name}", move.subvolume)
    finally:
        os.close(top)


def _renew(name: str, move: Move, site: Site) -> None:
    sync(site.top)
    _mark(site.path(name), move, site)
    exchange_outside(name, move.subvolume, site)


def exchange_outside(name: str, subvolume: str, site: Site) -> None:
    """Let a name in `snapshots/` and one in the top level change places, in one act."""
    top = os.open(site.top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.exchange(top, f"{SNAPSHOTS}/{name}", subvolume)
    finally:
        os.close(top)


def _mark(path: str, move: Move, site: Site) -> None:
    marks.put(site.path(""), marks.moved(move.subvolume), f"{subvolumes.seal(path)} {move.place}")
    sync(site.top)


def _tell_late(step: TellLate, site: Site) -> None:
    for move in step.moves:
        then, now = (os.path.join(site.path(name), move.place) for name in (step.then, step.now))
        if places.written(now, then):
            site.remarks.append(
                f"what was written to /{move.place} between `init` and the boot was not brought to {move.subvolume}: "
                f"it is in {step.source or 'the top level'}, the installed root, as ever"
            )
