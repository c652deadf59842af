"""Which file of the base a new content most likely grew out of (pure)."""

from __future__ import annotations

from tbdiff.entry import Entry, Kind, Listing, numberless
from tbdiff.operation import TreeDelta
from tbdiff.rebuild import Rebuilt


class Pairing:
    """The base file for each new content: the one in its place, else one whose path differs in numbers only."""

    def __init__(self, base: Listing, delta: TreeDelta, rebuilt: Rebuilt) -> None:
        self._base = base
        self._in_place = {
            rebuilt.target.entries.paths[place]: index
            for index, place in zip(delta.edits.indices, rebuilt.edited, strict=True)
        }
        self._alike: dict[bytes, int] = {}
        entries = base.entries
        for n, (path, kind, size) in enumerate(zip(entries.paths, entries.kinds, entries.sizes, strict=True)):
            if kind is Kind.FILE and size:
                self._alike.setdefault(numberless(path), n)

    def source(self, entry: Entry) -> int | None:
        """The number of the base entry to build on, if there is a likely one."""
        for number in (
            self._in_place.get(entry.path),
            self._base.index.get(entry.path),
            self._alike.get(numberless(entry.path)),
        ):
            if number is not None and self._base.entries[number].kind is Kind.FILE and self._base.entries[number].size:
                return number
        return None
