"""One content against another: the covers that they have in common, found when an image is made (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from tbdiff.compression import zstd
from tbdiff.recipe import Cover

BLOCK = 4096
# A run of equal bytes this long is worth a cover of its own: its blocks may then stay shared on the disk.
EXACT_RUN = 2 * BLOCK
# Matching takes some nine times the size of the base in memory, so larger contents are matched piece by piece.
SEGMENT = 16 << 20
AROUND = 4 << 20
FEW = 0.02
# So much is subtracted in one go.
STEP = 1 << 18

_ZEROS = re.compile(rb"\0{%d,}" % EXACT_RUN)


def find_covers(old: memoryview, new: memoryview) -> list[Cover]:
    """The covers of `new` by `old`, in the order of `new`."""
    in_place = list(same_blocks(old, new))
    if len(new) - sum(cover.length for cover in in_place) <= max(len(new) * FEW, BLOCK * 4):
        return list(_fill(in_place, old, new))
    found: list[Cover] = []
    for start in range(0, len(new), SEGMENT):
        end = min(start + SEGMENT, len(new))
        # In a large file a piece is looked for around where it was.
        low = max(0, start - AROUND) if len(old) > SEGMENT + 2 * AROUND else 0
        high = min(len(old), end + AROUND) if len(old) > SEGMENT + 2 * AROUND else len(old)
        for cover in _matches(bytes(old[low:high]), bytes(new[start:end])):
            moved = Cover(cover.new + start, cover.old + low, cover.length, cover.exact)
            found.extend(_split(moved, old, new))
    return found


def _fill(covers: list[Cover], old: memoryview, new: memoryview) -> Iterator[Cover]:
    """What is between blocks that did not move has probably not moved either."""
    end = 0
    limit = min(len(old), len(new))
    for cover in covers:
        if cover.new > end:
            yield Cover(end, end, cover.new - end, False)
        yield cover
        end = cover.new + cover.length
    if limit > end:
        yield Cover(end, end, limit - end, old[end:limit] == new[end:limit])


def same_blocks(old: memoryview, new: memoryview) -> Iterator[Cover]:
    """The blocks that are equal and did not move, as runs."""
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


def _split(cover: Cover, old: memoryview, new: memoryview) -> Iterator[Cover]:
    """One cover as it was matched, as covers that are exact or not."""
    before, after = old[cover.old : cover.old + cover.length], new[cover.new : cover.new + cover.length]
    if before == after:
        yield cover._replace(exact=True)
        return
    difference = differences_of(
        [Cover(0, 0, cover.length, False)], lambda start, size: bytes(before[start : start + size]), after
    )
    end = 0
    for run in _ZEROS.finditer(difference):
        if run.start() > end:
            yield Cover(cover.new + end, cover.old + end, run.start() - end, False)
        yield Cover(cover.new + run.start(), cover.old + run.start(), run.end() - run.start(), True)
        end = run.end()
    if cover.length > end:
        yield Cover(cover.new + end, cover.old + end, cover.length - end, False)


def _matches(old: bytes, new: bytes) -> list[Cover]:
    """The covers that HDiffPatch finds, read from a diff in its HDIFF13 form; none of them is known to be exact."""
    if not old or not new:
        return []
    import hdiffpatch  # noqa: PLC0415 - only whoever makes images needs it

    diff = hdiffpatch.diff(old, new, validate=False, big_cache_match=True)
    position = diff.index(b"\0") + 1
    sizes = []
    for _ in range(11):
        value, position = _packed(diff, position, 0)
        sizes.append(value)
    covers = []
    new_end = old_end = 0
    for _ in range(sizes[2]):
        backwards = diff[position] >> 7
        step, position = _packed(diff, position, 1)
        gap, position = _packed(diff, position, 0)
        length, position = _packed(diff, position, 0)
        start = old_end - step if backwards else old_end + step
        covers.append(Cover(new_end + gap, start, length, False))
        new_end += gap + length
        old_end = start + length
    return [cover for cover in covers if cover.length]


def _packed(data: bytes, position: int, tag_bits: int) -> tuple[int, int]:
    """A number as HDiffPatch packs it, highest bits first, behind `tag_bits` bits of something else."""
    more = 0x80 >> tag_bits
    byte = data[position]
    value = byte & (more - 1)
    position += 1
    while byte & more:
        more = 0x80
        byte = data[position]
        value = value << 7 | byte & 0x7F
        position += 1
    return value, position


def worthwhile(covers: list[Cover], differences: bytearray, new: memoryview) -> bool:
    """Whether the new content is stored in fewer bytes by its covers than whole, by a quick estimate."""
    if not covers:
        return False
    ends = [0, *(cover.new + cover.length for cover in covers)]
    starts = [*(cover.new for cover in covers), len(new)]
    literal = (new[end:start] for end, start in zip(ends, starts, strict=True))
    return _packed_size(literal) + _packed_size([differences]) + 3 * len(covers) < _packed_size([new])


def _packed_size(pieces: Iterable[memoryview | bytearray]) -> int:
    """About how many bytes these take in an image."""
    packer = zstd.ZstdCompressor(1)
    return sum(len(packer.compress(piece)) for piece in pieces) + len(packer.flush())


def differences_of(covers: Iterable[Cover], read: Callable[[int, int], bytes], new: memoryview) -> bytearray:
    """What must be added to the bytes that `read` gives, of all covers that are not exact."""
    found = bytearray()
    for cover in covers:
        if not cover.exact:
            for done in range(0, cover.length, STEP):
                size = min(STEP, cover.length - done)
                start = cover.new + done
                found += subtract_bytes(bytes(new[start : start + size]), read(cover.old + done, size))
    return found


def add_bytes(old: bytes, difference: bytes) -> bytes:
    """Each byte of `old` plus that of `difference`, modulo 256."""
    size = len(old)
    b = int.from_bytes(difference, "little")
    if not b:
        return old
    a = int.from_bytes(old, "little")
    # Add the low seven bits of every byte at once; the top bits cannot carry into a neighbour.
    low, top = _masks(size)
    return (((a & low) + (b & low)) ^ ((a ^ b) & top)).to_bytes(size, "little")


@lru_cache(maxsize=8)  # most runs are as long as one piece, or very short
def _masks(size: int) -> tuple[int, int]:
    """Numbers of `size` bytes: the low seven bits of each byte, and the top bit of each."""
    return int.from_bytes(b"\x7f" * size, "little"), int.from_bytes(b"\x80" * size, "little")


def subtract_bytes(new: bytes, old: bytes) -> bytes:
    """What `add_bytes` must add to each byte of `old` to make `new`."""
    size = len(new)
    low, top = _masks(size)
    a, b = int.from_bytes(new, "little"), int.from_bytes(old, "little")
    return (((a | top) - (b & low)) ^ ((a ^ ~b) & top)).to_bytes(size, "little")
