"""How a new content is best carried: found out when an image is made, for each content apart (pure, but slow)."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from tbdiff import archive
from tbdiff.container import Part, find_parts, maker, unpacked
from tbdiff.delta import differences_of, find_covers, worthwhile
from tbdiff.encoders import Factory
from tbdiff.recipe import BASE, CONTENT, MEMBERS_MAX, UNPACKED, Cover, Member, Source

# A file inside an archive is looked up by its digest if it is at least this long.
SMALLEST_MEMBER = 256
Available = Callable[[str], dict[str, Factory]]


@dataclass(frozen=True, slots=True)
class Match:
    """A content as it is going to be carried.

    `data` is the content, or what it unpacks to; `encoders` are the compressors that make its members again, as
    NAME=FINGERPRINT, in the order of `members` (whose `kind` is not set yet).
    """

    data: memoryview
    sources: tuple[Source, ...] = ()
    covers: tuple[Cover, ...] = ()
    members: tuple[Member, ...] = ()
    encoders: tuple[str, ...] = ()
    differences: bytes | bytearray = b""

    @property
    def literal(self) -> int:
        """How many bytes come from no source."""
        return len(self.data) - sum(cover.length for cover in self.covers)


def match(
    new: memoryview, base: tuple[int, memoryview] | None, known: Mapping[bytes, Source], available: Available | None
) -> Match:
    """Find how to carry the content `new`, building on base entry (number, content) and on `known` contents.

    With `available` compressed parts are carried by what they hold, where a compressor makes them again.
    """
    repacked = _repacked(new, available) if available is not None else None
    if repacked is not None:
        found = _against(repacked.data, _unpacked(base) if base else None, known)
        if found.covers:
            return replace(found, members=repacked.members, encoders=repacked.encoders)
    return _against(new, (Source(BASE, base[0]), base[1]) if base else None, known)


def _repacked(new: memoryview, available: Available) -> Match | None:
    """The content with those parts unpacked that a compressor makes again; None if there are none."""
    made: list[Part] = []
    encoders: list[str] = []
    for part in find_parts(new):
        encoder = maker(part, new, available)
        if encoder is not None:
            made.append(part)
            encoders.append(encoder)
    if not 0 < len(made) <= MEMBERS_MAX:
        return None
    data, members = unpacked(new, made)
    return Match(data, members=members, encoders=tuple(encoders))


def _unpacked(base: tuple[int, memoryview]) -> tuple[Source, memoryview]:
    """A base file with its packed parts unpacked, as a source."""
    number, old = base
    parts = find_parts(old)
    if not 0 < len(parts) <= MEMBERS_MAX:
        return Source(BASE, number), old
    content, members = unpacked(old, parts)
    return Source(UNPACKED, number, members), content


def _against(new: memoryview, base: tuple[Source, memoryview] | None, known: Mapping[bytes, Source]) -> Match:
    """Cover `new` by a base file, and by known contents that it holds as an archive."""
    space = _Space()
    if base is not None:
        space.add(*base)
    inside = _known_members(new, known, space)
    old_inside = _known_members(space.contents[0], known, None) if inside and base is not None else []
    covers = _covers(new, inside, space, old_inside)
    differences = differences_of(covers, space.read, new)
    if not worthwhile(covers, differences, new):
        return Match(new)
    sources, covers = space.used(covers)
    return Match(new, sources, tuple(covers), differences=differences)


class _Space:
    """The sources of a content, laid end to end."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.contents: list[memoryview] = []
        self.starts = [0]

    def add(self, source: Source, content: memoryview) -> int:
        """Lay one more source behind the others; where it starts."""
        self.sources.append(source)
        self.contents.append(content)
        self.starts.append(self.starts[-1] + len(content))
        return self.starts[-2]

    def read(self, offset: int, length: int) -> bytes:
        """A run of bytes inside one source."""
        number = bisect_right(self.starts, offset, hi=len(self.sources)) - 1
        start = offset - self.starts[number]
        return bytes(self.contents[number][start : start + length])

    def used(self, covers: Sequence[Cover]) -> tuple[tuple[Source, ...], list[Cover]]:
        """The sources that covers use, and the covers as they are with only these."""
        numbers = [bisect_right(self.starts, cover.old, hi=len(self.sources)) - 1 for cover in covers]
        kept = sorted(set(numbers))
        starts = dict(zip(kept, [0, *accumulate(len(self.contents[n]) for n in kept)], strict=False))
        return (
            tuple(self.sources[n] for n in kept),
            [c._replace(old=c.old - self.starts[n] + starts[n]) for c, n in zip(covers, numbers, strict=True)],
        )


def _known_members(data: memoryview, known: Mapping[bytes, Source], space: _Space | None) -> list[Cover]:
    """The files in an archive that are known, as exact covers; their sources are laid into `space`."""
    found = []
    placed: dict[bytes, int] = {}
    for start, size in archive.members(data):
        if size < SMALLEST_MEMBER:
            continue
        digest = hashlib.sha256(data[start : start + size]).digest()
        source = known.get(digest)
        if source is None:
            continue
        if space is not None and digest not in placed:
            placed[digest] = space.add(source, data[start : start + size])
        found.append(Cover(start, placed.get(digest, 0), size, True))
    return found


def _covers(new: memoryview, inside: list[Cover], space: _Space, old_inside: list[Cover]) -> list[Cover]:
    """The covers by known members, and in between those by what of the base file is not known anyway."""
    if not space.contents or space.sources[0].kind == CONTENT:
        return inside
    old = space.contents[0]
    if not inside:
        return find_covers(old, new)
    rest, rest_starts = _carved(new, inside)
    old_rest, old_starts = _carved(old, old_inside)
    between = []
    for cover in find_covers(memoryview(old_rest), memoryview(rest)):
        between += _placed(cover, rest_starts, old_starts)
    return sorted(inside + between)


def _carved(data: memoryview, covers: Sequence[Cover]) -> tuple[bytes, list[tuple[int, int]]]:
    """What of `data` is in no cover, and for each piece (where it starts in the result, where in `data`)."""
    pieces, starts = [], []
    end = size = 0
    for start, stop in [*((cover.new, cover.new + cover.length) for cover in covers), (len(data), len(data))]:
        if start > end:
            starts.append((size, end))
            pieces.append(data[end:start])
            size += start - end
        end = stop
    return b"".join(pieces), starts


def _placed(cover: Cover, new: list[tuple[int, int]], old: list[tuple[int, int]]) -> list[Cover]:
    """A cover between two carved contents, as covers between the whole ones."""
    found = []
    done = 0
    while done < cover.length:
        (new_start, new_at), new_room = _piece(new, cover.new + done)
        (old_start, old_at), old_room = _piece(old, cover.old + done)
        length = min(cover.length - done, new_room, old_room)
        found.append(
            Cover(cover.new + done - new_start + new_at, cover.old + done - old_start + old_at, length, cover.exact)
        )
        done += length
    return found


def _piece(starts: list[tuple[int, int]], position: int) -> tuple[tuple[int, int], int]:
    """The piece that holds a position, and how far it goes on from there."""
    n = bisect_right(starts, (position, 1 << 62)) - 1
    room = starts[n + 1][0] - position if n + 1 < len(starts) else 1 << 62
    return starts[n], room
