"""New contents: which ones an image must carry, and each one's recipe, as it is written and as it is followed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from tbdiff.delta import Cover, add_bytes
from tbdiff.entry import Entry, Kind, Listing
from tbdiff.errors import Rejected
from tbdiff.payload import CONTROL, DATA, DIFFERENCE, STEP, Streams, StreamWriter
from tbdiff.varint import Column, numbers, take, unzigzag, zigzag

WHOLE, PATCH = range(2)
COVERS_IN_RECORD = 8192


def needed(base: Listing, target: Listing) -> Iterator[Entry]:
    """The files whose contents a payload carries, in its order: each digest that the base has not, once."""
    known = {entry.digest for entry in base.entries}
    for entry in target.entries:
        if entry.kind is Kind.FILE and entry.digest not in known:
            known.add(entry.digest)
            yield entry


def runs(entry: Entry) -> Sequence[tuple[int, int]]:
    """The (offset, length) parts of a new content that are carried: all of it, or what is no hole."""
    return ((0, entry.size),) if entry.extents is None else entry.extents


class Sink(Protocol):
    """Where a content is put together, from its beginning to its end."""

    def write(self, data: bytes) -> None:
        """Append bytes."""

    def take(self, source: int, offset: int, length: int) -> None:
        """Append a part of the base file that is base entry number `source`."""

    def read_base(self, source: int, offset: int, length: int) -> bytes:
        """A part of that base file."""


# --- written


def write_whole(streams: Sequence[StreamWriter], data_stream: int, parts: Iterator[memoryview]) -> None:
    """Store a content as it is."""
    record = Column()
    record.number(WHOLE)
    record.number(data_stream)
    streams[CONTROL].record(record)
    for part in parts:
        streams[data_stream].write(part)


def write_patch(
    streams: Sequence[StreamWriter],
    data_stream: int,
    source: int,
    covers: Sequence[Cover],
    new: memoryview,
    differences: Iterator[bytes],
) -> None:
    """Store a content by what it shares with base entry number `source`; `differences` of the inexact covers."""
    record = Column()
    for value in (PATCH, data_stream, source, len(covers)):
        record.number(value)
    end = old_end = count = 0
    for cover in covers:
        if count == COVERS_IN_RECORD:
            streams[CONTROL].record(record)
            record, count = Column(), 0
        record.number(cover.new - end)
        record.number(zigzag(cover.old - old_end))
        record.number(cover.length << 1 | cover.exact)
        if cover.new > end:
            streams[data_stream].write(new[end : cover.new])
        end = cover.new + cover.length
        old_end = cover.old + cover.length
        count += 1
    streams[CONTROL].record(record)
    if end < len(new):
        streams[data_stream].write(new[end:])
    for difference in differences:
        streams[DIFFERENCE].write(difference)


# --- followed


def follow(streams: Streams, size: int, bases: Listing, sink: Sink) -> None:
    """Read the next recipe and let `sink` put its content of `size` carried bytes together."""
    record = numbers(streams.record())
    method = take(record)
    data_stream = take(record)
    if data_stream < DATA:
        raise Rejected("the image keeps a content where none can be")
    if method == WHOLE:
        _finished(record)
        _literal(streams, data_stream, size, sink)
    elif method == PATCH:
        source, count = take(record), take(record)
        if source >= len(bases) or bases.entries[source].kind is not Kind.FILE:
            raise Rejected("the image builds on a file that its base does not have")
        _patch(streams, record, count, data_stream, size, (source, bases.entries[source].size), sink)
    else:
        raise Rejected("the image makes a content in a way that this tbdiff does not know", "Update tbdiff first.")


def _finished(record: Iterator[int]) -> None:
    if next(record, None) is not None:
        raise Rejected("the image has a record that holds more than it says")


def _literal(streams: Streams, number: int, size: int, sink: Sink) -> None:
    for piece in streams.pieces(number, size):
        sink.write(piece)


def _patch(
    streams: Streams,
    record: Iterator[int],
    count: int,
    data_stream: int,
    size: int,
    base: tuple[int, int],
    sink: Sink,
) -> None:
    source, base_size = base
    end = old_end = 0
    for n in range(count):
        if n and n % COVERS_IN_RECORD == 0:
            _finished(record)
            record = numbers(streams.record())
        literal = take(record)
        old = old_end + unzigzag(take(record))
        code = take(record)
        length = code >> 1
        if literal > size - end or length > size - end - literal or not 0 <= old <= base_size - length or not length:
            raise Rejected("the image patches a file beyond its end")
        _literal(streams, data_stream, literal, sink)
        if code & 1:
            sink.take(source, old, length)
        else:
            _difference(streams, source, old, length, sink)
        end += literal + length
        old_end = old + length
    _finished(record)
    _literal(streams, data_stream, size - end, sink)


def _difference(streams: Streams, source: int, offset: int, length: int, sink: Sink) -> None:
    while length:
        step = min(length, STEP)
        difference = streams.read(DIFFERENCE, step)
        sink.write(add_bytes(sink.read_base(source, offset, step), difference))
        offset += step
        length -= step
