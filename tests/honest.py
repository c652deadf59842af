"""An honest comparison of two trees on disk: knows nothing of the code under test, misses nothing that a system keeps.

The walk goes by directory descriptors and raw bytes, so that no name is too odd and no path of legal length too long.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFSOCK: "socket",
}
PIECE = 1 << 20


@dataclass(frozen=True)
class Seen:
    """What one look at a name found."""

    st: os.stat_result
    target: bytes | None
    xattrs: dict[str, bytes]

    @property
    def kind(self) -> str:
        return KINDS[stat.S_IFMT(self.st.st_mode)]

    @property
    def inode(self) -> tuple[int, int]:
        return self.st.st_dev, self.st.st_ino


class Tree:
    """All names below one directory, each looked at once, with a descriptor to read content through."""

    def __init__(self, root: str | bytes | Path, *, sockets: bool) -> None:
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.seen: dict[bytes, Seen] = {}
        self.sockets = sockets

    def __enter__(self) -> Tree:
        self.seen = dict(self._walk())
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def _walk(self) -> Iterator[tuple[bytes, Seen]]:
        yield b"", _look(self.fd, b".")
        waiting = [b""]
        while waiting:
            parent = waiting.pop()
            fd = os.open(parent or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
            try:
                for name in sorted(map(os.fsencode, os.listdir(fd))):
                    path = parent + b"/" + name if parent else name
                    found = _look(fd, name)
                    if found.kind == "socket" and not self.sockets:
                        continue
                    yield path, found
                    if found.kind == "directory":
                        waiting.append(path)
            finally:
                os.close(fd)

    def open(self, path: bytes) -> int:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)

    def groups(self) -> dict[bytes, frozenset[bytes]]:
        """Each name that shares its inode with others of the tree, with all names of that inode."""
        names: dict[tuple[int, int], set[bytes]] = {}
        for path, found in self.seen.items():
            if found.kind != "directory":
                names.setdefault(found.inode, set()).add(path)
        return {path: frozenset(held) for held in names.values() if len(held) > 1 for path in held}


def _look(directory: int, name: bytes) -> Seen:
    st = os.lstat(name, dir_fd=directory)
    near = b"/proc/self/fd/%d/%s" % (directory, name)
    try:
        names = os.listxattr(near, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        names = []
    xattrs = {key: os.getxattr(near, key, follow_symlinks=False) for key in names}
    target = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(st.st_mode) else None
    return Seen(st, target, xattrs)


def data_map(fd: int) -> list[tuple[int, int]]:
    """The (start, end) runs of a file that hold data; what lies between is holes."""
    runs: list[tuple[int, int]] = []
    at, size = 0, os.fstat(fd).st_size
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        at = os.lseek(fd, start, os.SEEK_HOLE)
        runs.append((start, at))
    return runs


def differences(a: str | bytes | Path, b: str | bytes | Path, *, holes: bool = True, sockets: bool = True) -> list[str]:
    """Every way in which tree `b` is not as tree `a`, one sentence each; an empty list means equal.

    `holes=False` leaves out where files are sparse, `sockets=False` leaves sockets out on both sides.
    """
    with Tree(a, sockets=sockets) as left, Tree(b, sockets=sockets) as right:
        return list(_differences(left, right, holes))


def _differences(left: Tree, right: Tree, holes: bool) -> Iterator[str]:
    compared: set[tuple[tuple[int, int], tuple[int, int]]] = set()
    for path in sorted(left.seen.keys() | right.seen.keys()):
        one, two = left.seen.get(path), right.seen.get(path)
        if one is None or two is None:
            there = one or two
            assert there is not None
            yield f"{shown(path)}: a {there.kind} that is only in the {'second' if one is None else 'first'} tree"
            continue
        pair = (one.inode, two.inode)
        if pair not in compared or one.kind == "directory":
            compared.add(pair)
            yield from _of_inode(path, one, two)
            if one.kind == two.kind == "file":
                yield from _of_content(path, left, right, holes)
    yield from _of_groups(left.groups(), right.groups())


def _of_inode(path: bytes, one: Seen, two: Seen) -> Iterator[str]:
    if one.kind != two.kind:
        yield f"{shown(path)}: a {one.kind} became a {two.kind}"
        return
    facts = [
        ("mode", oct(stat.S_IMODE(one.st.st_mode)), oct(stat.S_IMODE(two.st.st_mode))),
        ("owner", one.st.st_uid, two.st.st_uid),
        ("group", one.st.st_gid, two.st.st_gid),
        ("mtime", one.st.st_mtime_ns, two.st.st_mtime_ns),
        ("symlink target", one.target, two.target),
    ]
    if one.kind == "file":
        facts.append(("size", one.st.st_size, two.st.st_size))
    if one.kind.endswith("device"):
        facts.append(("device number", numbers(one.st.st_rdev), numbers(two.st.st_rdev)))
    for what, was, now in facts:
        if was != now:
            yield f"{shown(path)}: {what} {was} became {now}"
    for key in sorted(one.xattrs.keys() | two.xattrs.keys()):
        was_value, now_value = one.xattrs.get(key), two.xattrs.get(key)
        if was_value != now_value:
            yield f"{shown(path)}: xattr {key!r} {was_value!r} became {now_value!r}"


def _of_content(path: bytes, left: Tree, right: Tree, holes: bool) -> Iterator[str]:
    one, two = left.open(path), right.open(path)
    try:
        maps = data_map(one), data_map(two)
        at = _first_difference(one, two, union(*maps))
        if at is not None:
            yield f"{shown(path)}: content differs from byte {at} on"
        if holes and maps[0] != maps[1]:
            yield f"{shown(path)}: data at {short(maps[0])} became data at {short(maps[1])}"
    finally:
        os.close(one)
        os.close(two)


def _first_difference(one: int, two: int, runs: list[tuple[int, int]]) -> int | None:
    for start, end in runs:
        for at in range(start, end, PIECE):
            length = min(PIECE, end - at)
            was, now = os.pread(one, length, at), os.pread(two, length, at)
            if was != now:
                pairs = enumerate(zip(was, now, strict=False))
                return at + next((n for n, (x, y) in pairs if x != y), min(len(was), len(now)))
    return None


def union(*maps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where any of the maps has data; elsewhere all files are holes and read as zeros."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(run for runs in maps for run in runs):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _of_groups(one: dict[bytes, frozenset[bytes]], two: dict[bytes, frozenset[bytes]]) -> Iterator[str]:
    for path in sorted(one.keys() | two.keys()):
        was, now = one.get(path, frozenset([path])), two.get(path, frozenset([path]))
        if was != now:
            yield f"{shown(path)}: hard-linked with {names(was - {path})} became hard-linked with {names(now - {path})}"


def shown(path: bytes) -> str:
    """A path for people: nothing in it can confuse a terminal or hide."""
    return ascii(path.decode("utf-8", "backslashreplace")) if path else "the root directory"


def names(paths: frozenset[bytes]) -> str:
    return ", ".join(map(shown, sorted(paths)[:5])) or "nothing"


def numbers(rdev: int) -> str:
    return f"{os.major(rdev)}:{os.minor(rdev)}"


def short(runs: list[tuple[int, int]]) -> str:
    text = ", ".join(f"{start}-{end}" for start, end in runs[:6]) or "nowhere"
    return text + (f" and {len(runs) - 6} more runs" if len(runs) > 6 else "")
