"""A directory read into a listing: every entry with all its metadata, every content with its digest."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection
from pathlib import Path

from tbdiff.descent import FILE, Descent, through
from tbdiff.entry import Entry, Extents, Kind, Listing, Xattrs, canonical_key, in_order, join, printable
from tbdiff.errors import Failed, Rejected

Progress = Callable[[str, int, int], None]
STEP = 1 << 20
STAGING = b".tbdiff-staging"
# A directory that stands for a nested subvolume in a snapshot of what is around it.
STUB_INODE = 2

KINDS = {
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
}


def quiet(phase: str, done: int, total: int) -> None:
    """The progress of who does not want to see any."""


def read_tree(
    root: Path, *, progress: Progress = quiet, notice: Callable[[str], None] | None = None, contents: bool = True
) -> Listing:
    """Read the tree at `root`.

    Sockets are left out, with a notice. Without `contents` no file is read and all digests are empty. Rejected where
    another file system or a nested subvolume is in the way; Failed where a file changes while it is read.
    """
    with Descent(root) as descent:
        return _Reading(descent, progress, notice, contents).listing()


def read_names(
    tree: Descent,
    paths: Collection[bytes],
    *,
    progress: Progress = quiet,
    notice: Callable[[str], None] | None = None,
    contents: bool = True,
) -> dict[bytes, Entry]:
    """Read single names of a tree, and not what directories hold; names of one inode must be all there."""
    reading = _Reading(tree, progress, notice, contents)
    for path in sorted(paths):
        reading.take(path)
    return reading.linked()


class _Reading:
    """What one reading has found so far."""

    def __init__(
        self, descent: Descent, progress: Progress, notice: Callable[[str], None] | None, contents: bool
    ) -> None:
        self.descent = descent
        self.progress = progress
        self.notice = notice
        self.contents = contents
        self.entries: dict[bytes, Entry] = {}
        self.inodes: dict[int, list[bytes]] = {}
        self.bytes_read = 0

    def listing(self) -> Listing:
        """Walk down from the root."""
        self.take(b"")
        todo = [b""]
        while todo:
            path = todo.pop()
            fd = self.descent.open(path)
            with os.scandir(fd) as found:
                names = sorted(os.fsencode(item.name) for item in found)
            if not path and STAGING in names:
                raise Rejected(
                    f"{self.descent.root} holds {STAGING.decode()!r}, the leftover of an interrupted apply",
                    "Remove it if nothing is being applied there now.",
                )
            for name in names:
                if self._read(fd, name, path):
                    todo.append(join(path, name))
        return in_order(self.linked())

    def take(self, path: bytes) -> None:
        """Take up the name at `path`."""
        if path:
            self._read(*self.descent.parent(path), path.rpartition(b"/")[0])
        else:
            root = self.descent.open(b"")
            self.entries[b""] = self._entry(b"", os.fstat(root), _xattrs(through(root)), fd=root)

    def _read(self, directory: int, name: bytes, above: bytes) -> bool:
        """Take up one name; True if it is a directory to go on with."""
        path = join(above, name)
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISSOCK(status.st_mode):
                if self.notice:
                    self.notice(f"{printable(path)} is a socket and was left out")
                return False
            if stat.S_ISDIR(status.st_mode) and status.st_ino == STUB_INODE and status.st_nlink == 1:
                raise Rejected(
                    f"{printable(path)!r} in {self.descent.root} stands for a nested subvolume; no image can hold one",
                    "Replace it by a plain directory.",
                )
            self.entries[path] = self._entry(path, status, _xattrs(through(directory, name)), directory, name)
        except FileNotFoundError:
            raise Failed(f"{printable(path)!r} went away while {self.descent.root} was read") from None
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            self.inodes.setdefault(status.st_ino, []).append(path)
        return stat.S_ISDIR(status.st_mode)

    def _entry(self, path: bytes, status: os.stat_result, xattrs: Xattrs, fd: int, name: bytes = b"") -> Entry:
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        size, digest, link, rdev, extents = 0, b"", b"", (0, 0), None
        if kind is Kind.FILE:
            size = status.st_size
            if self.contents and not self._known_inode(status):
                digest, extents = self._content(path, fd, name, status)
        elif kind is Kind.SYMLINK:
            link = os.readlink(name, dir_fd=fd)
        elif kind in (Kind.CHAR, Kind.BLOCK):
            rdev = (os.major(status.st_rdev), os.minor(status.st_rdev))
        return Entry(
            path=path,
            kind=kind,
            mode=stat.S_IMODE(status.st_mode) if kind is not Kind.SYMLINK else 0,
            uid=status.st_uid,
            gid=status.st_gid,
            mtime=status.st_mtime_ns,
            size=size,
            digest=digest,
            link=link,
            rdev=rdev,
            xattrs=xattrs,
            extents=extents,
        )

    def _known_inode(self, status: os.stat_result) -> bool:
        """Whether the content was read already, by another name."""
        return status.st_nlink > 1 and status.st_ino in self.inodes

    def _content(
        self, path: bytes, directory: int, name: bytes, status: os.stat_result
    ) -> tuple[bytes, Extents | None]:
        fd = os.open(name, FILE, dir_fd=directory)
        try:
            extents = data_extents(fd, status.st_size)
            try:
                digest = file_digest(fd, status.st_size)
            except OSError as error:
                raise Failed(
                    f"{printable(path)!r} in {self.descent.root} cannot be read: {error.strerror}",
                    "Its disk may be failing: see the kernel's log.",
                ) from None
            now = os.fstat(fd)
        finally:
            os.close(fd)
        if (now.st_size, now.st_mtime_ns, now.st_ino) != (status.st_size, status.st_mtime_ns, status.st_ino):
            raise Failed(
                f"{printable(path)!r} in {self.descent.root} changed while it was read",
                "Read a snapshot of it instead.",
            )
        self.bytes_read += status.st_size
        self.progress("read", self.bytes_read, 0)
        return digest, extents

    def linked(self) -> dict[bytes, Entry]:
        """All entries; of the names of one inode the first keeps the entry, the others become hard links to it."""
        for names in self.inodes.values():
            # The first in canonical order: by directory, and in a directory by name.
            read = next((self.entries[name] for name in names if self.entries[name].digest), self.entries[names[0]])
            first, *others = sorted(names, key=canonical_key)
            self.entries[first] = read._replace(path=first)
            for name in others:
                self.entries[name] = Entry(path=name, kind=Kind.HARDLINK, link=first)
        return self.entries


def _xattrs(path: bytes) -> Xattrs:
    """All attributes of what is at `path`, sorted by name."""
    try:
        names = os.listxattr(path, follow_symlinks=path.count(b"/") == 4)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return ()
        raise
    if not names:
        return ()
    pairs = [(os.fsencode(name), os.getxattr(path, name, follow_symlinks=path.count(b"/") == 4)) for name in names]
    return tuple(sorted(pairs))


def file_digest(fd: int, size: int) -> bytes:
    """The SHA-256 of the next `size` bytes of `fd`, or of what there is of them."""
    h = hashlib.sha256()
    while size and (part := os.read(fd, min(size, STEP))):
        h.update(part)
        size -= len(part)
    return h.digest()


def data_extents(fd: int, size: int) -> Extents | None:
    """The (offset, length) runs of a file that hold data; None if it has no holes."""
    found: list[tuple[int, int]] = []
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        position = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, position - start))
    os.lseek(fd, 0, os.SEEK_SET)
    return None if found == [(0, size)] or not size else tuple(found)
