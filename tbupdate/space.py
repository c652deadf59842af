"""Free space on Btrfs, for data and for metadata, and other facts that only the file system itself knows."""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass

# ioctl numbers of <linux/btrfs.h>
_SPACE_INFO = 0xC0109414
_DEV_INFO = 0xD000941E
_FS_INFO = 0x8400941F

_METADATA = 1 << 2
_GLOBAL_RESERVE = 1 << 49
_TWO_COPIES = (1 << 4) | (1 << 5) | (1 << 6)


@dataclass(frozen=True)
class Space:
    """Bytes that can still be written: `data` as statvfs says it, `metadata` with what is not yet allocated."""

    data: int = 0
    metadata: int = 0
    total: int = 0


@dataclass(frozen=True)
class FileSystem:
    """A Btrfs file system: its id, and how many bytes of its devices are given to no purpose yet."""

    fsid: bytes
    unallocated: int
    device: str


def identify(path: str) -> FileSystem | None:
    """The Btrfs that `path` lies on; None on any other file system."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = bytearray(1024)
        try:
            fcntl.ioctl(descriptor, _FS_INFO, raw)
        except OSError:
            return None
        max_id, count = struct.unpack_from("<QQ", raw)
        unallocated, first, seen = 0, "", 0
        for device in range(1, max_id + 1):
            if seen == count:
                break
            facts = bytearray(struct.pack("<Q", device).ljust(4096, b"\0"))
            try:
                fcntl.ioctl(descriptor, _DEV_INFO, facts)
            except OSError:  # devices that were removed leave gaps in the numbers
                continue
            seen += 1
            used, total = struct.unpack_from("<QQ", facts, 24)
            unallocated += max(0, total - used)
            first = first or os.fsdecode(bytes(facts[3072:]).split(b"\0", 1)[0])
        return FileSystem(bytes(raw[16:32]), unallocated, first)
    finally:
        os.close(descriptor)


def measure(path: str) -> Space:
    """The free space of the Btrfs at `path`."""
    known = identify(path)
    state = os.statvfs(path)
    data, total = state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize
    if known is None:
        return Space(data, data, total)
    free, copies = 0, 1
    for flags, size, used in _spaces(path):
        if flags & _GLOBAL_RESERVE:
            # It is taken out of metadata, for deletions and the like when all else is full.
            free -= size
        elif flags & _METADATA:
            free += size - used
            copies = 2 if flags & _TWO_COPIES else 1
    return Space(data, max(0, free) + known.unallocated // copies, total)


def _spaces(path: str) -> list[tuple[int, int, int]]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = bytearray(16 + 24 * 64)
        struct.pack_into("<QQ", raw, 0, 64, 0)
        fcntl.ioctl(descriptor, _SPACE_INFO, raw)
        (count,) = struct.unpack_from("<Q", raw, 8)
        return [struct.unpack_from("<QQQ", raw, 16 + 24 * n) for n in range(min(count, 64))]
    finally:
        os.close(descriptor)


def dashed(fsid: bytes) -> str:
    """The id of a file system as tools and command lines write it."""
    digits = fsid.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
