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
NO_DIGEST = bytes(32)
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
        return found if found != NO_DIGEST else b""

    def alike(self, number: int, other: PackedEntries, place: int) -> bool:
        """Whether an entry is the same as one of `other` in all but its path."""
        return (
            self.kinds[number] is other.kinds[place]
            and self._times[number] == other._times[place]
            and self.sizes[number] == other.sizes[place]
            and self._modes[number] == other._modes[place]
            and self._uids[number] == other._uids[place]
            and self._gids[number] == other._gids[place]
            and self._rare.get(number) == other._rare.get(place)
            and self._digests[32 * number : 32 * number + 32] == other._digests[32 * place : 32 * place + 32]
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedEntries):
            return super().__eq__(other)
        return self._columns() == other._columns()

    __hash__ = None

    def _columns(self) -> tuple[object, ...]:
        numbers = (self.sizes, self._modes, self._uids, self._gids, self._times)
        return (self.paths, self.kinds, self._digests, self._rare, *numbers)

    def item(self, number: int) -> Entry:
        """The entry with this number."""
        path = self.paths[number]
        rare = self._rare.get(number, ())
        # Its last field, if it is there, is a time that the column cannot hold.
        time = rare[4] if len(rare) > 4 else self._times[number]
        return self._make(
            path,
            self.kinds[number],
            self._modes[number],
            self._uids[number],
            self._gids[number],
            time,
            self.sizes[number],
            self.digest(number),
            *rare[:4],
        )
