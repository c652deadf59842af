"""Files found inside a cpio or tar archive, so that what the system has anyway is not carried again (pure)."""

from __future__ import annotations

from collections.abc import Iterator

CPIO_MAGICS = (b"070701", b"070702")
CPIO_HEAD = 110
TAR_BLOCK = 512
ARCHIVES_MAX = 64


def members(data: memoryview) -> Iterator[tuple[int, int]]:
    """The (offset, length) of each file's content in an archive, or in several cpio archives one behind the other."""
    if bytes(data[:6]) in CPIO_MAGICS:
        yield from _cpio(data)
    elif bytes(data[257:262]) == b"ustar":
        yield from _tar(data)


def _cpio(data: memoryview) -> Iterator[tuple[int, int]]:
    position = 0
    while position + CPIO_HEAD <= len(data):
        if bytes(data[position : position + 6]) not in CPIO_MAGICS:
            # Archives are padded with zeros between each other.
            if data[position] or position % 4:
                return
            position += 4
            continue
        try:
            size, name = (int(bytes(data[position + at : position + at + 8]), 16) for at in (54, 94))
        except ValueError:
            return
        start = -(-(position + CPIO_HEAD + name) // 4) * 4
        if start + size > len(data):
            return
        if size:
            yield start, size
        position = -(-(start + size) // 4) * 4


def _tar(data: memoryview) -> Iterator[tuple[int, int]]:
    position = 0
    while position + TAR_BLOCK <= len(data):
        try:
            size = int(bytes(data[position + 124 : position + 136]).strip(b" \0") or b"0", 8)
        except ValueError:
            return
        start = position + TAR_BLOCK
        if start + size > len(data):
            return
        if size:
            yield start, size
        position = start + -(-size // TAR_BLOCK) * TAR_BLOCK
