"""Listings: entries in their order, their digest, and how they are read from a tree."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

DIRECTORY, FILE, HARD, SYMLINK, FIFO, CHAR, BLOCK = range(1, 8)
ALLOWED = {DIRECTORY: 31, FILE: 127, HARD: 32, SYMLINK: 62, FIFO: 31, CHAR: 63, BLOCK: 63}
TYPES = {stat.S_IFDIR: 1, stat.S_IFREG: 2, stat.S_IFLNK: 4, stat.S_IFIFO: 5, stat.S_IFCHR: 6, stat.S_IFBLK: 7}


@dataclasses.dataclass(frozen=True)
class Entry:
    path: bytes
    kind: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    time: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    size: int = 0
    digest: bytes = b""
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    extents: tuple[tuple[int, int], ...] | None = None


def order(entry: Entry) -> list[tuple[int, bytes]]:
    *above, name = entry.path.split(b"/")
    ends = (int(entry.kind == DIRECTORY), name)
    return [(1, part) for part in above] + [ends] if entry.path else []


def tree_digest(listing: list[Entry]) -> str:
    found = hashlib.sha256(b"tbdiff-listing-1\n")
    for e in listing:
        found.update(struct.pack("<BHHIIqI", e.kind, len(e.path), e.mode, e.uid, e.gid, *e.time) + e.path)
        if e.kind == FILE:
            found.update(struct.pack("<Q", e.size) + e.digest)
        elif e.kind in (SYMLINK, HARD):
            found.update(struct.pack("<H", len(e.link)) + e.link)
        elif e.kind in (CHAR, BLOCK):
            found.update(struct.pack("<II", *e.device))
        found.update(struct.pack("<I", len(e.xattrs)))
        for name, value in e.xattrs:
            found.update(struct.pack("<HI", len(name), len(value)) + name + value)
    return found.hexdigest()


def read_tree(root: Path) -> list[Entry]:
    """The listing of a tree on disk; where holes are is not looked for."""
    found: list[Entry] = []
    inodes: dict[int, list[int]] = {}
    for path in walk(os.fsencode(root), b""):
        full = os.path.join(os.fsencode(root), path) if path else os.fsencode(root)
        status = os.lstat(full)
        if stat.S_ISSOCK(status.st_mode):
            continue
        kind = TYPES[stat.S_IFMT(status.st_mode)]
        names = sorted(map(os.fsencode, os.listxattr(full, follow_symlinks=False)))
        content = Path(os.fsdecode(full)).read_bytes() if kind == FILE else b""
        found.append(Entry(
            path, kind, 0 if kind == SYMLINK else stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid,
            divmod(status.st_mtime_ns, 10**9), tuple((n, os.getxattr(full, n, follow_symlinks=False)) for n in names),
            len(content), hashlib.sha256(content).digest() if kind == FILE else b"",
            os.readlink(full) if kind == SYMLINK else b"",
            (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in (CHAR, BLOCK) else (0, 0),
        ))  # fmt: skip
        if kind != DIRECTORY and status.st_nlink > 1:
            inodes.setdefault(status.st_ino, []).append(len(found) - 1)
    for numbers in inodes.values():
        first, *others = sorted(numbers, key=lambda n: order(found[n]))
        for n in others:
            found[n] = Entry(found[n].path, HARD, link=found[first].path)
    return sorted(found, key=order)


def walk(root: bytes, path: bytes) -> Iterator[bytes]:
    yield path
    full = os.path.join(root, path) if path else root
    if not os.path.islink(full) and os.path.isdir(full):
        for name in os.listdir(full):
            yield from walk(root, os.path.join(path, name))
