"""Compressed parts found in a file, and the compressor that makes each of them again, bit by bit (pure)."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tbdiff import lz4
from tbdiff.compression import zstd
from tbdiff.encoders import DECODER_MEMORY, DEFLATE, LZ4, XZ, ZSTD, Factory, decoded
from tbdiff.errors import Rejected
from tbdiff.recipe import Member

# Below this a packed part is not worth the trouble.
SMALLEST = 64
# Above this the work of finding out is out of proportion.
LARGEST = 256 << 20
STEP = 1 << 17
ZSTD_MAGIC = bytes.fromhex("28b52ffd")
XZ_MAGIC = b"\xfd7zXZ\0"
GZIP_MAGIC = b"\x1f\x8b\x08"
ZIP_MAGIC = b"PK\x03\x04"
_MAGICS = re.compile(b"|".join(map(re.escape, (lz4.MAGIC, ZSTD_MAGIC, XZ_MAGIC, GZIP_MAGIC))))


@dataclass(frozen=True, slots=True)
class Part:
    """A packed part of a file: where it is, what it holds, and what its own bytes tell about who made it."""

    start: int
    end: int
    codec: int
    content: bytes | bytearray
    hint: int = 0


def find_parts(data: memoryview) -> list[Part]:
    """The packed parts of a file that can be unpacked, in order."""
    if not SMALLEST < len(data) <= LARGEST:
        return []
    parts = _zip_parts(data) if data[:4] == ZIP_MAGIC else _magic_parts(data)
    return [part for part in parts if len(part.content) > part.end - part.start >= SMALLEST]


def unpacked(data: memoryview, parts: Sequence[Part]) -> tuple[memoryview, tuple[Member, ...]]:
    """The file with these parts unpacked, and how a base file is unpacked so."""
    pieces: list[bytes | bytearray | memoryview] = []
    members = []
    end = 0
    for part in parts:
        pieces += (data[end : part.start], part.content)
        members.append(Member(part.start - end, part.codec, part.end - part.start, len(part.content)))
        end = part.end
    pieces.append(data[end:])
    pieces = [piece for piece in pieces if piece]
    return memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces)), tuple(members)


def _magic_parts(data: memoryview) -> Iterator[Part]:
    """Parts that begin with a magic: at the start of the file, or anywhere in what may be a kernel or an initrd."""
    head = bytes(data[:8])
    anywhere = head[:2] == b"MZ" or head[:6] in (b"070701", b"070702")
    position = 0
    while position < len(data):
        found = _MAGICS.search(data, position) if anywhere or position else _MAGICS.match(data)
        if not found or (position and not anywhere and found.start() != position):
            return
        part = _part_at(data, found.start())
        if part is None:
            if not anywhere:
                return
            position = found.start() + 1
        else:
            yield part
            # Behind a gzip member's own trailer there may be another one.
            position = part.end + (8 if part.codec == DEFLATE else 0)


def _part_at(data: memoryview, start: int) -> Part | None:
    magic = bytes(data[start : start + 6])
    try:
        if magic.startswith(GZIP_MAGIC):
            return _gzip_part(data, start)
        if magic.startswith(lz4.MAGIC):
            return _lz4_part(data, start)
        if magic.startswith(ZSTD_MAGIC):
            return _zstd_part(data, start)
        return _xz_part(data, start)
    except (Rejected, zlib.error, zstd.ZstdError, struct.error, ValueError):
        return None


def _gzip_part(data: memoryview, start: int) -> Part | None:
    flags, hint = data[start + 3], data[start + 8]
    position = start + 10
    if flags & 4:
        position += 2 + struct.unpack_from("<H", data, position)[0]
    for flag in (8, 16):
        if flags & flag:
            position = bytes(data[position : position + 4096]).index(b"\0") + position + 1
    if flags & 2:
        position += 2
    return _deflate_part(data, position, hint)


def _deflate_part(data: memoryview, start: int, hint: int) -> Part | None:
    decoder = zlib.decompressobj(-15)
    content = decoder.decompress(data[start:], LARGEST)
    if not decoder.eof:
        return None
    return Part(start, len(data) - len(decoder.unused_data), DEFLATE, content, hint)


def _lz4_part(data: memoryview, start: int) -> Part | None:
    """Blocks as long as they make sense; the last one that does ends the part."""
    position = start + 4
    content = bytearray()
    while position + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, position)
        end = position + 4 + size
        if not 0 < size <= lz4.PACKED_MAX or end > len(data):
            break
        try:
            block = b"".join(decoded(LZ4, iter((lz4.MAGIC, bytes(data[position:end])))))
        except Rejected:
            break
        content += block
        position = end
        if len(block) < 8 << 20:
            break
    return Part(start, position, LZ4, content) if content else None


def _zstd_part(data: memoryview, start: int) -> Part | None:
    size = zstd.get_frame_size(data[start:])
    content = bytearray()
    for piece in decoded(ZSTD, iter((bytes(data[start : start + size]),))):
        content += piece
    return Part(start, start + size, ZSTD, content, data[start + 4])


def _xz_part(data: memoryview, start: int) -> Part | None:
    import lzma  # noqa: PLC0415

    # What a device would not unpack for want of memory is of no use.
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=DECODER_MEMORY)
    try:
        content = decoder.decompress(bytes(data[start:]), LARGEST)
    except lzma.LZMAError:
        return None
    if not decoder.eof:
        return None
    return Part(start, len(data) - len(decoder.unused_data), XZ, content, data[start + 7])


def _zip_parts(data: memoryview) -> Iterator[Part]:
    """The deflated members of a zip, jar or wheel whose local headers tell their sizes."""
    position = 0
    while data[position : position + 4] == ZIP_MAGIC and position + 30 <= len(data):
        flags, method = struct.unpack_from("<HH", data, position + 6)
        packed, _, name, extra = struct.unpack_from("<IIHH", data, position + 18)
        start = position + 30 + name + extra
        if method == 8:
            try:
                part = _deflate_part(data, start, 2 if flags & 6 == 2 else 0)
            except zlib.error:
                return
            if part is None:
                return
            yield part
            packed = part.end - start
        elif flags & 8:
            return
        position = start + packed
        if flags & 8:
            position += 16 if bytes(data[position : position + 4]) == b"PK\x07\x08" else 12


# --- made again


def candidates(part: Part) -> Iterator[str]:
    """The names of compressors that may have made a part, the likeliest first."""
    if part.codec == DEFLATE:
        for level in {2: (9, 8), 4: (1, 2)}.get(part.hint, (6, 9, 5, 4, 7, 3)):
            yield from (f"deflate:{level}:8", f"gzip:{level}")
        yield from (f"deflate:{level}:9" for level in (9, 6))
    elif part.codec == LZ4:
        yield from (f"lz4:{level}" for level in (9, 12, 1, 10, 11, 8, 7, 6, 5, 4, 3))
    elif part.codec == ZSTD:
        sized = int(bool(part.hint >> 6) or bool(part.hint & 0x20))
        checksum = part.hint >> 2 & 1
        levels = (9, 3, 1, 6, 12, 15, 19) if len(part.content) <= 96 << 20 else (9, 3, 1)
        yield from (f"zstd:{level}:{workers}:{checksum}:{sized}" for level in levels for workers in (1, 0))
    else:
        yield from (f"xz:{preset}:{extreme}:{part.hint & 15}" for preset in (6, 3, 1, 4) for extreme in (0, 1))


def makes(factory: Factory, part: Part, data: memoryview) -> bool:
    """Whether a compressor makes exactly this part of what it holds; it stops at the first byte that differs."""
    encoder = factory(len(part.content))
    wanted = data[part.start : part.end]
    position = 0
    view = memoryview(part.content)
    for start in range(0, len(view), STEP):
        made = encoder.compress(bytes(view[start : start + STEP]))
        if made != wanted[position : position + len(made)]:
            return False
        position += len(made)
    made = encoder.flush()
    return made == wanted[position:]


def maker(part: Part, data: memoryview, available: Callable[[str], dict[str, Factory]]) -> str | None:
    """The name and fingerprint, as NAME=FINGERPRINT, of a compressor that makes a part again, if one here does."""
    for name in candidates(part):
        for mark, factory in available(name).items():
            if makes(factory, part, data):
                return f"{name}={mark}"
    return None
