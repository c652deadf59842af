"""Streams that are read like those of any image, and tell how many stored bytes went into what was read of them."""

from __future__ import annotations

import lzma
from collections import Counter
from collections.abc import Collection, Sequence

from tbdiff.compression import zstd
from tbdiff.errors import Malformed
from tbdiff.payload import LABELS, META, Chunks, Frames, Held, Streams, check_count, check_stream, decompressor

# Owners of what no file owns. Those of contents are their numbers, 0 and up.
METADATA, NAMES, FRAMING = -1, -2, -3
_FRAME_HEAD = 4
_MAGIC = 4


class Metered(Streams):
    """All streams of a payload. Whoever reads says in `owner` for whom; `stored` says what that took in the image.

    A stream is unpacked block by block, as it was packed: the bytes of a block are shared among those who read it, in
    proportion to what their parts would take alone.
    """

    def __init__(self, sizes: Sequence[int], frames: Frames, by_lzma: Collection[int] = ()) -> None:
        super().__init__((), frames)
        check_count(sizes)
        self._sizes = sizes
        self._metered = [_Metered(size, by_lzma=n in by_lzma) for n, size in enumerate(sizes)]
        self.owner = FRAMING
        self.stored: Counter[int] = Counter()

    def left(self, number: int) -> int:
        """How many bytes of a stream were not read yet."""
        return self._metered[number].left if number < len(self._metered) else 0

    def read(self, number: int, size: int) -> bytes:
        """Exactly `size` bytes of stream `number`."""
        if size > self.left(number):
            raise Malformed("the image uses more of a stream than there is")
        stream = self._metered[number]
        stream.left -= size
        owner = {META: METADATA, LABELS: NAMES}.get(number, self.owner)
        parts = []
        while size:
            while stream.block is None:
                self._unpack(number, stream)
            part = stream.block.take(size, owner)
            size -= len(part)
            parts.append(part)
            if not stream.block.left:
                self.stored.update(stream.block.shares())
                stream.block = None
        return b"".join(parts)

    def _unpack(self, number: int, stream: _Metered) -> None:
        """Take the stream's next block, or what is needed to have one."""
        if stream.unpack():
            return
        if stream.held:
            stream.packed += stream.held.popleft()
        elif stream.eof:
            raise Malformed("a stream of the image is shorter than it says")
        else:
            self._pull(number)

    def _check_held(self, wanted: int | None = None) -> None:
        self._limit(stream.held for n, stream in enumerate(self._metered) if n != wanted)

    def _hold(self, number: int, data: bytes) -> None:
        check_stream(number, self._sizes)
        self.stored[FRAMING] += _FRAME_HEAD
        self._metered[number].held.append(data)

    def release(self, number: int) -> None:
        """Nothing is given back before the end."""

    def check_end(self, chunks: Chunks) -> None:
        """Every stream, and the payload, was used up; what marks its ends belongs to nobody."""
        while chunks.left:
            self._hold(*self._frames(0))
            self._check_held()
        for stream in self._metered:
            while stream.held or stream.packed:
                stream.packed += stream.held.popleft() if stream.held else b""
                if not stream.unpack() and not stream.held and stream.packed:
                    raise Malformed("a stream of the image holds more than is used")
            if stream.left or stream.block is not None or not (stream.eof or stream.unbegun):
                raise Malformed("a stream of the image holds more than is used")
            self.stored[FRAMING] += stream.ending
        chunks.check_end()


class _Block:
    """What one block unpacks to, and who read which of it."""

    def __init__(self, data: bytes, stored: int) -> None:
        self._data = data
        self._stored = stored
        self._read: dict[int, list[bytes]] = {}
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int, owner: int) -> bytes:
        """Up to `size` bytes, for `owner`."""
        part = self._data[self._at : self._at + size]
        self._at += len(part)
        self._read.setdefault(owner, []).append(part)
        return part

    def shares(self) -> dict[int, int]:
        """The stored bytes of the block by owner; together exactly all."""
        if len(self._read) == 1:
            return dict.fromkeys(self._read, self._stored)
        weights = {owner: len(zstd.compress(b"".join(parts), 1)) for owner, parts in self._read.items()}
        total = sum(weights.values())
        shares, before = {}, 0
        for owner, weight in weights.items():
            # Rounded by their sums, so that nothing is lost.
            shares[owner] = self._stored * (before + weight) // total - self._stored * before // total
            before += weight
        return shares


class _Metered:
    """One stream, unpacked a block at a time."""

    def __init__(self, size: int, *, by_lzma: bool) -> None:
        self.left = self._unread = size
        self.held = Held()
        self.packed = bytearray()
        self.block: _Block | None = None
        # Stored bytes that unpacked to nothing yet.
        self.ending = 0
        self.eof = False
        self.unbegun = True
        self._unpacker = decompressor(by_lzma=by_lzma)
        self._end = self._lzma_end if by_lzma else self._zstd_end
        self._checksum = 0

    def unpack(self) -> bool:
        """Unpack the next part of the stream, if all of it is here."""
        end = None if self.eof else self._end()
        if end is None or end > len(self.packed):
            return False
        part = bytes(self.packed[:end])
        del self.packed[:end]
        self.unbegun = False
        try:
            data = self._unpacker.decompress(part)
        except (zstd.ZstdError, lzma.LZMAError, EOFError) as error:
            raise Malformed(f"a stream of the image cannot be decompressed: {error}") from None
        self._unread -= len(data)
        if self._unread < 0:
            raise Malformed("a stream of the image holds more than is used")
        self.eof = self._unpacker.eof
        self.ending += end
        if data:
            self.block, self.ending = _Block(data, self.ending), 0
        return True

    def _lzma_end(self) -> int | None:
        """Where the next part of LZMA2 ends: a chunk, or the end mark."""
        control = self.packed[:1]
        if not control or control == b"\0":
            return len(control) or None
        size = 5 + (control[0] >= 0xC0) if control[0] & 0x80 else 3
        if len(self.packed) < size:
            return None
        stored = self.packed[3:5] if control[0] & 0x80 else self.packed[1:3]
        return size + int.from_bytes(stored, "big") + 1

    def _zstd_end(self) -> int | None:
        """Where the next part ends: the frame's head with the first block, or a block; the last with the checksum."""
        start = 0
        if self.unbegun:
            if len(self.packed) <= _MAGIC:
                return None
            # RFC 8878, 3.1.1.1: descriptor, window, dictionary id, content size.
            descriptor = self.packed[_MAGIC]
            single = descriptor >> 5 & 1
            content_size = (single, 2, 4, 8)[descriptor >> 6]
            start = _MAGIC + 1 + (not single) + (0, 1, 2, 4)[descriptor & 3] + content_size
            self._checksum = 4 * (descriptor >> 2 & 1)
        if len(self.packed) < start + 3:
            return None
        head = int.from_bytes(self.packed[start : start + 3], "little")
        last, kind, size = head & 1, head >> 1 & 3, head >> 3
        return start + 3 + (1 if kind == 1 else size) + (self._checksum if last else 0)
