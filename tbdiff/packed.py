"""Many entries in little memory: kept in columns, each made again when it is asked for."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from tbdiff.entry import Entry, Kind

# What an entry has but rarely: link, rdev, xattrs, extents.
NOTHING_RARE: tuple[Any, ...] = (b"", (0, 0), (), None)
TIME_MAX = 2**63 - 1


T = TypeVar("T")


class PackedItems(Sequence[T]):
    """Items that are made when they are asked for."""

    __slots__ = ()

    @abstractmethod
    def item(self, number: int) -> T:
        """The item with this number."""

    @overload
    def __getitem__(self, number: int) -> T: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[T]: ...

    def __getitem__(self, number: int | slice) -> T | Sequence[T]:
        if isinstance(number, slice):
            return [self.item(n) for n in range(*number.indices(len(self)))]
        return self.item(number + len(self) if number < 0 else number)

    def __iter__(self) -> Iterator[T]:
        return map(self.item, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # like a list, it is compared by what it holds


class PackedEntries(PackedItems["Entry"]):
    """Entries by position. An entry is some 350 bytes as an object; packed it is its path and 60 bytes more."""

    __slots__ = ("_digests", "_gids", "_make", "_modes", "_rare", "_times", "_uids", "kinds", "paths", "sizes")

    def __init__(self, make: type[Entry], entries: Iterable[Entry]) -> None:
        self._make = make
        self.paths: list[bytes] = []
        self.kinds: list[Kind] = []
        self.sizes = array("Q")
        self._modes = array("H")
        self._uids, self._gids = array("I"), array("I")
        self._times = array("q")
        self._digests = bytearray()
        self._rare: dict[int, tuple[Any, ...]] = {}
        for entry in entries:
            self._append(entry)

    def _append(self, entry: Entry) -> None:
        rare: tuple[Any, ...] = (entry.link, entry.rdev, entry.xattrs, entry.extents)
        time = entry.mtime
        if abs(time) > TIME_MAX:
            # Beyond the year 2262 nanoseconds outgrow the column.
            rare, time = (*rare, time), 0
        if rare != NOTHING_RARE:
            self._rare[len(self.paths)] = rare
        self.paths.append(entry.path)
        self.kinds.append(entry.kind)
        self.sizes.append(entry.size)
        self._modes.append(entry.mode)
        self._uids.append(entry.uid)
        self._gids.append(entry.gid)
        self._times.append(time)
        self._digests += entry.digest or bytes(32)

    def __len__(self) -> int:
        return len(self.paths)

    def digest(self, number: int) -> bytes:
        """The digest of a file's content; empty for what is no file, or was not read."""
        found = bytes(self._digests[32 * number : 32 * number + 32])
        return found if any(found) else b""

    def item(self, number: int) -> Entry:
        """The entry with this number."""
        path = self.paths[number]
        link, rdev, xattrs, extents, *time = self._rare.get(number, NOTHING_RARE)
        return self._make(
            path,
            self.kinds[number],
            self._modes[number],
            self._uids[number],
            self._gids[number],
            time[0] if time else self._times[number],
            self.sizes[number],
            self.digest(number),
            link,
            rdev,
            xattrs,
            extents,
        )
