"""Two changes of one text put together, line by line (pure)."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher

# Finding the differences of texts that repeat one line very often takes long: of those whole files are kept.
WORK_MAX = 4_000_000

# Lines `start` to `end` of the base become `lines`.
Change = tuple[int, int, list[bytes]]


def merge(base: bytes, ours: bytes, theirs: bytes) -> bytes | None:
    """`base` with both changes; None where they touch the same or neighbouring lines, or one is no text."""
    if ours in (base, theirs):
        return theirs
    if theirs == base:
        return ours
    if not all(map(_is_text, (base, ours, theirs))):
        return None
    old = _split(base)
    mine, other = _changes(old, _split(ours)), _changes(old, _split(theirs))
    return None if mine is None or other is None else _combined(old, mine, other)


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def _split(content: bytes) -> list[bytes]:
    """Lines with their ends; only a line feed ends one."""
    lines = content.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


def _changes(old: list[bytes], new: list[bytes]) -> list[Change] | None:
    """What differs, in order; None where that would take too long to find."""
    counts = Counter(new)
    if sum(counts[line] for line in old) > WORK_MAX:
        return None
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    return [(a, b, new[c:d]) for kind, a, b, c, d in matcher.get_opcodes() if kind != "equal"]


def _combined(old: list[bytes], ours: list[Change], theirs: list[Change]) -> bytes | None:
    merged: list[bytes] = []
    done = 0
    while ours or theirs:
        start = min(side[0][0] for side in (ours, theirs) if side)
        end = start
        mine: list[Change] = []
        other: list[Change] = []
        # All changes that overlap or touch, from both sides by turns.
        grown = True
        while grown:
            grown = False
            for side, taken in ((ours, mine), (theirs, other)):
                while side and side[0][0] <= end:
                    taken.append(side.pop(0))
                    end = max(end, taken[-1][1])
                    grown = True
        merged += old[done:start]
        done = end
        here, there = _applied(old, start, end, mine), _applied(old, start, end, other)
        if mine and other and here != there:
            return None
        merged += here if mine else there
    return b"".join(merged + old[done:])


def _applied(old: list[bytes], start: int, end: int, changes: list[Change]) -> list[bytes]:
    """Lines `start` to `end` of the base, changed."""
    found: list[bytes] = []
    for first, behind, lines in changes:
        found += old[start:first] + lines
        start = behind
    return found + old[start:end]
