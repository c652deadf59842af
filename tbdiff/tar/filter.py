"""What a tarball is packed in, told by its first bytes; unpacked in bounded memory, to its very end."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Protocol

from tbdiff.errors import Malformed, Rejected
from tbdiff.payload import Readable
from tbdiff.tar.header import BLOCK, is_header

STEP = 1 << 17
# What `zstd --long` and `zstd --ultra -22` need; the decoder holds as much as the window of what it reads.
ZSTD_WINDOW_LOG_MAX = 27
# `xz -9` needs 65 MiB.
XZ_MEMORY_MAX = 96 << 20


class Packing(enum.Enum):
    """How the tar stream is packed."""

    NONE = "tar"
    GZIP = "tar.gz"
    ZSTD = "tar.zst"
    XZ = "tar.xz"


MAGIC = {Packing.GZIP: b"\x1f\x8b\x08", Packing.ZSTD: b"\x28\xb5\x2f\xfd", Packing.XZ: b"\xfd7zXZ\0"}


def packing_of(start: bytes) -> Packing | None:
    """What a file that begins with `start` (512 bytes are enough) is packed in; None if it is no tarball."""
    for packing, magic in MAGIC.items():
        if start.startswith(magic):
            return packing
    if len(start) >= BLOCK and (start[257:262] == b"ustar" or is_header(start)):
        return Packing.NONE
    return None


def unpacked(packing: Packing, source: Readable) -> Iterator[bytes]:
    """The tar stream in pieces; Rejected where it is damaged, cut off, or followed by something else."""
    if packing is Packing.NONE:
        return iter(lambda: source.read(STEP), b"")
    if packing is Packing.GZIP:
        return _gzip(source)
    return _zstd(source) if packing is Packing.ZSTD else _xz(source)


class Decompressor(Protocol):
    """What unpacks one compressed frame."""

    @property
    def eof(self) -> bool:
        """Whether the frame is over."""

    @property
    def needs_input(self) -> bool:
        """Whether it can go on only with more of the frame."""

    @property
    def unused_data(self) -> bytes:
        """What came behind the frame."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Up to `max_length` bytes of content."""


class _Inflate:
    """zlib's decompressor for gzip, with the manners of the others."""

    def __init__(self) -> None:
        import zlib  # noqa: PLC0415

        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        # A full buffer may mean that there is more to come even where no input is left.
        self.needs_input = not self._zlib.unconsumed_tail and len(out) < max_length
        return out


def _gzip(source: Readable) -> Iterator[bytes]:
    import zlib  # noqa: PLC0415 - each image needs one of the three at most

    return _frames(source, _Inflate, zlib.error, lambda start: start.startswith(MAGIC[Packing.GZIP]))


def _zstd(source: Readable) -> Iterator[bytes]:
    from tbdiff.compression import zstd  # noqa: PLC0415

    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX}

    def begins(start: bytes) -> bool:
        # Some packers add frames that decoders pass over.
        skippable = start[1:4] == b"\x2a\x4d\x18" and start[0] >> 4 == 5
        return skippable or start.startswith(MAGIC[Packing.ZSTD])

    return _frames(source, lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError, begins)


def _xz(source: Readable) -> Iterator[bytes]:
    import lzma  # noqa: PLC0415

    def new() -> Decompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_MAX)

    return _frames(source, new, lzma.LZMAError, lambda start: start.startswith(MAGIC[Packing.XZ]))


def _frames(
    source: Readable, new: Callable[[], Decompressor], error: type[Exception], begins: Callable[[bytes], bool]
) -> Iterator[bytes]:
    """The contents of one frame after the other, until the source ends."""
    data = _start(source, b"")
    while data:
        if not begins(data):
            raise Malformed("the tarball goes on behind its end")
        frame = new()
        while not frame.eof:
            if not data and frame.needs_input:
                data = source.read(STEP)
                if not data:
                    raise Rejected("the tarball is cut off; nothing was changed", "Fetch it again.")
            try:
                out = frame.decompress(data, STEP)
            except (error, EOFError) as reason:
                raise Malformed(f"the tarball cannot be decompressed: {reason}; nothing was changed") from None
            data = b""
            if out:
                yield out
        data = _start(source, frame.unused_data)


def _start(source: Readable, data: bytes) -> bytes:
    """Enough of what follows to tell what it is; nothing at the end."""
    while len(data) < BLOCK and (part := source.read(STEP)):
        data += part
    return data
