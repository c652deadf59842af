"""Bars: how wide each part of them is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A part that is there at all is seen, however few it stands for.
LEAST = 0.6


@dataclass(frozen=True)
class Part:
    """One part of a bar of the width 100: what it stands for, how many, from where, how wide."""

    name: str
    count: int
    begin: float
    width: float


def bar(counts: Sequence[tuple[str, int]]) -> list[Part]:
    """The parts of a bar, in the order given; what there is none of has none."""
    there = [(name, count) for name, count in counts if count > 0]
    total = sum(count for _, count in there)
    wide = [max(100 * count / total, LEAST) for _, count in there]
    scale, begin, parts = 100 / (sum(wide) or 1), 0.0, []
    for (name, count), width in zip(there, wide, strict=True):
        parts.append(Part(name, count, round(begin, 3), round(width * scale, 3)))
        begin += width * scale
    return parts


def percent(part: int, whole: int) -> str:
    """A part in percent, never rounded to none or to all."""
    if part in (0, whole):
        return "100 %" if part else "0 %"
    return f"{min(max(round(100 * part / whole), 1), 99)} %"
