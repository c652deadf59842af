"""The vocabulary of an image: how a base listing becomes the target listing, and how a new content comes to be."""

from __future__ import annotations

import enum
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from tbdiff.entry import Entry, Kind
from tbdiff.packed import PackedEntries, PackedItems


class Field(enum.IntFlag):
    """What of an entry an image states; the rest stays as in the base. The values are part of the format."""

    MODE = 1
    UID = 2
    GID = 4
    MTIME = 8
    XATTRS = 16
    CONTENT = 32  # size and digest of a file, target of a link, number of a device
    EXTENTS = 64  # where a file's holes are


METADATA = Field.MODE | Field.UID | Field.GID | Field.MTIME | Field.XATTRS
ALL = METADATA | Field.CONTENT | Field.EXTENTS
# What a kind has at all.
RELEVANT = {
    Kind.DIRECTORY: METADATA,
    Kind.FILE: ALL,
    Kind.HARDLINK: Field.CONTENT,
    Kind.SYMLINK: (METADATA & ~Field.MODE) | Field.CONTENT,
    Kind.FIFO: METADATA,
    Kind.CHAR: METADATA | Field.CONTENT,
    Kind.BLOCK: METADATA | Field.CONTENT,
}


@dataclass(frozen=True, slots=True)
class Ref:
    """One entry of the target: number `index` of the base listing, or of the added entries."""

    index: int
    added: bool = False

    @property
    def code(self) -> int:
        """It as one number."""
        return self.index << 1 | self.added

    @staticmethod
    def of_code(code: int) -> Ref:
        """The reference with this code."""
        return Ref(code >> 1, bool(code & 1))


@dataclass(frozen=True, slots=True)
class Edit:
    """Base entry number `index` keeps its place and takes the stated `fields` of `entry`.

    `entry.path` is empty and only the stated fields of `entry` mean something; `link` is the new first name where the
    entry is a further name of a hard-linked inode.
    """

    index: int
    fields: Field
    entry: Entry
    link: Ref | None = None


@dataclass(frozen=True, slots=True)
class Add:
    """A new name in directory `parent`.

    `entry.path` is the bare name. `source` is the base entry that gives the fields that are not stated; a directory
    with a source is that directory, moved, with all that it holds.
    """

    parent: Ref
    entry: Entry
    fields: Field
    source: int | None = None
    link: Ref | None = None


class Edits(PackedItems[Edit]):
    """Many edits in little memory."""

    __slots__ = ("_fields", "_links", "entries", "indices")

    def __init__(self, edits: Iterable[Edit] = ()) -> None:
        self.indices = array("L")
        self._fields = bytearray()
        self._links: dict[int, Ref] = {}
        self.entries = PackedEntries(Entry, map(self._taken, edits))

    def _taken(self, edit: Edit) -> Entry:
        if edit.link is not None:
            self._links[len(self.indices)] = edit.link
        self.indices.append(edit.index)
        self._fields.append(edit.fields)
        return edit.entry

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, number: int) -> Edit:
        """The edit with this number."""
        fields = Field(self._fields[number])
        return Edit(self.indices[number], fields, self.entries[number], self._links.get(number))


class Adds(PackedItems[Add]):
    """Many added entries in little memory."""

    __slots__ = ("_fields", "_links", "_parents", "entries", "sources")

    def __init__(self, adds: Iterable[Add] = ()) -> None:
        self.sources: list[int | None] = []
        self._parents = array("q")
        self._fields = bytearray()
        self._links: dict[int, Ref] = {}
        self.entries = PackedEntries(Entry, map(self._taken, adds))

    def _taken(self, add: Add) -> Entry:
        if add.link is not None:
            self._links[len(self.sources)] = add.link
        self.sources.append(add.source)
        self._parents.append(add.parent.code)
        self._fields.append(add.fields)
        return add.entry

    def __len__(self) -> int:
        return len(self.sources)

    def item(self, number: int) -> Add:
        """The added entry with this number."""
        fields, parent = Field(self._fields[number]), Ref.of_code(self._parents[number])
        return Add(parent, self.entries[number], fields, self.sources[number], self._links.get(number))


@dataclass(init=False, slots=True)
class TreeDelta:
    """All that turns one listing into another; `removed`, `edits` by base index, `adds` in the target's order."""

    removed: tuple[int, ...]
    edits: Edits
    adds: Adds

    def __init__(self, removed: Iterable[int] = (), edits: Iterable[Edit] = (), adds: Iterable[Add] = ()) -> None:
        self.removed = tuple(removed)
        self.edits = Edits(edits)
        self.adds = Adds(adds)

    @property
    def empty(self) -> bool:
        """Whether base and target are the same."""
        return not (self.removed or self.edits or self.adds)
