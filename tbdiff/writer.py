"""The one module that changes the names of a tree: moves out, removals, additions, edits, links, directories."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import TracebackType

from tbdiff.descent import DIRECTORY, FILE, Descent
from tbdiff.entry import Entry, Kind, Listing, parents, printable
from tbdiff.errors import Failed, Stop
from tbdiff.metadata import check_holes, set_metadata, set_metadata_at
from tbdiff.operation import Add, Edit, Field, TreeDelta
from tbdiff.rebuild import Rebuilt
from tbdiff.staging import Staging, lock, remove
from tbdiff.tree import STAGING, Progress, quiet

MAKERS = {Kind.FIFO: stat.S_IFIFO, Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK}
TEMPORARY = b"new"


class TransformError(Exception):
    """A tree that was being changed could not be changed to the end."""


class TreeWriter:
    """A tree on its way from base to target, locked against other runs.

    `begin` opens the staging directory in its root, where contents are put together; until `transform` nothing else of
    the tree changes. On leaving, the staging directory is gone, however it went.
    """

    def __init__(self, root: Path) -> None:
        self._tree = Descent(root)
        try:
            lock(self._tree)
        except BaseException:
            self._tree.close()
            raise
        self._umask = os.umask(0)
        self._staging: Staging | None = None

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            self._finish_staging()
        finally:
            os.umask(self._umask)
            self._tree.close()

    def begin(self, base: Listing) -> Staging:
        """Open the staging directory; the tree must be `base`."""
        self._staging = Staging(self._tree, base)
        return self._staging

    def _finish_staging(self) -> None:
        staging, self._staging = self._staging, None
        if staging is not None:
            staging.close()

    def transform(self, base: Listing, delta: TreeDelta, rebuilt: Rebuilt, progress: Progress = quiet) -> None:
        """Change the tree's names and metadata to the target's; all contents must be staged."""
        if self._staging is None:
            raise AssertionError("nothing was staged")
        transformation = _Transformation(self._tree, self._staging, base, delta, rebuilt)
        transformation.prepare()
        try:
            transformation.run(self._finish_staging, progress)
        except (OSError, Stop) as error:
            raise TransformError(error.strerror if isinstance(error, OSError) else str(error)) from error


class _Transformation:
    """The names of one tree being changed."""

    def __init__(self, tree: Descent, staging: Staging, base: Listing, delta: TreeDelta, rebuilt: Rebuilt) -> None:
        self._tree = tree
        self._staging = staging
        self._base = base
        self._delta = delta
        self._target = rebuilt.target
        self._rebuilt = rebuilt
        self._moved: dict[int, bytes] = {}
        self._up = parents(base)
        self._users: Counter[bytes] = Counter()
        self._linked = {entry.link for _, entry in self._target.of_kind(Kind.HARDLINK)}
        self._renewed: set[bytes] = set()

    def run(self, finish_staging: Callable[[], None], progress: Progress) -> None:
        """All steps, one after the other."""
        steps = (self._move_out, self._remove, self._add, self._edit, self._link, finish_staging, self._directories)
        for n, step in enumerate(steps):
            progress("change", n, len(steps))
            step()
        progress("change", len(steps), len(steps))

    def _added(self) -> Iterator[tuple[Add, Entry]]:
        """What is added, with the target's entry for it."""
        return zip(self._delta.adds, map(self._target.entries.item, self._rebuilt.added), strict=True)

    def _edited(self) -> Iterator[tuple[Edit, Entry]]:
        """What is edited, likewise."""
        return zip(self._delta.edits, map(self._target.entries.item, self._rebuilt.edited), strict=True)

    def _new_files(self) -> Iterator[Entry]:
        """The files of the target that get an inode of their own, in the order in which they are placed."""
        for _, entry in self._added():
            if entry.kind is Kind.FILE:
                yield entry
        for edit, entry in self._edited():
            if entry.kind is Kind.FILE and edit.fields & (Field.CONTENT | Field.EXTENTS):
                yield entry

    def prepare(self) -> None:
        """Stage what is only elsewhere in the base now, and see that holes hold nothing, while nothing changed yet."""
        self._keep_contents()
        for entry in self._new_files():
            if entry.extents is not None:
                fd = self._staging.file(entry.digest.hex().encode())
                try:
                    check_holes(entry, fd)
                finally:
                    os.close(fd)

    def _keep_contents(self) -> None:
        self._users.update(entry.digest for entry in self._new_files())
        if not self._base.entries:
            return
        kept: set[bytes] = set()
        for n, digest in self._base.digests():
            if digest in self._users and digest not in kept:
                kept.add(digest)
                self._staging.keep(n)

    def _stated(self, kind: Kind) -> set[int]:
        """Where in the target those entries of a kind are that the delta states."""
        kinds = self._target.entries.kinds
        return {place for place in chain(self._rebuilt.added, self._rebuilt.edited) if kinds[place] is kind}

    # --- the steps

    def _move_out(self) -> None:
        """Take moved directories out of the way, the deepest first, so that the paths of the others still hold."""
        sources = {
            source
            for source, kind in zip(self._delta.adds.sources, self._delta.adds.entries.kinds, strict=True)
            if kind is Kind.DIRECTORY and source is not None
        }
        for number in sorted(sources, reverse=True):
            directory, name = self._tree.parent(self._base.entries[number].path)
            os.rename(name, b"d%d" % number, src_dir_fd=directory, dst_dir_fd=self._staging.fd)
            self._tree.forget()
            self._moved[number] = STAGING + b"/d%d" % number

    def _location(self, number: int) -> bytes:
        """Where a base entry is while moved directories are out of the way."""
        names: list[bytes] = []
        while number and number not in self._moved:
            names.append(self._base.entries[number].name)
            number = self._up[number]
        if number:
            names.append(self._moved[number])
        return b"/".join(reversed(names))

    def _remove(self) -> None:
        for number in self._delta.removed:
            remove(self._tree, self._location(number))

    def _add(self) -> None:
        for add, entry in self._added():
            if not entry.path:
                continue
            if entry.kind is Kind.DIRECTORY:
                directory, name = self._tree.parent(entry.path)
                _clear_socket(directory, name)
                if add.source is None:
                    os.mkdir(name, 0o700, dir_fd=directory)
                else:
                    os.rename(b"d%d" % add.source, name, src_dir_fd=self._staging.fd, dst_dir_fd=directory)
                    self._tree.forget()
            elif entry.kind is not Kind.HARDLINK:
                self._put(entry)

    def _edit(self) -> None:
        for edit, entry in self._edited():
            if entry.kind in (Kind.DIRECTORY, Kind.HARDLINK):
                continue
            if edit.fields & (Field.CONTENT | Field.EXTENTS):
                self._put(entry)
            else:
                self._touch(entry)

    def _touch(self, entry: Entry) -> None:
        """Give what is there the metadata of `entry`."""
        directory, name = self._tree.parent(entry.path)
        if entry.kind is not Kind.FILE:
            set_metadata_at(entry, directory, name)
            return
        fd = os.open(name, FILE, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Failed(f"{printable(entry.path)!r} is no regular file any more")
            set_metadata(entry, fd)
        finally:
            os.close(fd)

    def _put(self, entry: Entry) -> None:
        """Put a whole new thing in place of what may be there; it appears with all its metadata."""
        if entry.path in self._linked:
            self._renewed.add(entry.path)
        staging = self._staging.fd
        if entry.kind is Kind.FILE:
            self._users[entry.digest] -= 1
            with self._staging.taken(entry, last=not self._users[entry.digest]) as (staged, fd):
                set_metadata(entry, fd)
        else:
            staged = TEMPORARY
            if entry.kind is Kind.SYMLINK:
                os.symlink(entry.link, staged, dir_fd=staging)
            else:
                os.mknod(staged, MAKERS[entry.kind] | 0o600, os.makedev(*entry.rdev), dir_fd=staging)
            set_metadata_at(entry, staging, staged)
        directory, name = self._tree.parent(entry.path)
        os.rename(staged, name, src_dir_fd=staging, dst_dir_fd=directory)

    def _link(self) -> None:
        """Make the further names of inodes that are new, or that these names are new to."""
        stated = self._stated(Kind.HARDLINK)
        for position, entry in self._target.of_kind(Kind.HARDLINK):
            if position in stated or entry.link in self._renewed:
                directory, name = self._tree.parent(entry.link)
                os.link(name, TEMPORARY, src_dir_fd=directory, dst_dir_fd=self._staging.fd, follow_symlinks=False)
                directory, name = self._tree.parent(entry.path)
                os.rename(TEMPORARY, name, src_dir_fd=self._staging.fd, dst_dir_fd=directory)
                with suppress(FileNotFoundError):
                    # Of two names of one inode a rename leaves both as they are.
                    os.unlink(TEMPORARY, dir_fd=self._staging.fd)

    def _directories(self) -> None:
        """Last, since what happens in a directory changes its time."""
        stated = self._stated(Kind.DIRECTORY)
        for position, entry in self._target.of_kind(Kind.DIRECTORY):
            fd = self._tree.open(entry.path)
            if position in stated:
                set_metadata(entry, fd)
            elif os.fstat(fd).st_mtime_ns != entry.mtime:
                os.utime(fd, ns=(entry.mtime, entry.mtime))


def _clear_socket(directory: int, name: bytes) -> None:
    """Remove a socket: no listing has them, so one may be where a directory is going to be."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=directory)


def sync(root: Path) -> None:
    """Wait until the file system that holds `root` has all of it on disk."""
    import ctypes  # noqa: PLC0415 - only who applies to a plain tree needs it

    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(root, DIRECTORY)
    try:
        if libc.syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)
