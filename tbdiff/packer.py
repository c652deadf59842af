"""What packs a stream on its way into an image: Zstandard, or LZMA2 beside the rest of the work."""

from __future__ import annotations

import lzma
from collections import deque
from typing import TYPE_CHECKING, Protocol

from tbdiff.compression import zstd

if TYPE_CHECKING:
    from concurrent.futures import Future

# The dictionary of every LZMA2 stream; part of the format.
LZMA_WINDOW = 1 << 20
PIECE = 1 << 18
WAITING_MAX = 16


class Packer(Protocol):
    """A compressor of one stream."""

    def compress(self, data: bytes | bytearray | memoryview, /) -> bytes:
        """Take more input, give what output there is."""

    def flush(self) -> bytes:
        """End the stream, give the rest."""


def zstd_packer(level: int, window_log: int, workers: int) -> Packer:
    """A frame of Zstandard, which is quickly packed and unpacked."""
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {
        parameter.compression_level: level,
        parameter.window_log: window_log,
        parameter.checksum_flag: 0,
        parameter.nb_workers: workers,
    }
    return zstd.ZstdCompressor(options=options)


def lzma_packer(preset: int) -> Packer:
    """LZMA2, which finds more in what is sparse: a tenth of the differences, a twentieth of contents."""
    # Where in a word of four a difference is tells nothing about it.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": LZMA_WINDOW, "pb": 0}]
    return _Aside(lzma.LZMACompressor(lzma.FORMAT_RAW, filters=filters))


class _Aside:
    """A packer that works in a thread of its own: it takes as long as finding what it packs."""

    def __init__(self, packer: Packer) -> None:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - only who makes images needs it

        self._packer = packer
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._gathered = bytearray()
        self._parts: deque[Future[bytes]] = deque()

    def compress(self, data: bytes | bytearray | memoryview, /) -> bytes:
        """Take more input, give what output there is by now."""
        self._gathered += data
        if len(self._gathered) < PIECE:
            return b""
        self._hand_over()
        return self._taken(WAITING_MAX)

    def flush(self) -> bytes:
        """End the stream, give the rest."""
        self._hand_over()
        self._parts.append(self._thread.submit(self._packer.flush))
        self._thread.shutdown()
        return self._taken(0)

    def _hand_over(self) -> None:
        self._parts.append(self._thread.submit(self._packer.compress, self._gathered))
        self._gathered = bytearray()

    def _taken(self, left: int) -> bytes:
        """What is packed already; no more than `left` pieces are left waiting."""
        found = []
        while self._parts and (len(self._parts) > left or self._parts[0].done()):
            found.append(self._parts.popleft().result())
        return b"".join(found)
