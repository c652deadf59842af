"""What a file system may refuse, tried on a scratch thing in the staging directory before the tree is changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from tbdiff.descent import DIRECTORY, through
from tbdiff.entry import Entry, Kind, printable
from tbdiff.errors import Rejected
from tbdiff.metadata import LABELS_OF_THE_KERNEL, set_metadata, set_metadata_at

SCRATCH = b"rehearsal"
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
MAKERS = {Kind.FIFO: stat.S_IFIFO, Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK}
# All file systems that a system lives on keep these times and these lengths of links.
ORDINARY_TIMES = range(0, 2**33 * 1_000_000_000)
ORDINARY_LINK = 1000


def rehearse(directory: int, entries: Iterable[Entry]) -> None:
    """Make one of each unusual sort of entry in `directory`; Rejected if it cannot be, or does not stay so."""
    seen = set()
    for entry in entries:
        sort = _sort(entry)
        if sort is not None and sort not in seen:
            seen.add(sort)
            _try(directory, entry)


def _sort(entry: Entry) -> object:
    """What is unusual about an entry; None if nothing is."""
    odd_time = None if entry.mtime in ORDINARY_TIMES else entry.mtime
    odd_link = entry.link if len(entry.link) > ORDINARY_LINK and entry.kind is Kind.SYMLINK else b""
    dressed = (entry.mode, entry.xattrs) if entry.xattrs else None
    if odd_time is None and not odd_link and not dressed and entry.kind not in MAKERS:
        return None
    return entry.kind, odd_time, odd_link, dressed


def _try(directory: int, entry: Entry) -> None:
    try:
        _make(directory, entry)
        same = _as_stated(directory, entry)
    except OSError as error:
        raise Rejected(
            f"{_name(entry)} cannot be kept on this file system: {error.strerror}; nothing was changed"
        ) from None
    finally:
        _remove(directory)
    if not same:
        raise Rejected(f"{_name(entry)} does not stay on this file system as the image says; nothing was changed")


def _name(entry: Entry) -> str:
    return repr(printable(entry.path)) if entry.path else "the root directory"


def _make(directory: int, entry: Entry) -> None:
    if entry.kind is Kind.SYMLINK:
        os.symlink(entry.link, SCRATCH, dir_fd=directory)
    elif entry.kind in MAKERS:
        os.mknod(SCRATCH, MAKERS[entry.kind] | 0o600, os.makedev(*entry.rdev), dir_fd=directory)
    else:
        if entry.kind is Kind.DIRECTORY:
            os.mkdir(SCRATCH, 0o700, dir_fd=directory)
            fd = os.open(SCRATCH, DIRECTORY, dir_fd=directory)
        else:
            fd = os.open(SCRATCH, NEW, 0o600, dir_fd=directory)
        try:
            set_metadata(entry, fd)
        finally:
            os.close(fd)
        return
    set_metadata_at(entry, directory, SCRATCH)


def _as_stated(directory: int, entry: Entry) -> bool:
    status = os.stat(SCRATCH, dir_fd=directory, follow_symlinks=False)
    place = through(directory, SCRATCH)
    names = [name for name in os.listxattr(place, follow_symlinks=False) if name not in LABELS_OF_THE_KERNEL]
    stated = {os.fsdecode(name): value for name, value in entry.xattrs}
    found = {name: os.getxattr(place, name, follow_symlinks=False) for name in names}
    mode = entry.mode if entry.kind is not Kind.SYMLINK else stat.S_IMODE(status.st_mode)
    same_xattrs = found == {name: value for name, value in stated.items() if name not in LABELS_OF_THE_KERNEL}
    return same_xattrs and (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (mode, entry.mtime)


def _remove(directory: int) -> None:
    try:
        os.unlink(SCRATCH, dir_fd=directory)
    except FileNotFoundError:
        pass  # it could not even be made
    except IsADirectoryError:
        os.rmdir(SCRATCH, dir_fd=directory)
