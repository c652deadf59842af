"""The staging directory in a tree's root: where new contents are put together and checked before any name changes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tbdiff.content import BLOCK, runs
from tbdiff.descent import DIRECTORY, FILE, Descent
from tbdiff.entry import Entry, Listing, printable
from tbdiff.errors import Malformed, Rejected
from tbdiff.metadata import copy_content, set_holes, write_at
from tbdiff.tree import STAGING

TIME = b"time"
STEP = 1 << 18
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class Staging:
    """The contents that a tree is going to have, each under its digest; the tree itself is only read."""

    def __init__(self, tree: Descent, base: Listing) -> None:
        self._tree = tree
        self._base = base
        self._open_base: tuple[int, int] | None = None
        root = tree.open(b"")
        before = os.fstat(root).st_mtime_ns
        os.mkdir(STAGING, 0o700, dir_fd=root)
        self.fd = os.open(STAGING, DIRECTORY, dir_fd=root)
        # Should the run be cut, the next one knows what the root's time was.
        os.symlink(b"%d" % before, TIME, dir_fd=self.fd)

    def close(self) -> None:
        """Remove the directory with all that is in it."""
        self._close_base()
        os.close(self.fd)
        clear(self._tree)

    def file(self, name: bytes) -> int:
        """A descriptor of a file in here, for reading."""
        return os.open(name, FILE, dir_fd=self.fd)

    def new_file(self, name: bytes) -> int:
        """A descriptor of a new file in here."""
        return os.open(name, NEW, 0o600, dir_fd=self.fd)

    def base_file(self, number: int) -> int:
        """A descriptor of the file that is base entry `number`; valid until another one is asked for."""
        if self._open_base is None or self._open_base[0] != number:
            self._close_base()
            directory, name = self._tree.parent(self._base.entries[number].path)
            fd = os.open(name, FILE, dir_fd=directory)
            self._open_base = (number, fd)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Rejected("a file of the base is no regular file any more; the tree was left as it is")
        return self._open_base[1]

    def _close_base(self) -> None:
        if self._open_base is not None:
            os.close(self._open_base[1])
            self._open_base = None

    @contextmanager
    def content(self, entry: Entry) -> Iterator[StagedContent]:
        """Put together the content of `entry`; its digest is checked at the end of the block."""
        fd = self.new_file(entry.digest.hex().encode())
        try:
            staged = StagedContent(fd, entry)
            yield staged
            staged.finish()
        finally:
            os.close(fd)

    def keep(self, number: int) -> None:
        """Stage the content of base entry `number`, before its name goes."""
        fd = self.new_file(self._base.entries[number].digest.hex().encode())
        try:
            copy_content(self.base_file(number), fd)
        finally:
            os.close(fd)

    @contextmanager
    def taken(self, entry: Entry, *, last: bool) -> Iterator[tuple[bytes, int]]:
        """The staged content of `entry` as a file of its own: its name in here, and its descriptor."""
        name = entry.digest.hex().encode()
        fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        if not last:
            original, name = fd, b"copy"
            try:
                fd = self.new_file(name)
                copy_content(original, fd)
            finally:
                os.close(original)
        try:
            set_holes(entry, fd)
            yield name, fd
        finally:
            os.close(fd)


class StagedContent:
    """One content on its way into the staging directory, written from its beginning to its end."""

    def __init__(self, fd: int, entry: Entry) -> None:
        self._fd = fd
        self._entry = entry
        self._runs = iter(runs(entry))
        self._run_left = 0
        self._position = 0
        self._hash = hashlib.sha256()
        self._hashed = 0
        os.ftruncate(fd, entry.size)

    def _room(self) -> int:
        """How many bytes may come at the position before the next hole."""
        while not self._run_left:
            run = next(self._runs, None)
            if run is None:
                raise Malformed("the image writes a file beyond its end")
            self._position, self._run_left = run
            self._hash_zeros(self._position)
        return self._run_left

    def _hash_zeros(self, until: int) -> None:
        while self._hashed < until:
            step = min(STEP, until - self._hashed)
            self._hash.update(bytes(step))
            self._hashed += step

    def _advance(self, count: int) -> None:
        self._position += count
        self._hashed = self._position
        self._run_left -= count

    def write(self, data: bytes, /) -> None:
        """Append bytes."""
        view = memoryview(data)
        while view:
            part = view[: self._room()]
            self._hash.update(part)
            write_at(self._fd, part, self._position)
            self._advance(len(part))
            view = view[len(part) :]

    def write_shared(self, data: bytes, source: int, offset: int) -> None:
        """Append what the file `source` holds at `offset`; blocks that fall on blocks share their extents with it."""
        if (offset - self._position) % BLOCK or len(data) > self._room():
            self.write(data)
            return
        self._hash.update(data)
        head = min(-offset % BLOCK, len(data))
        blocks = (len(data) - head) // BLOCK * BLOCK
        write_at(self._fd, data[:head], self._position)
        done = 0
        if blocks:
            with suppress(OSError):  # not every file system can; then the bytes are written
                done = os.copy_file_range(source, self._fd, blocks, offset + head, self._position + head)
        write_at(self._fd, data[head + done :], self._position + head + done)
        self._advance(len(data))

    def finish(self) -> None:
        """Check that all of the content came, and that it is the right one."""
        if self._run_left or next(self._runs, None) not in (None, (0, 0)):
            raise Malformed("the image leaves a file unfinished")
        self._hash_zeros(self._entry.size)
        if self._hash.digest() != self._entry.digest:
            raise Rejected(
                f"{printable(self._entry.path)!r} does not come out as it should; the tree was left as it is",
                "The base is not what the image was made for, or its disk is failing: check it with `tbdiff verify`.",
            )


def lock(tree: Descent) -> None:
    """Make sure that no other run applies to the tree, until its root is closed; clear what a cut run left."""
    import fcntl  # noqa: PLC0415 - needed once

    try:
        fcntl.flock(tree.open(b""), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Rejected(f"another run is changing {tree.root} now", "Wait for it to end.") from None
    clear(tree)


def clear(tree: Descent) -> None:
    """Remove the staging directory, if there is one, as if it had never been there."""
    try:
        before = int(os.readlink(STAGING + b"/" + TIME, dir_fd=tree.open(b"")))
    except (FileNotFoundError, NotADirectoryError, ValueError, OSError):
        before = None
    remove(tree, STAGING)
    if before is not None:
        os.utime(tree.open(b""), ns=(before, before))


def remove(tree: Descent, path: bytes) -> None:
    """Remove whatever is at `path`, with all that it holds."""
    tree.forget()
    todo = [path]
    while todo:
        path = todo[-1]
        directory, name = tree.parent(path)
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            todo.pop()
            continue
        except IsADirectoryError:
            held = os.listdir(tree.open(path))
            if held:
                todo.extend(path + b"/" + os.fsencode(item) for item in held)
                continue
            directory, name = tree.parent(path)
            os.rmdir(name, dir_fd=directory)
        todo.pop()
