"""The vocabulary of an image: how a base listing becomes the target listing, and how a new content comes to be."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from tbdiff.entry import Entry, Kind


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


@dataclass(frozen=True, slots=True)
class TreeDelta:
    """All that turns one listing into another; `removed`, `edits` by base index, `adds` in the target's order."""

    removed: tuple[int, ...] = ()
    edits: tuple[Edit, ...] = ()
    adds: tuple[Add, ...] = ()

    def bare(self) -> TreeDelta:
        """The same without what is stated, but which fields are: for who has the target's listing."""
        kinds = {kind: Entry(b"", kind) for kind in Kind}
        return TreeDelta(
            self.removed,
            tuple(replace(edit, entry=kinds[edit.entry.kind]) for edit in self.edits),
            tuple(replace(add, entry=kinds[add.entry.kind]) for add in self.adds),
        )

    @property
    def empty(self) -> bool:
        """Whether base and target are the same."""
        return not (self.removed or self.edits or self.adds)
