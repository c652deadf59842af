"""What a delta changes, in the words of a person (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tbdiff.compare import compare
from tbdiff.entry import Entry, Kind, Listing, join
from tbdiff.operation import Field, Ref, TreeDelta

KINDS = {
    Kind.DIRECTORY: "directory",
    Kind.FILE: "file",
    Kind.HARDLINK: "hard link",
    Kind.SYMLINK: "symlink",
    Kind.FIFO: "fifo",
    Kind.CHAR: "character device",
    Kind.BLOCK: "block device",
}
ASPECTS = {
    Field.CONTENT: "content",
    Field.MODE: "mode",
    Field.UID: "owner",
    Field.GID: "group",
    Field.MTIME: "time",
    Field.XATTRS: "attributes",
    Field.EXTENTS: "holes",
}

NameOf = Callable[[int], bytes | None]


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `kind` is added, changed, removed or renamed; `path` is where the thing is (or was, if removed).

    `what` says of which sort a new thing is, or what of a changed one differs. `source` is what a renamed thing was
    called, or what an added file is a copy of. `size` in bytes is that of a new content, else None. `path` is None for
    a change of metadata whose name the image does not carry.
    """

    kind: str
    path: bytes | None
    what: tuple[str, ...] = ()
    source: bytes | None = None
    size: int | None = None


def changes(base: Listing, target: Listing) -> list[Change]:
    """All that is different between two listings."""
    return described(compare(base, target), lambda number: base.entries[number].path)


def image_changes(delta: TreeDelta, names: dict[int, bytes]) -> list[Change]:
    """All that an image changes, by the names that it carries (`labels`)."""
    return described(delta, lambda number: names[number].rstrip(b"/") if number in names else None)


def described(delta: TreeDelta, name_of: NameOf) -> list[Change]:
    """The changes that a delta makes, by path."""
    found = list(_Description(delta, name_of).changes())
    return sorted(found, key=lambda change: (change.path is None, change.path or b""))


def stated_contents(delta: TreeDelta, names: dict[int, bytes]) -> list[tuple[bytes | None, Entry]]:
    """The files whose content a delta states, each with its path in the target (None where no label tells it)."""
    told = _Description(delta, lambda number: names[number].rstrip(b"/") if number in names else None)
    found = [
        (told.place(Ref(edit.index)), edit.entry)
        for edit in delta.edits
        if edit.entry.kind is Kind.FILE and edit.fields & Field.CONTENT
    ]
    found += (
        (path, add.entry)
        for path, add in zip(told.added_paths, delta.adds, strict=True)
        if add.entry.kind is Kind.FILE and add.fields & Field.CONTENT
    )
    return found


class _Description:
    """A delta being put into words."""

    def __init__(self, delta: TreeDelta, name_of: NameOf) -> None:
        self.delta = delta
        self.name_of = name_of
        self.added_paths: list[bytes | None] = []
        self.moves: dict[bytes, bytes] = {}
        for add in delta.adds:
            above = self.place(add.parent)
            path = join(above, add.entry.path) if above is not None else None
            self.added_paths.append(path)
            source = name_of(add.source) if add.source is not None else None
            if add.entry.kind is Kind.DIRECTORY and source is not None and path is not None:
                self.moves[source] = path

    def place(self, ref: Ref) -> bytes | None:
        """Where what `ref` means is in the target."""
        if ref.added:
            # The root of a full image is its own parent.
            return self.added_paths[ref.index] if ref.index < len(self.added_paths) else b""
        if not ref.index:
            return b""
        name = self.name_of(ref.index)
        return None if name is None else self._moved(name)

    def _moved(self, path: bytes) -> bytes:
        """Where something of the base is in the target, by the directories above it that moved."""
        above = path
        while above:
            if above in self.moves:
                return self.moves[above] + path[len(above) :]
            above = above.rpartition(b"/")[0]
        return path

    def changes(self) -> Iterator[Change]:
        """One by one, in no order."""
        gone = {number: self.name_of(number) for number in self.delta.removed}
        replaced = set(gone.values()) & set(self.added_paths)
        for n, add in enumerate(self.delta.adds):
            yield self._added(self.added_paths[n], add.entry, add.fields, add.source, gone, replaced)
        for edit in self.delta.edits:
            name = self.name_of(edit.index)
            path = self._moved(name) if name is not None else None
            yield Change("changed", path, aspects(edit.fields, edit.entry.kind), size=_size(edit.entry, edit.fields))
        yield from (Change("removed", name) for name in gone.values() if name not in replaced)

    def _added(
        self,
        path: bytes | None,
        entry: Entry,
        fields: Field,
        source: int | None,
        gone: dict[int, bytes | None],
        replaced: set[bytes | None],
    ) -> Change:
        size = _size(entry, fields)
        if source is not None:
            name = self.name_of(source)
            if entry.kind is Kind.DIRECTORY or source in gone:
                gone.pop(source, None)
                return Change("renamed", path, aspects(fields, entry.kind), name, size)
            return Change("added", path, ("copy",), name)
        if path in replaced:
            return Change("changed", path, ("replaced by a " + KINDS[entry.kind],), size=size)
        return Change("added", path, (KINDS[entry.kind],), size=size)


def _size(entry: Entry, fields: Field) -> int | None:
    return entry.size if entry.kind is Kind.FILE and fields & Field.CONTENT else None


def aspects(fields: Field, kind: Kind) -> tuple[str, ...]:
    """What of a thing differs, in words."""
    words = (word for field, word in ASPECTS.items() if fields & field)
    if kind is Kind.SYMLINK:
        words = ("target" if word == "content" else word for word in words)
    return tuple(words)
