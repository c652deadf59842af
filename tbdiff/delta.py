"""One content against another: the covers that they have in common, found when an image is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 4096


class Cover(NamedTuple):
    """A run of the new content that the base has too, exactly or nearly (then the byte differences are stored)."""

    new: int
    old: int
    length: int
    exact: bool


def same_blocks(old: memoryview, new: memoryview) -> Iterator[Cover]:
    """The blocks that are equal and did not move, as runs: a file changed in few places keeps its extents."""
    start: int | None = None
    end = min(len(old), len(new)) // BLOCK * BLOCK
    step = BLOCK * 64
    for big in range(0, end, step):
        limit = min(big + step, end)
        if old[big:limit] == new[big:limit]:
            start = big if start is None else start
            continue
        for block in range(big, limit, BLOCK):
            if old[block : block + BLOCK] == new[block : block + BLOCK]:
                start = block if start is None else start
            elif start is not None:
                yield Cover(start, start, block - start, True)
                start = None
    if start is not None:
        yield Cover(start, start, end - start, True)


def add_bytes(old: bytes, difference: bytes) -> bytes:
    """Each byte of `old` plus that of `difference`, modulo 256."""
    size = len(old)
    low = int.from_bytes(b"\x7f" * size, "little")
    a, b = int.from_bytes(old, "little"), int.from_bytes(difference, "little")
    if not b:
        return old
    # Add the low seven bits of every byte at once; the top bits cannot carry into a neighbour.
    return (((a & low) + (b & low)) ^ ((a ^ b) & ~low)).to_bytes(size, "little")


def subtract_bytes(new: bytes, old: bytes) -> bytes:
    """What `add_bytes` must add to each byte of `old` to make `new`."""
    size = len(new)
    high = int.from_bytes(b"\x80" * size, "little")
    a, b = int.from_bytes(new, "little"), int.from_bytes(old, "little")
    return (((a | high) - (b & ~high)) ^ ((a ^ ~b) & high)).to_bytes(size, "little")
