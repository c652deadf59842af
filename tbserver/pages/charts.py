"""Bars, and areas over time: where each part of them is. Pure."""

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


@dataclass(frozen=True)
class Area:
    """One layer of a picture of 100 by 100: its name, and the corners of its outline as SVG takes them."""

    name: str
    points: str


def areas(times: Sequence[int], layers: Sequence[tuple[str, Sequence[int]]]) -> list[Area]:
    """Layers that stand on each other, the first at the bottom: how many of each there were at each of the times."""
    if len(times) < 2 or times[-1] <= times[0]:
        return []
    across = [round(100 * (time - times[0]) / (times[-1] - times[0]), 2) for time in times]
    most = max(sum(counts[n] for _, counts in layers) for n in range(len(times))) or 1
    floor = [0] * len(times)
    found = []
    for name, counts in layers:
        ceiling = [below + count for below, count in zip(floor, counts, strict=True)]
        if any(counts):
            there = [(x, high) for x, high in zip(across, ceiling, strict=True)]
            back = [(x, low) for x, low in zip(across, floor, strict=True)][::-1]
            found.append(Area(name, " ".join(f"{x:g},{100 - 100 * y / most:.2f}" for x, y in there + back)))
        floor = ceiling
    return found


def percent(part: int, whole: int) -> str:
    """A part in percent, never rounded to none or to all."""
    if part in (0, whole):
        return "100 %" if part else "0 %"
    return f"{min(max(round(100 * part / whole), 1), 99)} %"
