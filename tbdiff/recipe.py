"""How one content is put together: from which sources, packed how; as a record of the control stream (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tbdiff.errors import Malformed
from tbdiff.varint import Column, numbers, take, take_below, unzigzag, zigzag

SIZE_MAX = 2**62
COVERS_IN_RECORD = 8192
SOURCES_MAX = 1 << 16
MEMBERS_MAX = 1 << 13
UNPACKED_MAX = 16

# What a source is; the values are part of the format.
BASE, CONTENT, UNPACKED = range(3)


class Member(NamedTuple):
    """A compressed part of a file: `gap` bytes behind the last one's end, `packed` bytes that hold `unpacked`.

    In a base file `kind` is the codec that unpacks it, in a new one the number of the encoder that packs it.
    """

    gap: int
    kind: int
    packed: int
    unpacked: int


@dataclass(frozen=True, slots=True)
class Source:
    """What a content builds on: base entry number `index`, that one unpacked, or the payload's content `index`."""

    kind: int
    index: int
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """The making of one content, number `index` of those that the image must carry.

    Its `size` bytes (of what it unpacks to, if it has `members`) are covers of the sources, laid end to end, and in
    between literals from `data_stream`.
    """

    index: int
    data_stream: int
    size: int
    sources: tuple[Source, ...] = ()
    members: tuple[Member, ...] = ()
    covers: int = 0


class Cover(NamedTuple):
    """A run of the new content that the sources have too, exactly or nearly (then the byte differences are stored)."""

    new: int
    old: int
    length: int
    exact: bool


def unpacked_size(size: int, members: Sequence[Member]) -> int:
    """How large a file of `size` bytes is when its members are unpacked; Rejected where they do not fit into it."""
    if sum(member.gap + member.packed for member in members) > size:
        raise Malformed("the image has packed parts beyond a file's end")
    return size - sum(member.packed for member in members) + sum(member.unpacked for member in members)


def encode(recipe: Recipe, covers: Sequence[Cover]) -> Iterator[bytes]:
    """The records of a recipe, the first with its head."""
    record = Column()
    for value in (recipe.index, recipe.data_stream, recipe.size, len(recipe.sources)):
        record.number(value)
    for source in recipe.sources:
        record.number(source.kind)
        record.number(source.index)
        if source.kind == UNPACKED:
            _encode_members(record, source.members)
    _encode_members(record, recipe.members)
    record.number(len(covers))
    end = old_end = 0
    for n, cover in enumerate(covers):
        if n and n % COVERS_IN_RECORD == 0:
            yield bytes(record)
            record = Column()
        record.number(cover.new - end)
        record.number(zigzag(cover.old - old_end))
        record.number(cover.length << 1 | cover.exact)
        end = cover.new + cover.length
        old_end = cover.old + cover.length
    yield bytes(record)


def _encode_members(record: Column, members: Sequence[Member]) -> None:
    record.number(len(members))
    for member in members:
        for value in member:
            record.number(value)


def decode(record: Iterator[int]) -> Recipe:
    """The head of a recipe; the covers follow in the same record."""
    index, data_stream = take(record), take(record)
    size = take_below(record, SIZE_MAX)
    sources = []
    for _ in range(take_below(record, SOURCES_MAX)):
        kind, number = take_below(record, UNPACKED), take(record)
        inside = _decode_members(record) if kind == UNPACKED else ()
        if kind == UNPACKED and not inside:
            raise Malformed("the image unpacks a file that holds nothing packed")
        sources.append(Source(kind, number, inside))
    if sum(source.kind == UNPACKED for source in sources) > UNPACKED_MAX:
        raise Malformed("the image unpacks more files at once than a reader has room for")
    members = _decode_members(record)
    return Recipe(index, data_stream, size, tuple(sources), members, take(record))


def _decode_members(record: Iterator[int]) -> tuple[Member, ...]:
    members = tuple(
        Member(*(take_below(record, SIZE_MAX) for _ in range(4))) for _ in range(take_below(record, MEMBERS_MAX))
    )
    if any(not member.packed or not member.unpacked for member in members):
        raise Malformed("the image packs nothing into something, or something into nothing")
    return members


def covers(recipe: Recipe, record: Iterator[int], more: Iterator[bytes], old_size: int) -> Iterator[Cover]:
    """The covers of a recipe, each inside the content and inside the `old_size` bytes of its sources."""
    end = old_end = 0
    for n in range(recipe.covers):
        if n and n % COVERS_IN_RECORD == 0:
            check_end(record)
            record = numbers(next(more))
        start = end + take(record)
        old = old_end + unzigzag(take(record))
        code = take(record)
        length = code >> 1
        end, old_end = start + length, old + length
        if not length or end > recipe.size or old < 0 or old_end > old_size:
            raise Malformed("the image patches a file beyond its end")
        yield Cover(start, old, length, bool(code & 1))
    check_end(record)


def check_end(record: Iterator[int]) -> None:
    """A record holds no more than what is read from it."""
    if next(record, None) is not None:
        raise Malformed("the image has a record that holds more than it says")
