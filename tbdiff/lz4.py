"""LZ4's legacy frame, which kernels are packed in, by the system's liblz4."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Iterator

from tbdiff.errors import Rejected

MAGIC = bytes.fromhex("02214c18")
BLOCK = 8 << 20
STEP = 1 << 18
PACKED_MAX = BLOCK + BLOCK // 255 + 16


class Lz4Error(Exception):
    """What is no such frame."""


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, if the system has it."""
    try:
        library = ctypes.CDLL("liblz4.so.1")
    except OSError:
        return None
    size = ctypes.c_int
    library.LZ4_decompress_safe.argtypes = (ctypes.c_char_p, ctypes.c_void_p, size, size)
    library.LZ4_compress_HC.argtypes = (ctypes.c_void_p, ctypes.c_void_p, size, size, size)
    library.LZ4_compress_fast.argtypes = (ctypes.c_void_p, ctypes.c_void_p, size, size, size)
    return library


class Lz4Encoder:
    """Blocks of 8 MiB, each compressed alone behind its size; below level 3 by the fast method."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._held = bytearray()
        self._begun = False

    def compress(self, data: bytes, /) -> bytes:
        """Give every block that is full."""
        parts = []
        view = memoryview(data)
        while view:
            room = BLOCK - len(self._held)
            self._held += view[:room]
            view = view[room:]
            if len(self._held) == BLOCK:
                parts.append(self._block())
        return b"".join(parts)

    def flush(self) -> bytes:
        """Give the last, shorter block."""
        return self._block() if self._held else b""

    def _block(self) -> bytes:
        library = load()
        if library is None:
            raise AssertionError("no encoder is made without its library")
        length = len(self._held)
        out = ctypes.create_string_buffer(length + length // 255 + 16)
        data = (ctypes.c_char * length).from_buffer(self._held)
        if self._level < 3:
            size = library.LZ4_compress_fast(data, out, length, len(out), 1)
        else:
            size = library.LZ4_compress_HC(data, out, length, len(out), self._level)
        head = b"" if self._begun else MAGIC
        self._begun = True
        self._held = bytearray()
        return b"".join((head, struct.pack("<I", size), memoryview(out)[:size]))


def decoded(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress blocks, and give them in pieces; Lz4Error where that cannot be done."""
    library = load()
    if library is None:
        raise Rejected("the image unpacks a file with liblz4, which is not here; nothing was changed")
    held = bytearray()
    out = ctypes.create_string_buffer(BLOCK)

    def take(size: int) -> bytes:
        while len(held) < size and (part := next(parts, None)) is not None:
            held.extend(part)
        data = bytes(memoryview(held)[:size])
        del held[:size]
        return data

    if take(4) != MAGIC:
        raise Lz4Error
    while head := take(4):
        (packed,) = struct.unpack("<I", head.ljust(4, b"\0"))
        block = take(min(packed, PACKED_MAX))
        size = library.LZ4_decompress_safe(block, out, len(block), BLOCK) if len(block) == packed else 0
        if size <= 0:
            raise Lz4Error
        view = memoryview(out)[:size]
        for start in range(0, size, STEP):
            yield bytes(view[start : start + STEP])
