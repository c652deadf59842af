"""One header block of a tar archive: its fields as they stand there, strictly checked (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tbdiff.errors import Malformed, Rejected

BLOCK = 512
SIZE_MAX = 2**63 - 1
# Linux has 12 and 20 bits for the two numbers of a device; mknod would cut larger ones silently.
MAJOR_MAX, MINOR_MAX = 2**12 - 1, 2**20 - 1

_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_CHECKSUM = slice(148, 156)
# Offset and number of the (offset, length) pairs in a sparse header of GNU tar, and in the blocks that extend it.
_PAIR = 24
_IN_HEADER, _IN_EXTENSION = (386, 4), (0, 21)


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of one header. `flag` is its type flag, `gnu` whether it is of GNU tar's own form."""

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    flag: bytes
    link: bytes
    gnu: bool
    rdev: tuple[int, int] | None
    block: bytes


def is_header(block: bytes) -> bool:
    """Whether a tar archive begins with this block."""
    return len(block) >= BLOCK and any(block[:BLOCK]) and _checksum_holds(block[:BLOCK])


def parse(block: bytes) -> Header:
    """Read one header block; Rejected if it is none or of a form that is not known."""
    if not _checksum_holds(block):
        raise Malformed("the tarball is damaged, or is no tarball: a header's checksum is wrong")
    magic, flag = block[257:265], block[156:157]
    gnu = magic == b"ustar  \0"
    ustar = magic[:6] == b"ustar\0"
    if magic[:5] == b"ustar" and not (gnu or ustar):
        raise Rejected("the tarball is of a form that tbdiff does not know", "Pack it with GNU tar or bsdtar.")
    name, prefix = _text(block[:100]), _text(block[345:500])
    return Header(
        name=prefix + b"/" + name if ustar and prefix else name,
        mode=number(block[100:108]),
        uid=number(block[108:116]),
        gid=number(block[116:124]),
        size=number(block[124:136]),
        mtime=number(block[136:148]),
        flag=flag,
        link=_text(block[157:257]),
        gnu=gnu,
        rdev=_device(block) if (gnu or ustar) and flag in (b"3", b"4") else None,
        block=block,
    )


def _checksum_holds(block: bytes) -> bool:
    stated = _OCTAL.fullmatch(block[_CHECKSUM])
    if stated is None or not stated[1]:
        return False
    return int(stated[1], 8) == sum(block) - sum(block[_CHECKSUM]) + 8 * 0x20


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _device(block: bytes) -> tuple[int, int]:
    return number(block[329:337]), number(block[337:345])


def number(field: bytes) -> int:
    """A number in octal digits, or in base 256 where the first bit is set; it may be negative then."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << 8 * len(field) - 1) - 1)
        return value - (1 << 8 * len(field) - 1) if field[0] & 0x40 else value
    digits = _OCTAL.fullmatch(field)
    if digits is None:
        raise Malformed("the tarball has a header with a number that is none")
    return int(digits[1] or b"0", 8)


def within(value: int, limit: int, what: str) -> int:
    """`value`, which must be in 0..`limit`."""
    if not 0 <= value <= limit:
        raise Malformed(f"the tarball says that {what} is {value}, and it can only be from 0 to {limit}")
    return value


# --- sparse files of GNU tar's old form


def sparse_pairs(header: Header) -> list[tuple[int, int]]:
    """The parts that the header itself names."""
    return _pairs(header.block, *_IN_HEADER)


def sparse_size(header: Header) -> int:
    """The file's size with its holes."""
    return number(header.block[483:495])


def goes_on(header: Header) -> bool:
    """Whether more parts follow in another block."""
    return header.block[482] != 0


def more_sparse_pairs(block: bytes) -> tuple[list[tuple[int, int]], bool]:
    """The parts that a further block names, and whether yet another one follows."""
    return _pairs(block, *_IN_EXTENSION), block[504] != 0


def _pairs(block: bytes, start: int, count: int) -> list[tuple[int, int]]:
    found = []
    for at in range(start, start + count * _PAIR, _PAIR):
        if not block[at] and not block[at + 12]:
            break
        found.append((number(block[at : at + 12]), number(block[at + 12 : at + 24])))
    return found
