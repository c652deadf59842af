"""Which of some contents another one has most in common with (pure): told by a sample of what is between line feeds."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping

# Programs have line feeds too, at one byte in some hundred.
SHORTEST = 12
# Of many pieces one in so many is looked at: those whose checksum says so, the same ones wherever they stand.
SAMPLED = 8
FEW = 64
# A content is alike if it shares one in so many of its pieces, and not just one or two.
SHARE, LEAST = 5, 3
# What stands in more contents than this tells nothing.
COMMON = 8


def sample(content: bytes) -> set[int]:
    """What a content is told by."""
    pieces = {zlib.crc32(piece) for piece in content.split(b"\n") if len(piece) >= SHORTEST}
    return pieces if len(pieces) <= FEW else {piece for piece in pieces if piece % SAMPLED == 0}


def most_alike(news: Mapping[bytes, set[int]], olds: Iterable[tuple[int, set[int]]]) -> dict[bytes, int]:
    """For each of `news`, by its name, the number of the one of `olds` that shares most with it, if any does."""
    wanted = set().union(*news.values())
    holders: dict[int, list[int]] = {}
    for number, pieces in olds:
        for piece in pieces & wanted:
            holders.setdefault(piece, []).append(number)
    found = {}
    for name, pieces in news.items():
        votes = Counter(n for piece in pieces for n in holders.get(piece, ()) if len(holders[piece]) <= COMMON)
        if votes:
            number, count = min(votes.items(), key=lambda vote: (-vote[1], vote[0]))
            if count >= max(LEAST, len(pieces) // SHARE):
                found[name] = number
    return found
