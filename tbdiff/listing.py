"""A listing kept in a file, so that a tree that does not change need not be read again."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from tbdiff.compression import zstd
from tbdiff.entry import HEAD, LISTING_MAGIC, Entry, Kind, Listing, serialise
from tbdiff.errors import Failed
from tbdiff.output import replacing

MAGIC = b"\x89tblist\n"
SIZE_MAX = 1 << 30


def store(listing: Listing, path: Path) -> None:
    """Write the listing to `path`, all of it or nothing, and wait until it is on disk.

    The file is MAGIC, the tree digest, and zstd over what the digest is made of, each entry followed by its extents.
    """
    body = b"".join(serialise(entry) + _extents(entry) for entry in listing)
    with replacing(path) as out:
        out.write(MAGIC + listing.digest + zstd.compress(LISTING_MAGIC + body, 3))


def _extents(entry: Entry) -> bytes:
    if entry.extents is None:
        return struct.pack("<i", -1)
    return struct.pack("<i", len(entry.extents)) + b"".join(struct.pack("<QQ", *extent) for extent in entry.extents)


def load(path: Path) -> Listing:
    """Read a listing that `store` wrote; Failed where it is damaged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Failed(f"the listing {path} cannot be read: {error.strerror}") from None
    head = len(MAGIC) + 32
    if not data.startswith(MAGIC) or len(data) < head:
        raise Failed(f"{path} is not a listing")
    try:
        body = zstd.ZstdDecompressor().decompress(data[head:], SIZE_MAX)
        listing = Listing(_entries(body, len(LISTING_MAGIC)))
    except (zstd.ZstdError, struct.error, ValueError):
        raise Failed(f"the listing {path} is damaged") from None
    if listing.digest != data[len(MAGIC) : head]:
        raise Failed(f"the listing {path} is damaged")
    return listing


def _entries(data: bytes, position: int) -> Iterator[Entry]:
    """The entries one by one: what `serialise` made of them, and their extents."""

    def take(layout: str) -> tuple[int, ...]:
        nonlocal position
        found = struct.unpack_from(layout, data, position)
        position += struct.calcsize(layout)
        return found

    def take_bytes(size: int) -> bytes:
        nonlocal position
        position += size
        return data[position - size : position]

    while position < len(data):
        kind, path_size, mode, uid, gid, seconds, nanoseconds = HEAD.unpack_from(data, position)
        position += HEAD.size
        path, size, digest, link, rdev = take_bytes(path_size), 0, b"", b"", (0, 0)
        if kind == Kind.FILE:
            (size,) = take("<Q")
            digest = take_bytes(32)
        elif kind in (Kind.SYMLINK, Kind.HARDLINK):
            link = take_bytes(*take("<H"))
        elif kind in (Kind.CHAR, Kind.BLOCK):
            major, minor = take("<II")
            rdev = (major, minor)
        xattrs = []
        for _ in range(*take("<I")):
            name_size, value_size = take("<HI")
            xattrs.append((take_bytes(name_size), take_bytes(value_size)))
        (count,) = take("<i")
        extents = None if count < 0 else tuple((first, length) for first, length in (take("<QQ") for _ in range(count)))
        mtime = seconds * 1_000_000_000 + nanoseconds
        yield Entry(path, Kind(kind), mode, uid, gid, mtime, size, digest, link, rdev, tuple(xattrs), extents)
