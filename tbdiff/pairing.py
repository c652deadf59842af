"""Which file of the base a new content most likely grew out of (pure)."""

from __future__ import annotations

import os
from bisect import bisect
from collections.abc import Callable, Iterator

from tbdiff.entry import Entry, Kind, Listing, numberless
from tbdiff.operation import TreeDelta
from tbdiff.rebuild import Rebuilt

# So many neighbours by name are looked at on either side: what is alike stands together when names are sorted.
NEIGHBOURS = 4

Groups = dict[bytes, list[tuple[bytes, int]]]


class Pairing:
    """The base file for each new content.

    That is the one in its place; else one whose path differs in numbers only; else one of that name elsewhere. Of
    several the one is taken that is no more, that has the most of the path in common, and about the same size.
    """

    def __init__(self, base: Listing, delta: TreeDelta, rebuilt: Rebuilt) -> None:
        self._base = base
        self._target = rebuilt.target
        self._in_place = {
            rebuilt.target.entries.paths[place]: index
            for index, place in zip(delta.edits.indices, rebuilt.edited, strict=True)
        }
        self._by_path, self._by_name = self._grouped(numberless), self._grouped(_name)

    def _grouped(self, key: Callable[[bytes], bytes]) -> Groups:
        groups: Groups = {}
        entries = self._base.entries
        for n, (path, kind, size) in enumerate(zip(entries.paths, entries.kinds, entries.sizes, strict=True)):
            if kind is Kind.FILE and size:
                groups.setdefault(key(path), []).append((path, n))
        for group in groups.values():
            group.sort()
        return groups

    def source(self, entry: Entry) -> int | None:
        """The number of the base entry to build on, if there is a likely one."""
        for number in (self._in_place.get(entry.path), self._base.index.get(entry.path)):
            if (
                number is not None
                and self._base.entries.kinds[number] is Kind.FILE
                and self._base.entries.sizes[number]
            ):
                return number
        for group in (self._by_path.get(numberless(entry.path)), self._by_name.get(_name(entry.path))):
            if group:
                return self._likeliest(group, entry)
        return None

    def gone(self) -> Iterator[int]:
        """The base files, by number, whose path is no more in the target."""
        entries = self._base.entries
        for n, (path, kind) in enumerate(zip(entries.paths, entries.kinds, strict=True)):
            if kind is Kind.FILE and path not in self._target.index:
                yield n

    def _likeliest(self, group: list[tuple[bytes, int]], entry: Entry) -> int:
        at = bisect(group, (entry.path, 0))

        def likelihood(candidate: tuple[bytes, int]) -> tuple[bool, int, int]:
            path, number = candidate
            gone = path not in self._target.index
            return (
                gone,
                len(os.path.commonprefix((path, entry.path))),  # noqa: RUF071 - characters are what counts
                -abs(self._base.entries.sizes[number] - entry.size),
            )

        return max(group[max(0, at - NEIGHBOURS) : at + NEIGHBOURS], key=likelihood)[1]


def _name(path: bytes) -> bytes:
    return numberless(path.rpartition(b"/")[2])
