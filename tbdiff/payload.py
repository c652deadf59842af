"""What follows the head of an image: streams, each compressed as one, interleaved as needed, verified by chunks."""

from __future__ import annotations

import hashlib
import lzma
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Protocol

from tbdiff.compression import zstd
from tbdiff.errors import Malformed, Rejected
from tbdiff.manifest import Way
from tbdiff.packer import LZMA_WINDOW, Packer

WINDOW_LOG_MAX = 22
FRAME_MAX = 1 << 20
STREAMS_MAX = 8
# Frames that arrive before they are needed are held; a creator interleaves so that hardly any are.
HELD_MAX = 4 << 20
RECORD_MAX = 1 << 20
STEP = 1 << 17

# Every stream is named by its number; data streams from DATA on hold what is alike.
META, LABELS, CONTROL, DIFFERENCE, DATA = range(5)


class Readable(Protocol):
    """Whatever bytes come from: a file, a pipe, an HTTP response."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""


def read_exactly(source: Readable, size: int) -> bytes:
    """Read `size` bytes; Rejected when the source ends before."""
    parts = []
    while size:
        part = source.read(min(size, STEP))
        if not part:
            raise Rejected("the image is cut off; nothing was changed", "Fetch it again.")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Chunks:
    """The payload, chunk by chunk; not a byte is handed out before its chunk's digest is verified."""

    def __init__(self, source: Readable, way: Way) -> None:
        self._source = source
        self._way = way
        table = read_exactly(source, 32 * way.chunk_count)
        if hashlib.sha256(table).hexdigest() != way.chunks:
            raise Rejected("the image is damaged: its table of digests is not the signed one", "Fetch it again.")
        self._table = table
        self._next = 0
        self._held = b""
        self._at = 0

    def _advance(self) -> None:
        left = self._way.payload - self._next * self._way.chunk_size
        if left <= 0:
            raise Rejected("the image is cut off; nothing was changed", "Fetch it again.")
        chunk = read_exactly(self._source, min(left, self._way.chunk_size))
        if hashlib.sha256(chunk).digest() != self._table[32 * self._next : 32 * self._next + 32]:
            raise Rejected(f"the image is damaged in chunk {self._next} of its payload", "Fetch it again.")
        self._next += 1
        self._held = chunk
        self._at = 0

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        parts = []
        while size:
            if self._at == len(self._held):
                self._advance()
            part = self._held[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_some(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end."""
        return self.read(min(size, self.left))

    @property
    def left(self) -> int:
        """How many bytes of the payload were not handed out yet."""
        return self._way.payload - self.done + len(self._held) - self._at

    @property
    def done(self) -> int:
        """How many bytes of the payload were verified."""
        return min(self._next * self._way.chunk_size, self._way.payload)

    def check_end(self) -> None:
        """Nothing may follow: neither in the payload nor behind it."""
        if self.left or self._source.read(1):
            raise Malformed("the image goes on behind its end")


def decompressor(*, by_lzma: bool) -> Any:
    """What unpacks a stream, in a window of bounded size."""
    if by_lzma:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": LZMA_WINDOW}])
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG_MAX})


class Held:
    """Frames of a stream that came before they are needed."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._frames)

    def append(self, data: bytes) -> None:
        """Hold another frame."""
        self._frames.append(data)
        self.size += len(data)

    def popleft(self) -> bytes:
        """The frame that came first."""
        data = self._frames.popleft()
        self.size -= len(data)
        return data


class _Stream:
    """One stream's decompressor, with what it holds."""

    def __init__(self, size: int, *, by_lzma: bool) -> None:
        self.left = size
        self.held = Held()
        self._by_lzma = by_lzma
        self._unpacker = decompressor(by_lzma=by_lzma)
        self._buffer = b""
        self._at = 0
        self.started = False

    def take(self, size: int) -> bytes:
        """What is decompressed already, up to `size` bytes."""
        part = self._buffer[self._at : self._at + size]
        self._at += len(part)
        return part

    @property
    def hungry(self) -> bool:
        """Whether it needs another frame before it can go on."""
        return not self.held and not self._unpacker.eof and self._unpacker.needs_input

    def refill(self, size: int) -> None:
        """Decompress what is held into the buffer, at least a little."""
        if self._unpacker.eof:
            raise Malformed("a stream of the image is shorter than it says")
        data = self.held.popleft() if self._unpacker.needs_input and self.held else b""
        self.started = True
        try:
            self._buffer = self._unpacker.decompress(data, max(size, STEP // 4))
        except (zstd.ZstdError, lzma.LZMAError) as error:
            raise Malformed(f"a stream of the image cannot be decompressed: {error}") from None
        self._at = 0

    def release(self) -> None:
        """Make room for others, if its end was seen already."""
        if self._unpacker.eof and not self.left and not self._unpacker.unused_data and self._at == len(self._buffer):
            # One that was not begun has no window yet.
            self._unpacker = decompressor(by_lzma=self._by_lzma)
            self._buffer, self._at, self.started = b"", 0, False

    def check_end(self) -> None:
        """Everything was used, and the compressed stream says so too."""
        surplus = bool(self.left) or self._at != len(self._buffer)
        while not surplus and not self._unpacker.eof and (self.held or not self._unpacker.needs_input):
            # What is left is the end mark, which decompresses to nothing.
            self.refill(1)
            surplus = bool(self._buffer)
        if surplus or self.held or self._unpacker.unused_data or (self.started and not self._unpacker.eof):
            raise Malformed("a stream of the image holds more than is used")


Frames = Callable[[int], tuple[int, bytes]]


def check_count(sizes: Sequence[int]) -> None:
    """Refuse more streams than there is room for."""
    if len(sizes) > STREAMS_MAX:
        raise Malformed("the image has more streams than a reader holds")


def check_stream(number: int, sizes: Sequence[int]) -> None:
    """Refuse a frame of no stream, or of one that holds nothing."""
    if number >= len(sizes) or not sizes[number]:
        raise Malformed("the image has a frame of a stream that it does not name, or that holds nothing")


class Streams:
    """All streams of a payload; a read pulls frames until the stream that is read has enough."""

    def __init__(self, sizes: Sequence[int], frames: Frames, by_lzma: Collection[int] = ()) -> None:
        check_count(sizes)
        self._sizes = sizes
        self._streams = [_Stream(size, by_lzma=n in by_lzma) for n, size in enumerate(sizes)]
        self._frames = frames

    def left(self, number: int) -> int:
        """How many bytes of a stream were not read yet."""
        return self._streams[number].left if number < len(self._streams) else 0

    def read(self, number: int, size: int) -> bytes:
        """Exactly `size` bytes of stream `number`."""
        if size > self.left(number):
            raise Malformed("the image uses more of a stream than there is")
        stream = self._streams[number]
        stream.left -= size
        part = stream.take(size)
        if len(part) == size:
            return part
        parts = [part]
        size -= len(part)
        while size:
            while stream.hungry:
                self._pull(number)
            stream.refill(size)
            part = stream.take(size)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def release(self, number: int) -> None:
        """Give back the memory of a stream that is used up."""
        self._streams[number].release()

    def pieces(self, number: int, size: int) -> Iterator[bytes]:
        """`size` bytes of stream `number`, in pieces that fit into memory."""
        while size:
            part = self.read(number, min(size, STEP))
            size -= len(part)
            yield part

    def record(self) -> bytes:
        """The next record of the control stream."""
        size = int.from_bytes(self.read(CONTROL, 4), "little")
        if size > RECORD_MAX:
            raise Malformed("the image has a record that is too long")
        return self.read(CONTROL, size)

    def _pull(self, wanted: int) -> None:
        number, data = self._frames(wanted)
        self._hold(number, data)
        self._check_held(wanted)

    def _check_held(self, wanted: int | None = None) -> None:
        self._limit(stream.held for n, stream in enumerate(self._streams) if n != wanted)

    @staticmethod
    def _limit(held: Iterable[Held]) -> None:
        if sum(one.size for one in held) > HELD_MAX:
            raise Malformed("the image's streams are interleaved so that they cannot be read in one pass")

    def _hold(self, number: int, data: bytes) -> None:
        check_stream(number, self._sizes)
        self._streams[number].held.append(data)

    def check_end(self, chunks: Chunks) -> None:
        """Every stream, and the payload, was used up; what they held of the memory is free again."""
        while chunks.left:
            # Ends of streams may come behind the last byte that they hold; nothing else.
            self._hold(*self._frames(0))
            self._check_held()
        for stream in self._streams:
            stream.check_end()
        self._streams.clear()
        chunks.check_end()


def frames_of(chunks: Chunks) -> Frames:
    """The frames of a payload in the order in which they are stored."""

    def next_frame(_wanted: int) -> tuple[int, bytes]:
        head = chunks.read(4)
        size = int.from_bytes(head[1:], "little")
        if not 0 < size <= FRAME_MAX:
            raise Malformed("the image has a frame of an impossible size")
        return head[0], chunks.read(size)

    return next_frame


class StreamWriter:
    """One stream on its way into an image: compressed as it comes, kept in a temporary file."""

    def __init__(self, spool: BinaryIO, packer: Packer) -> None:
        self._packer = packer
        self._spool = spool
        self.size = 0
        self.stored = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append to the stream."""
        if not data:
            return
        self.size += len(data)
        self._store(self._packer.compress(data))

    def record(self, data: bytes | bytearray) -> None:
        """Append a record, with its length in front."""
        self.write(len(data).to_bytes(4, "little"))
        self.write(data)

    def _store(self, data: bytes) -> None:
        self.stored += len(data)
        self._spool.write(data)

    def finish(self) -> None:
        """End the stream; an empty one is not stored at all."""
        if self.size:
            self._store(self._packer.flush())
        # It takes more memory than all that is left to do.
        del self._packer
        self._spool.seek(0)

    def piece(self) -> bytes:
        """The next piece of what is stored; none at the end."""
        return self._spool.read(STEP)


def interleave(
    writers: Sequence[StreamWriter], by_lzma: Collection[int], consume: Callable[[Streams], None], out: BinaryIO
) -> None:
    """Write all streams as frames to `out`, in the order in which `consume`, who reads as a device does, needs them."""

    def next_frame(wanted: int) -> tuple[int, bytes]:
        data = writers[wanted].piece()
        if not data:
            raise AssertionError("the stream is used up, and a reader wants more of it")
        out.write(bytes((wanted,)) + len(data).to_bytes(3, "little") + data)
        return wanted, data

    streams = Streams([writer.size for writer in writers], next_frame, by_lzma)
    consume(streams)
    for number, writer in enumerate(writers):
        while data := writer.piece():
            out.write(bytes((number,)) + len(data).to_bytes(3, "little") + data)


def chunk_table(payload: Readable, chunk_size: int) -> tuple[bytes, int]:
    """The digests of the payload's chunks, and its size."""
    digests, size = [], 0
    while chunk := _fill(payload, chunk_size):
        digests.append(hashlib.sha256(chunk).digest())
        size += len(chunk)
    return b"".join(digests), size


def _fill(source: Readable, size: int) -> bytes:
    """Up to `size` bytes, fewer only at the end."""
    parts: list[bytes] = []
    while size and (part := source.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
