"""The listing that a delta makes of its base (pure; the inverse of `compare`, and hostile-proof)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tbdiff.entry import Entry, Kind, Listing, check_name, check_path, join, parents, printable
from tbdiff.errors import Rejected
from tbdiff.operation import RELEVANT, Field, Ref, TreeDelta


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The target's listing, and where in it the delta's own entries are."""

    target: Listing
    places: Mapping[Ref, int]


def rebuild(base: Listing, delta: TreeDelta) -> Rebuilt:
    """Make of `base` the listing that `delta` leads to; Rejected where the two do not fit or the result is no tree."""
    return _Rebuild(base, delta).result()


def from_nothing(target: Listing) -> Rebuilt:
    """What `rebuild` would make of the delta from nothing to `target`: the target, which is at hand."""
    return Rebuilt(target, _EachInItsPlace(len(target)))


class _EachInItsPlace(Mapping[Ref, int]):
    """Where all entries are added in the target's order, an entry's number is its place."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __getitem__(self, ref: Ref) -> int:
        if not ref.added or ref.index >= self._size:
            raise KeyError(ref)
        return ref.index

    def __iter__(self) -> Iterator[Ref]:
        return (Ref(n, added=True) for n in range(self._size))

    def __len__(self) -> int:
        return self._size


class _Rebuild:
    """The target tree under construction: what each directory holds, by the delta's own references."""

    def __init__(self, base: Listing, delta: TreeDelta) -> None:
        self.base = base
        self.delta = delta
        self.removed = set(delta.removed)
        self.edits = {edit.index: edit for edit in delta.edits}
        self.moved = {
            add.source: n
            for n, add in enumerate(delta.adds)
            if add.entry.kind is Kind.DIRECTORY and add.source is not None
        }
        self.entries: list[Entry] = []
        self.places: dict[Ref, int] = {}
        self.links: list[tuple[int, Ref]] = []
        self.wanted = {Ref(n, added=True) for n in range(len(delta.adds))}
        self.wanted.update(Ref(n) for n in self.edits)
        self.wanted.update(Ref(base.index[e.link]) for e in base.entries if e.kind is Kind.HARDLINK)
        self.wanted.update(edit.link for edit in delta.edits if edit.link is not None)
        self.wanted.update(add.link for add in delta.adds if add.link is not None)
        self._check_references()
        self.children: dict[Ref, list[Ref]] = {}
        up = parents(base)
        for n in range(1, len(base.entries)):
            if n not in self.removed and n not in self.moved:
                self.children.setdefault(Ref(up[n]), []).append(Ref(n))
        for n, add in enumerate(delta.adds):
            if base.entries or n:
                self.children.setdefault(add.parent, []).append(Ref(n, added=True))

    def _check_references(self) -> None:
        size, count = len(self.base.entries), len(self.delta.adds)
        if any(not 0 < n < size for n in self.removed):
            raise Rejected("the image removes an entry that its base does not have")
        if any(not 0 <= n < size for n in self.edits):
            raise Rejected("the image edits an entry that its base does not have")
        if any(add.source is not None and not 0 < add.source < size for add in self.delta.adds):
            raise Rejected("the image takes over an entry that its base does not have")
        sources = [a.source for a in self.delta.adds if a.entry.kind is Kind.DIRECTORY and a.source is not None]
        if len(sources) != len(self.moved):
            # Moved into itself, it would never end.
            raise Rejected("the image moves one directory to two places")
        for n, add in enumerate(self.delta.adds):
            if size or n:
                check_name(add.entry.path)
        refs = [edit.link for edit in self.delta.edits if edit.link]
        refs += [add.link for add in self.delta.adds if add.link]
        refs += [add.parent for add in self.delta.adds]
        if any(not 0 <= ref.index < (count if ref.added else size) for ref in refs):
            raise Rejected("the image refers to an entry that is not there")
        if not size and not (count and self.delta.adds[0].entry.kind is Kind.DIRECTORY):
            raise Rejected("the image does not begin with a root directory")

    def result(self) -> Rebuilt:
        """Descend from the root; what is not reached from it was referred to in a circle."""
        stack: list[tuple[Ref, bytes]] = [(Ref(0, added=not self.base.entries), b"")]
        while stack:
            ref, path = stack.pop()
            self._place(ref, path)
            files: list[tuple[bytes, Ref]] = []
            directories: list[tuple[bytes, Ref]] = []
            for child in self.children.get(self._identity(ref), ()):
                (directories if self._kind(child) is Kind.DIRECTORY else files).append((self._name(child), child))
            files.sort(key=_by_name)
            directories.sort(key=_by_name, reverse=True)
            names = {name for name, _ in files} | {name for name, _ in directories}
            if len(names) != len(files) + len(directories):
                raise Rejected(f"the image makes two entries of one name in {printable(path or b'/')!r}")
            for name, child in files:
                self._place(child, join(path, name))
            stack.extend((child, join(path, name)) for name, child in directories)
        expected = sum(len(held) for held in self.children.values()) + 1
        if len(self.entries) != expected - self._below_removed():
            raise Rejected("the image makes entries in a directory that is not in the tree")
        self._resolve_links()
        return Rebuilt(Listing(self.entries), self.places)

    def _resolve_links(self) -> None:
        for position, ref in self.links:
            first = self.places.get(ref)
            if first is None or self.entries[first].kind in (Kind.DIRECTORY, Kind.HARDLINK):
                raise Rejected("the image links to a file that is not in the tree")
            if first > position:
                raise Rejected("the image links to a name that comes later in the tree")
            if self.entries[position].link != self.entries[first].path:
                self.entries[position] = replace(self.entries[position], link=self.entries[first].path)

    def _below_removed(self) -> int:
        """How many base entries go because a directory above them goes."""
        lost: set[int] = set(self.removed)
        count = 0
        for n, up in enumerate(parents(self.base)):
            if n and n not in lost and n not in self.moved and up in lost:
                lost.add(n)
                count += 1
        return count

    def _identity(self, ref: Ref) -> Ref:
        """What a directory's children call it: a moved directory goes by its base number."""
        if ref.added:
            source = self.delta.adds[ref.index].source
            if source is not None:
                return Ref(source)
        return ref

    def _kind(self, ref: Ref) -> Kind:
        return (self.delta.adds[ref.index].entry if ref.added else self.base.entries[ref.index]).kind

    def _name(self, ref: Ref) -> bytes:
        return self.delta.adds[ref.index].entry.path if ref.added else self.base.entries[ref.index].name

    def _place(self, ref: Ref, path: bytes) -> None:
        """Append the entry that `ref` means, at `path`."""
        if ref.added:
            add = self.delta.adds[ref.index]
            if path:
                check_path(path)
            source = self.base.entries[add.source] if add.source is not None else None
            entry, link = merged(source, add.entry, add.fields, path), add.link
        else:
            kept, edit = self.base.entries[ref.index], self.edits.get(ref.index)
            link = Ref(self.base.index[kept.link]) if kept.kind is Kind.HARDLINK else None
            if edit is not None:
                entry, link = merged(kept, edit.entry, edit.fields, path), edit.link or link
            else:
                entry = kept if kept.path == path else replace(kept, path=path)
        if entry.extents and sum(entry.extents[-1]) > entry.size:
            raise Rejected(f"the image gives {printable(path)!r} parts beyond its end")
        if ref in self.wanted:
            self.places[ref] = len(self.entries)
        if entry.kind is Kind.HARDLINK:
            if link is None:
                raise Rejected("the image has a hard link to nothing")
            self.links.append((len(self.entries), link))
        self.entries.append(entry)


def _by_name(pair: tuple[bytes, Ref]) -> bytes:
    return pair[0]


def merged(old: Entry | None, stated: Entry, fields: Field, path: bytes) -> Entry:
    """The entry at `path` that has the stated fields, and the others from `old`."""
    if old is None:
        if fields != RELEVANT[stated.kind]:
            raise Rejected("the image leaves out fields of an entry that is in no base")
        return replace(stated, path=path)
    if old.kind is not stated.kind:
        raise Rejected("the image takes an entry for one of another kind")
    return Entry(
        path=path,
        kind=old.kind,
        mode=stated.mode if fields & Field.MODE else old.mode,
        uid=stated.uid if fields & Field.UID else old.uid,
        gid=stated.gid if fields & Field.GID else old.gid,
        mtime=stated.mtime if fields & Field.MTIME else old.mtime,
        size=stated.size if fields & Field.CONTENT else old.size,
        digest=stated.digest if fields & Field.CONTENT else old.digest,
        link=stated.link if fields & Field.CONTENT else old.link,
        rdev=stated.rdev if fields & Field.CONTENT else old.rdev,
        xattrs=stated.xattrs if fields & Field.XATTRS else old.xattrs,
        extents=stated.extents if fields & Field.EXTENTS else old.extents,
    )
