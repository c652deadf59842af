"""Two snapshots of one history: what differs between them, told by Btrfs, so that the rest need not be read.

The kernel compares the two file trees and passes over all that they share on disk. Whatever it names is read; all else
is as in the base's listing. In any doubt there is no answer, and the tree is read as any other.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tbdiff import listing as listings
from tbdiff.descent import DIRECTORY, Descent
from tbdiff.entry import EMPTY, Entry, Kind, Listing, canonical_key, in_order, join
from tbdiff.errors import Failed
from tbdiff.replay import DoubtError, Reader, Replay, commands
from tbdiff.tree import Progress, quiet, read_names, read_tree

# linux/btrfs.h
SUBVOL_INFO = 2 << 30 | 504 << 16 | 0x94 << 8 | 60
FS_INFO = 2 << 30 | 1024 << 16 | 0x94 << 8 | 31
SEND = 1 << 30 | 72 << 16 | 0x94 << 8 | 38
NO_FILE_DATA = 1
READ_ONLY = 1
ROOT_INODE = 256
PIPE = 1 << 20

Notice = Callable[[str], None] | None


@dataclass(frozen=True)
class Snapshot:
    """A read-only subvolume: the number of its tree, its UUID and its parent's, and when it last changed."""

    tree: int
    uuid: bytes
    parent: bytes
    file_system: bytes
    generation: int
    changed: int

    @property
    def name(self) -> str:
        """What names this very state of it."""
        return f"{self.file_system.hex()}-{self.uuid.hex()}-{self.generation}-{self.changed}.tblist"


def snapshot_at(path: Path) -> Snapshot | None:
    """The read-only subvolume whose root is `path`; None if it is something else, or something is mounted in it."""
    try:
        fd = os.open(path, DIRECTORY)
    except OSError:
        return None
    try:
        if os.fstat(fd).st_ino != ROOT_INODE:
            return None
        told, whole = bytearray(504), bytearray(1024)
        fcntl.ioctl(fd, SUBVOL_INFO, told)
        fcntl.ioctl(fd, FS_INFO, whole)
        if not struct.unpack_from("<Q", told, 288)[0] & READ_ONLY or _mounted_below(os.readlink(f"/proc/self/fd/{fd}")):
            return None
    except OSError:
        return None
    finally:
        os.close(fd)
    tree, generation, changed = (struct.unpack_from("<Q", told, at)[0] for at in (0, 280, 344))
    return Snapshot(tree, bytes(told[296:312]), bytes(told[312:328]), bytes(whole[16:32]), generation, changed)


def _mounted_below(path: str) -> bool:
    """Whether anything is mounted in the tree at `path`: of that Btrfs says nothing."""
    with open("/proc/self/mountinfo", "rb") as mounts:
        places = [line.split()[4].decode("unicode_escape").encode("latin-1") for line in mounts]
    return any(place.startswith(os.fsencode(path).rstrip(b"/") + b"/") for place in places)


def related(one: Snapshot, other: Snapshot) -> bool:
    """Whether two snapshots share their history: one is made from the other, or both from one subvolume."""
    if one.file_system != other.file_system or one.uuid == other.uuid:
        return False
    siblings = one.parent == other.parent != bytes(16)
    return siblings or one.parent == other.uuid or other.parent == one.uuid


def read_pair(
    base: Path | None, target: Path, kept: Path | None = None, progress: Progress = quiet, notice: Notice = None
) -> tuple[Listing, Listing]:
    """The listings of two trees, of which no more is read than must be; with `kept` they are kept for the next time."""
    old = read_kept(base, kept, progress, notice) if base else EMPTY
    new = read_changed(base, old, target, progress, notice) if base else None
    if new is None:
        new = read_kept(target, kept, progress, notice)
    if base is not None:
        keep(base, old, kept)
    keep(target, new, kept)
    return old, new


def read_kept(tree: Path, kept: Path | None, progress: Progress = quiet, notice: Notice = None) -> Listing:
    """Read a tree; if it is a read-only snapshot whose listing is in the directory `kept`, from there."""
    snapshot = snapshot_at(tree) if kept else None
    if kept is not None and snapshot is not None:
        with suppress(Failed):
            return listings.load(kept / snapshot.name)
    return read_tree(tree, progress=progress, notice=notice)


def keep(tree: Path, listing: Listing, kept: Path | None) -> None:
    """Keep the listing of a read-only snapshot in the directory `kept` for the next time."""
    snapshot = snapshot_at(tree) if kept else None
    if kept is None or snapshot is None or (kept / snapshot.name).exists():
        return
    try:
        kept.mkdir(parents=True, exist_ok=True)
        listings.store(listing, kept / snapshot.name)
    except OSError as error:
        raise Failed(f"the listing of {tree} cannot be kept in {kept}: {error.strerror}") from None


def read_changed(
    base: Path,
    listing: Listing,
    tree: Path,
    progress: Progress = quiet,
    notice: Notice = None,
    *,
    akin: bool = False,
) -> Listing | None:
    """Read of `tree` only what differs from `base`, whose listing is known; None where everything must be read.

    `akin`: whoever asks knows that the one was made from the other by way of a third, which may be gone.
    """
    before, after = snapshot_at(base), snapshot_at(tree)
    if before is None or after is None or before.file_system != after.file_system:
        return None
    if not akin and not related(before, after):
        return None
    try:
        replay = differences(listing, tree, before)
        with Descent(tree) as descent:
            return _Merge(listing, replay, descent).listing(progress, notice)
    except DoubtError:
        return None


def differences(listing: Listing, tree: Path, before: Snapshot) -> Replay:
    """Which names and inodes of `tree` are not those of the snapshot `before`, whose listing is known."""
    replay = Replay(listing)
    with _sent(tree, before) as stream:
        for command in commands(stream):
            replay.follow(command)
    return replay


@contextmanager
def _sent(tree: Path, before: Snapshot) -> Iterator[Reader]:
    """The stream of differences that the kernel writes, without contents."""
    subvolume = os.open(tree, DIRECTORY)
    out, into = os.pipe2(os.O_CLOEXEC)
    with suppress(OSError):
        fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, PIPE)
    failed: list[OSError] = []

    def send() -> None:
        request = bytearray(struct.pack("<qQQQQI28x", into, 0, 0, before.tree, NO_FILE_DATA, 0))
        try:
            fcntl.ioctl(subvolume, SEND, request)
        except OSError as error:
            failed.append(error)
        finally:
            os.close(into)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with open(out, "rb") as stream:
            yield stream
    finally:
        sender.join()
        os.close(subvolume)
    if failed:
        raise DoubtError(f"Btrfs does not tell: {errno.errorcode.get(failed[0].errno or 0)}")


class _Merge:
    """The listing of a tree put together from its base's and from what was read of it."""

    def __init__(self, base: Listing, replay: Replay, tree: Descent) -> None:
        self._base = base
        self._replay = replay
        self._tree = tree
        self._entries: dict[bytes, Entry] = {}
        self._to_read: set[bytes] = set()
        # The names of unchanged inodes that have several, by the first in the base.
        self._names: dict[bytes, list[bytes]] = {}

    def listing(self, progress: Progress, notice: Notice) -> Listing:
        """What is the same is taken over, what may not be is read, and the two are held against each other."""
        places, fresh = self._replay.names()
        self._take_over(places)
        self._to_read |= fresh
        self._link()
        read = read_names(self._tree, self._to_read, progress=progress, notice=notice)
        self._entries.update(read)
        self._check_links(read)
        self._check_directories(read)
        return in_order(self._entries)

    def _take_over(self, places: dict[bytes, bytes | None]) -> None:
        several = {entry.link for _, entry in self._base.of_kind(Kind.HARDLINK)}
        directories: dict[bytes, bytes | None] = {}
        touched = self._replay.touched
        for entry in self._base.entries:
            path = entry.path
            if path in places:
                place = places[path]
            elif not path:
                place = path
            else:
                above = directories[entry.parent]
                place = None if above is None else join(above, entry.name)
            if entry.kind is Kind.DIRECTORY:
                directories[path] = place
            if place is None:
                continue
            inode = entry.link if entry.kind is Kind.HARDLINK else path
            if inode in touched:
                self._to_read.add(place)
                continue
            if inode in several:
                self._names.setdefault(inode, []).append(place)
            self._entries[place] = entry if place == path else entry._replace(path=place)

    def _link(self) -> None:
        """Which of several names of an unchanged inode is the first may have changed with the directories above."""
        for inode, names in self._names.items():
            kept = self._base.get(inode)
            if kept is None:
                raise DoubtError("an inode is not in the base")
            first, *others = sorted(names, key=canonical_key)
            self._entries[first] = kept._replace(path=first)
            self._entries.update((name, Entry(path=name, kind=Kind.HARDLINK, link=first)) for name in others)

    def _check_links(self, read: dict[bytes, Entry]) -> None:
        """All names of what was read are known, or some name was not told."""
        names = {entry.path: 1 for entry in read.values() if entry.kind not in (Kind.DIRECTORY, Kind.HARDLINK)}
        for entry in read.values():
            if entry.kind is Kind.HARDLINK:
                names[entry.link] += 1
        for path, count in names.items():
            if self._status(path).st_nlink != count:
                raise DoubtError("an inode has names that were not told")

    def _check_directories(self, read: dict[bytes, Entry]) -> None:
        """A directory that was read holds the names that it is thought to hold, and besides them only sockets."""
        expected: dict[bytes, set[bytes]] = {
            path: set() for path, entry in read.items() if entry.kind is Kind.DIRECTORY
        }
        for path in self._entries:
            above, _, name = path.rpartition(b"/")
            if path and above in expected:
                expected[above].add(name)
        for path, names in expected.items():
            with os.scandir(self._tree.open(path)) as found:
                there = {os.fsencode(item.name) for item in found}
            more = [name for name in there - names if not stat.S_ISSOCK(self._status(join(path, name)).st_mode)]
            if more or names - there:
                raise DoubtError("a directory does not hold what it is thought to hold")

    def _status(self, path: bytes) -> os.stat_result:
        directory, name = self._tree.parent(path)
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
