"""The new contents of a target: which ones a payload must carry, and how its recipes are followed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from tbdiff import recipe as recipes
from tbdiff.delta import add_bytes
from tbdiff.entry import Entry, Kind, Listing
from tbdiff.errors import Malformed
from tbdiff.packed import PackedEntries
from tbdiff.payload import DATA, DIFFERENCE, STEP, Streams
from tbdiff.recipe import BASE, CONTENT, Recipe, Source, unpacked_size
from tbdiff.varint import numbers

# What files share their extents by: a shorter run of a source holds nothing that could be shared with it.
BLOCK = 4096
# So many bytes at once are added while they are in the processor's cache.
CACHED = 1 << 14


def needed(base: Listing, target: Listing) -> Sequence[Entry]:
    """The files whose contents a payload carries: each digest that the base has not, once, in canonical order."""
    return PackedEntries(Entry, _needed(base, target))


def _needed(base: Listing, target: Listing) -> Iterator[Entry]:
    sizes = {digest: base.entries.sizes[n] for n, digest in base.digests()}
    for n, digest in target.digests():
        size = sizes.get(digest)
        if size is None:
            sizes[digest] = target.entries.sizes[n]
            yield target.entries[n]
        elif size != target.entries.sizes[n]:
            raise Malformed("the image gives one content two sizes")


def runs(entry: Entry) -> Sequence[tuple[int, int]]:
    """The (offset, length) parts of a new content that are carried: all of it, or what is no hole."""
    return ((0, entry.size),) if entry.extents is None else entry.extents


def carried(entry: Entry) -> int:
    """How many bytes of a new content are carried."""
    return sum(length for _, length in runs(entry))


class Sink(Protocol):
    """Where a content is put together, from its beginning to its end."""

    def write(self, data: bytes, /) -> None:
        """Append bytes."""

    def take(self, offset: int, length: int, /) -> None:
        """Append a part of the sources, laid end to end."""

    def read(self, offset: int, length: int, /) -> bytes:
        """A part of the sources, not longer than STEP."""


class Nowhere:
    """The sink of who only wants to get past a content."""

    def write(self, data: bytes, /) -> None:
        """Forget it."""

    def take(self, offset: int, length: int, /) -> None:
        """Forget it."""

    def read(self, offset: int, length: int, /) -> bytes:
        """As good as any bytes."""
        return bytes(length)


class Contents:
    """The recipes of a payload, one after the other, each for one of the needed contents."""

    def __init__(self, streams: Streams, base: Listing, needs: Sequence[Entry]) -> None:
        self._streams = streams
        self._base = base
        self._needs = needs
        self._made: set[int] = set()

    def __iter__(self) -> Iterator[tuple[Recipe, Iterator[int]]]:
        """Each recipe with the rest of its record, to be followed before the next is asked for."""
        for _ in self._needs:
            record = numbers(self._streams.record())
            recipe = recipes.decode(record)
            self._check(recipe)
            yield recipe, record
            self._made.add(recipe.index)

    def _check(self, recipe: Recipe) -> None:
        if recipe.index >= len(self._needs) or recipe.index in self._made:
            raise Malformed("the image makes a content that is not needed")
        if recipe.data_stream < DATA:
            raise Malformed("the image keeps a content where none can be")
        entry = self._needs[recipe.index]
        if recipe.members and entry.extents is not None:
            raise Malformed("the image packs a file that has holes")
        if recipe.size != unpacked_size(carried(entry), recipe.members):
            raise Malformed("the image makes a content of another size than it says")
        for source in recipe.sources:
            if source.kind == CONTENT:
                if source.index not in self._made:
                    raise Malformed("the image builds on a content that it has not made yet")
            elif source.index >= len(self._base) or self._base.entries.kinds[source.index] is not Kind.FILE:
                raise Malformed("the image builds on a file that its base does not have")

    def size(self, source: Source) -> int:
        """How many bytes a source has."""
        if source.kind == CONTENT:
            return self._needs[source.index].size
        size = self._base.entries.sizes[source.index]
        return size if source.kind == BASE else unpacked_size(size, source.members)

    def follow(self, recipe: Recipe, record: Iterator[int], sink: Sink) -> None:
        """Let `sink` put the content together."""
        old_size = sum(map(self.size, recipe.sources))
        gathered = _Gathered(sink)
        end = 0
        more = iter(self._streams.record, None)
        for cover in recipes.covers(recipe, record, more, old_size):
            self._literal(recipe, cover.new - end, gathered)
            if not cover.exact:
                self._difference(cover.old, cover.length, gathered)
            elif cover.length < BLOCK:
                gathered.add(sink.read(cover.old, cover.length))
            else:
                gathered.give()
                sink.take(cover.old, cover.length)
            end = cover.new + cover.length
        self._literal(recipe, recipe.size - end, gathered)
        gathered.give()

    def _literal(self, recipe: Recipe, size: int, gathered: _Gathered) -> None:
        for piece in self._streams.pieces(recipe.data_stream, size):
            gathered.add(piece)

    def _difference(self, offset: int, length: int, gathered: _Gathered) -> None:
        while length:
            step = min(length, CACHED)
            gathered.add(add_bytes(gathered.sink.read(offset, step), self._streams.read(DIFFERENCE, step)))
            offset += step
            length -= step


class _Gathered:
    """Bytes on their way to a sink, which is called once for many short ones."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        """Take bytes; give them on when there are enough."""
        self._parts.append(data)
        self._size += len(data)
        if self._size >= STEP:
            self.give()

    def give(self) -> None:
        """Give on what there is."""
        if self._size:
            self.sink.write(b"".join(self._parts))
            self._parts.clear()
            self._size = 0
