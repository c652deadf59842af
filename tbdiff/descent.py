"""Directories of one tree, opened one component at a time: never through a link, never into another file system."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tbdiff.entry import printable
from tbdiff.errors import Failed, Rejected

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO or a device at a file's name must not block.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Descent:
    """The root of a tree and the directories on the way to the last one that was asked for, held open."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self._fds = [os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        except NotADirectoryError:
            raise Rejected(f"{root} is not a directory") from None
        except FileNotFoundError:
            raise Rejected(f"{root} does not exist") from None
        self._names: list[bytes] = []
        self.device = os.fstat(self._fds[0]).st_dev

    def __enter__(self) -> Descent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the root too."""
        self.forget()
        os.close(self._fds.pop())

    def forget(self) -> None:
        """Close all but the root: after a rename the names on the way may mean something else."""
        while len(self._fds) > 1:
            os.close(self._fds.pop())
        self._names.clear()

    def open(self, path: bytes) -> int:
        """A descriptor of the directory at `path`; valid until the next call."""
        names = path.split(b"/") if path else []
        same = 0
        while same < len(names) and same < len(self._names) and names[same] == self._names[same]:
            same += 1
        while len(self._names) > same:
            os.close(self._fds.pop())
            self._names.pop()
        for name in names[same:]:
            self._fds.append(self._enter(name, path))
            self._names.append(name)
        return self._fds[-1]

    def _enter(self, name: bytes, path: bytes) -> int:
        try:
            fd = os.open(name, DIRECTORY, dir_fd=self._fds[-1])
        except (NotADirectoryError, FileNotFoundError, OSError) as error:
            raise Failed(f"{printable(path)!r} in {self.root} cannot be entered: {error.strerror}") from None
        if os.fstat(fd).st_dev != self.device:
            os.close(fd)
            raise Rejected(
                f"{printable(path)!r} in {self.root} is on another file system or a nested subvolume",
                "Unmount it, or keep what it holds outside of the tree.",
            )
        return fd

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor of the directory that holds `path`, and the name in it."""
        above, _, name = path.rpartition(b"/")
        return self.open(above), name

    @contextmanager
    def file(self, path: bytes) -> Iterator[int]:
        """A descriptor for reading the regular file at `path`."""
        above, name = self.parent(path)
        try:
            fd = os.open(name, FILE, dir_fd=above)
        except OSError as error:
            raise Failed(f"{printable(path)!r} in {self.root} cannot be read: {error.strerror}") from None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Failed(f"{printable(path)!r} in {self.root} is no regular file any more")
            yield fd
        finally:
            os.close(fd)


def through(fd: int, name: bytes = b"") -> bytes:
    """A path that leads to `name` in the open directory `fd`, or to what `fd` itself is."""
    return b"/proc/self/fd/%d/%s" % (fd, name) if name else b"/proc/self/fd/%d" % fd
