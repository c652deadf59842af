"""A listing kept in a file, so that a tree that does not change need not be read again."""

from __future__ import annotations

import os
from pathlib import Path

from tbdiff import wire
from tbdiff.compare import compare
from tbdiff.compression import zstd
from tbdiff.entry import EMPTY, Listing
from tbdiff.errors import Failed, Rejected
from tbdiff.rebuild import rebuild

MAGIC = b"\x89tblist\n"
SIZE_MAX = 1 << 30


def store(listing: Listing, path: Path) -> None:
    """Write the listing to `path`, all of it or nothing, and wait until it is on disk."""
    data = MAGIC + listing.digest + zstd.compress(wire.encode(compare(EMPTY, listing)), 3)
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    temporary.rename(path)


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
        decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})
        listing = rebuild(EMPTY, wire.decode(decoder.decompress(data[head:], SIZE_MAX))).target
    except (zstd.ZstdError, Rejected):
        raise Failed(f"the listing {path} is damaged") from None
    if listing.digest != data[len(MAGIC) : head]:
        raise Failed(f"the listing {path} is damaged")
    return listing
