"""One content being assembled: its sources laid end to end, and the sinks that its recipe writes to."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from tbdiff.content import BLOCK, Contents
from tbdiff.entry import Entry, Listing
from tbdiff.errors import Malformed, Rejected
from tbdiff.recipe import CONTENT, Member, Recipe, Source
from tbdiff.staging import StagedContent, Staging

if TYPE_CHECKING:
    from tbdiff.encoders import Encoder, Factory

STEP = 1 << 18
# What is read of a source at once where short runs are wanted.
WINDOW = 1 << 16
UNPACKED_FILE = b"unpacked-%d"


class Sources:
    """All that a content builds on, as one run of bytes; one file of it is open at a time."""

    def __init__(
        self, staging: Staging, base: Listing, needs: Sequence[Entry], contents: Contents, recipe: Recipe
    ) -> None:
        self._staging = staging
        self._base = base
        self._needs = needs
        self._sources = recipe.sources
        self._starts = [0, *accumulate(contents.size(source) for source in recipe.sources)]
        self._open: tuple[int, int] | None = None
        self._window = b""
        self._window_start = 0
        self._unpacked: list[bytes] = []
        for n, source in enumerate(recipe.sources):
            if source.members:
                self._unpack(n, source)

    def close(self) -> None:
        """Close what is open, and remove what was unpacked."""
        self._close_file()
        for name in self._unpacked:
            os.unlink(name, dir_fd=self._staging.fd)

    def _close_file(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def _unpack(self, number: int, source: Source) -> None:
        """Write a base file with its members unpacked to a temporary file."""
        from tbdiff.encoders import decoded  # noqa: PLC0415 - most images need none of its memory

        self._unpacked.append(UNPACKED_FILE % number)
        out = self._staging.new_file(self._unpacked[-1])
        try:
            file = self._staging.base_file(source.index)
            position = 0
            for member in source.members:
                _write(out, _parts(file, position, member.gap), member.gap)
                position += member.gap
                _write(out, decoded(member.kind, _parts(file, position, member.packed)), member.unpacked)
                position += member.packed
            left = self._base.entries[source.index].size - position
            _write(out, _parts(file, position, left), left)
        finally:
            os.close(out)

    def _file(self, number: int) -> int:
        source = self._sources[number]
        if source.kind != CONTENT and not source.members:
            return self._staging.base_file(source.index)
        if self._open is None or self._open[0] != number:
            self._close_file()
            name = self._needs[source.index].digest.hex().encode() if source.kind == CONTENT else UNPACKED_FILE % number
            self._open = (number, self._staging.file(name))
        return self._open[1]

    def parts(self, offset: int, length: int) -> Iterator[tuple[bytes, int, int]]:
        """The bytes of a run, piece by piece, each with the file and the offset that it is from."""
        while length:
            number = bisect_right(self._starts, offset) - 1
            start = offset - self._starts[number]
            file = self._file(number)
            # Pieces end where blocks end, so that blocks can be shared.
            step = min(length, self._starts[number + 1] - offset, STEP - start % BLOCK)
            data = os.pread(file, step, start)
            if len(data) != step:
                raise Rejected("a file of the base is shorter than it was; the tree was left as it is")
            yield data, file, start
            offset += step
            length -= step

    def read(self, offset: int, length: int) -> bytes:
        """The bytes of a run; short ones mostly come from what was read for the last one."""
        start = offset - self._window_start
        if 0 <= start <= len(self._window) - length:
            return self._window[start : start + length]
        number = bisect_right(self._starts, offset) - 1
        end = self._starts[number + 1]
        if length > WINDOW // 2 or offset + length > end:
            return b"".join(data for data, _, _ in self.parts(offset, length))
        # The next one lies behind this one more often than before it.
        begin = max(self._starts[number], offset - WINDOW // 4)
        self._window = b"".join(data for data, _, _ in self.parts(begin, min(end - begin, WINDOW)))
        self._window_start = begin
        return self._window[offset - begin : offset - begin + length]


def _parts(file: int, offset: int, length: int) -> Iterator[bytes]:
    while length:
        data = os.pread(file, min(length, STEP), offset)
        if not data:
            raise Rejected("a file of the base is shorter than it was; the tree was left as it is")
        yield data
        offset += len(data)
        length -= len(data)


def _write(out: int, parts: Iterator[bytes], size: int) -> None:
    """Append `parts`, which must be `size` bytes."""
    for part in parts:
        size -= len(part)
        if size < 0:
            break
        view = memoryview(part)
        while view:
            view = view[os.write(out, view) :]
    if size:
        raise Malformed("a packed file of the base is not what it was; the tree was left as it is")


class PlainSink:
    """Writes a content as it comes; what the sources have as whole blocks is shared with them."""

    def __init__(self, sources: Sources, out: StagedContent) -> None:
        self._sources = sources
        self._out = out
        self.write = out.write
        self.read = sources.read

    def take(self, offset: int, length: int, /) -> None:
        """Append a part of the sources."""
        for data, file, start in self._sources.parts(offset, length):
            self._out.write_shared(data, file, start)


class PackingSink:
    """Packs a content's members again as they come."""

    def __init__(
        self, sources: Sources, out: StagedContent, members: Sequence[Member], encoders: Sequence[Factory]
    ) -> None:
        self._sources = sources
        self._out = out
        self._members = iter(members)
        self._encoders = encoders
        self.read = sources.read
        self._encoder: Encoder | None = None
        self._member: Member | None = None
        self._left = 0
        self._packed = 0
        self._next()

    def _next(self) -> None:
        """Go on to the gap before the next member; behind the last one there is no end."""
        self._member = next(self._members, None)
        self._left = self._member.gap if self._member else 1 << 62
        if not self._left:
            self._begin()

    def _begin(self) -> None:
        member = self._member
        if member is None or member.kind >= len(self._encoders):
            raise Malformed("the image packs a file with a compressor that it does not name")
        self._encoder = self._encoders[member.kind](member.unpacked)
        self._left = member.unpacked
        self._packed = member.packed
        if not self._left:
            self._end()

    def _end(self) -> None:
        if self._encoder is not None:
            self._emit(self._encoder.flush())
            if self._packed:
                raise Malformed("a file could not be re-created: its compressor made less of it; nothing was changed")
        self._encoder = None
        self._next()

    def _emit(self, data: bytes) -> None:
        self._packed -= len(data)
        if self._packed < 0:
            raise Malformed("a file could not be re-created: its compressor made more of it; nothing was changed")
        self._out.write(data)

    def write(self, data: bytes, /) -> None:
        """Append bytes of the unpacked content."""
        view = memoryview(data)
        while view:
            part = view[: self._left]
            view = view[len(part) :]
            self._left -= len(part)
            if self._encoder is None:
                self._out.write(bytes(part))
            else:
                self._emit(self._encoder.compress(bytes(part)))
            if not self._left:
                if self._encoder is None:
                    self._begin()
                else:
                    self._end()

    def take(self, offset: int, length: int, /) -> None:
        """Append a part of the sources."""
        for data, _, _ in self._sources.parts(offset, length):
            self.write(data)


def assemble(
    contents: Contents, staging: Staging, base: Listing, needs: Sequence[Entry], encoders: Sequence[Factory]
) -> Iterator[Entry]:
    """Stage all contents of a payload; each is checked against its digest before the next is begun."""
    for recipe, record in contents:
        entry = needs[recipe.index]
        sources = Sources(staging, base, needs, contents, recipe)
        try:
            with staging.content(entry) as out:
                plain = not recipe.members
                sink = PlainSink(sources, out) if plain else PackingSink(sources, out, recipe.members, encoders)
                contents.follow(recipe, record, sink)
        finally:
            sources.close()
        yield entry
