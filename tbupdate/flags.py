"""Flags of files (`lsattr`): no part of a tree that an image or a listing carries, but of a root and its snapshots."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tbdiff.descent import FILE, Descent
from tbdiff.entry import Kind, Listing

# linux/fs.h
_GET_FLAGS = 2 << 30 | 8 << 16 | ord("f") << 8 | 1
_SET_FLAGS = 1 << 30 | 8 << 16 | ord("f") << 8 | 2
# What keeps a file from being changed (`chattr +i`), but for what is appended to it (`+a`).
LOCKED = 0x10 | 0x20
# What new files in a directory inherit: no copy on write, compression or none.
INHERITED = 0x800000 | 0x4 | 0x400


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A file or directory of a snapshot, open."""
    fd = os.open(path, FILE)
    try:
        yield fd
    finally:
        os.close(fd)


def flags_of(fd: int) -> int:
    """The flags of what is open."""
    return int(struct.unpack("i", fcntl.ioctl(fd, _GET_FLAGS, bytes(4)))[0])


def set_flags(fd: int, flags: int) -> None:
    """Give what is open these flags."""
    if flags_of(fd) != flags:
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("i", flags))


def unlock(fd: int) -> int:
    """Take the locks off what is open; what flags there were, or 0 where there was none of them."""
    flags = flags_of(fd)
    if not flags & LOCKED:
        return 0
    set_flags(fd, flags & ~LOCKED)
    return flags


@contextmanager
def unlocked(path: str) -> Iterator[None]:
    """A file of a snapshot, if it is there, can be changed in the block; afterwards it has its locks again."""
    if not os.path.isfile(path):
        yield
        return
    with opened(path) as fd:
        flags = unlock(fd)
        try:
            yield
        finally:
            if flags:
                set_flags(fd, flags)


def unlock_tree(path: str, listing: Listing) -> None:
    """Take the locks off all that is in a tree, so that an image can change it."""
    with Descent(Path(path)) as tree:
        for entry in listing:
            if entry.kind is Kind.DIRECTORY:
                unlock(tree.open(entry.path))
            elif entry.kind is Kind.FILE:
                with tree.file(entry.path) as fd:
                    unlock(fd)
