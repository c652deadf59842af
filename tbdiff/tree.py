"""A directory read into a listing: every entry with all its metadata, every content with its digest."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from tbdiff.descent import FILE, Descent, through
from tbdiff.entry import Entry, Extents, Kind, Listing, Xattrs, canonical_key, join, printable
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
    found = (reading.take(path) for path in sorted(paths, key=canonical_key))
    return {entry.path: entry for entry in found if entry}


class _Reading:
    """One reading: names are taken up in canonical order, so that the first of an inode's names is its file."""

    def __init__(
        self, descent: Descent, progress: Progress, notice: Callable[[str], None] | None, contents: bool
    ) -> None:
        self.descent = descent
        self.progress = progress
        self.notice = notice
        self.contents = contents
        self.inodes: dict[int, bytes] = {}
        self.bytes_read = 0

    def listing(self) -> Listing:
        """Walk down from the root."""
        return Listing(self._walk())

    def _walk(self) -> Iterator[Entry]:
        todo = [self._root()]
        while todo:
            above = todo.pop()
            yield above
            fd = self.descent.open(above.path)
            with os.scandir(fd) as found:
                names = sorted(os.fsencode(item.name) for item in found)
            if not above.path and STAGING in names:
                raise Rejected(
                    f"{self.descent.root} holds {STAGING.decode()!r}, the leftover of an interrupted apply",
                    "Remove it if nothing is being applied there now.",
                )
            directories = []
            for name in names:
                entry = self._read(fd, name, above.path)
                if entry and entry.kind is Kind.DIRECTORY:
                    directories.append(entry)
                elif entry:
                    yield entry
            todo.extend(reversed(directories))

    def take(self, path: bytes) -> Entry | None:
        """Take up the name at `path`; None for a socket."""
        return self._read(*self.descent.parent(path), path.rpartition(b"/")[0]) if path else self._root()

    def _root(self) -> Entry:
        fd = self.descent.open(b"")
        return self._entry(b"", os.fstat(fd), _xattrs(through(fd)), fd=fd)

    def _read(self, directory: int, name: bytes, above: bytes) -> Entry | None:
        path = join(above, name)
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISSOCK(status.st_mode):
                if self.notice:
                    self.notice(f"{printable(path)} is a socket and was left out")
                return None
            if stat.S_ISDIR(status.st_mode) and status.st_ino == STUB_INODE and status.st_nlink == 1:
                raise Rejected(
                    f"{printable(path)!r} in {self.descent.root} stands for a nested subvolume; no image can hold one",
                    "Replace it by a plain directory.",
                )
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                first = self.inodes.setdefault(status.st_ino, path)
                if first != path:
                    return Entry(path=path, kind=Kind.HARDLINK, link=first)
            return self._entry(path, status, _xattrs(through(directory, name)), directory, name)
        except FileNotFoundError:
            raise Failed(f"{printable(path)!r} went away while {self.descent.root} was read") from None

    def _entry(self, path: bytes, status: os.stat_result, xattrs: Xattrs, fd: int, name: bytes = b"") -> Entry:
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        size, digest, link, rdev, extents = 0, b"", b"", (0, 0), None
        if kind is Kind.FILE:
            size = status.st_size
            if self.contents:
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
