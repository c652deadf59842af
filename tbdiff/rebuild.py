"""The listing that a delta makes of its base (pure; the inverse of `compare`, and hostile-proof)."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tbdiff.entry import Entry, Kind, Listing, check_name, check_path, join, parents, printable
from tbdiff.errors import Malformed
from tbdiff.operation import RELEVANT, Field, Ref, TreeDelta

NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The target's listing, and where in it each of the delta's adds and edits is."""

    target: Listing
    added: Sequence[int]
    edited: Sequence[int]


def rebuild(base: Listing, delta: TreeDelta) -> Rebuilt:
    """Make of `base` the listing that `delta` leads to; Rejected where the two do not fit or the result is no tree."""
    return _Rebuild(base, delta).result()


def from_nothing(target: Listing) -> Rebuilt:
    """What `rebuild` would make of the delta from nothing to `target`: the target, which is at hand."""
    return Rebuilt(target, range(len(target)), ())


class _Rebuild:
    """The target tree under construction: what each directory holds, by the delta's own references."""

    def __init__(self, base: Listing, delta: TreeDelta) -> None:
        self.base = base
        self.delta = delta
        self.removed = set(delta.removed)
        self.moved = {
            add.source: n
            for n, add in enumerate(delta.adds)
            if add.entry.kind is Kind.DIRECTORY and add.source is not None
        }
        self.added = array("l", [NOWHERE]) * len(delta.adds)
        self.edited = array("l", [NOWHERE]) * len(delta.edits)
        self.count = 0
        # What further names of an inode link to: its path, once it is placed.
        self.firsts: dict[Ref, bytes | None] = {}
        self._check_references()
        # Arrays, as base and target are in memory too. By position in the base: which edit is of it.
        self.edits = array("l", [NOWHERE]) * len(base)
        for n, index in enumerate(delta.edits.indices):
            self.edits[index] = n
        self.linked = base.positions({entry.link for _, entry in base.of_kind(Kind.HARDLINK)})
        self.firsts.update((Ref(n), None) for n in self.linked.values())
        self.firsts.update((edit.link, None) for edit in delta.edits if edit.link is not None)
        self.firsts.update((add.link, None) for add in delta.adds if add.link is not None)
        self.up = parents(base)
        # By code: the last entry of each directory, and before each the one before it. A moved directory goes by its
        # number in the base.
        self.last: dict[int, int] = {}
        self.before = array("l", [NOWHERE]) * (2 * max(len(base), len(delta.adds)))
        self.held = 0
        for n in range(1, len(base)):
            if n not in self.removed and n not in self.moved:
                self._hold(self.up[n] << 1, n << 1)
        for n, add in enumerate(delta.adds):
            if len(base) or n:
                self._hold(add.parent.code, n << 1 | 1)

    def _hold(self, directory: int, child: int) -> None:
        self.before[child] = self.last.get(directory, NOWHERE)
        self.last[directory] = child
        self.held += 1

    def _children(self, directory: int) -> Iterator[int]:
        child = self.last.get(directory, NOWHERE)
        while child != NOWHERE:
            yield child
            child = self.before[child]

    def _check_references(self) -> None:
        size, count = len(self.base.entries), len(self.delta.adds)
        if any(not 0 < n < size for n in self.removed):
            raise Malformed("the image removes an entry that its base does not have")
        edited = self.delta.edits.indices
        if any(not 0 <= n < size for n in edited):
            raise Malformed("the image edits an entry that its base does not have")
        if any(n in self.removed for n in self.moved):
            raise Malformed("the image both removes and moves a directory")
        if any(not edit.fields for edit in self.delta.edits) or any(
            n in self.removed or n in self.moved for n in edited
        ):
            raise Malformed("the image edits what it removes or moves, or edits nothing")
        if any(source is not None and not 0 < source < size for source in self.delta.adds.sources):
            raise Malformed("the image takes over an entry that its base does not have")
        sources = [a.source for a in self.delta.adds if a.entry.kind is Kind.DIRECTORY and a.source is not None]
        if len(sources) != len(self.moved):
            # Moved into itself, it would never end.
            raise Malformed("the image moves one directory to two places")
        for name in self.delta.adds.entries.paths[0 if size else 1 :]:
            check_name(name)
        refs = [edit.link for edit in self.delta.edits if edit.link]
        refs += [add.link for add in self.delta.adds if add.link]
        refs += [add.parent for add in self.delta.adds]
        if any(not 0 <= ref.index < (count if ref.added else size) for ref in refs):
            raise Malformed("the image refers to an entry that is not there")
        if not size and not (count and self.delta.adds.entries.kinds[0] is Kind.DIRECTORY):
            raise Malformed("the image does not begin with a root directory")

    def result(self) -> Rebuilt:
        """Descend from the root; what is not reached from it was referred to in a circle."""
        return Rebuilt(Listing(self._entries()), self.added, self.edited)

    def _entries(self) -> Iterator[Entry]:
        stack: list[tuple[int, bytes]] = [(0 if len(self.base) else 1, b"")]
        while stack:
            number, path = stack.pop()
            yield self._placed(number, path)
            files: list[tuple[bytes, int]] = []
            directories: list[tuple[bytes, int]] = []
            for child in self._children(self._identity(number)):
                (directories if self._kind(child) is Kind.DIRECTORY else files).append((self._name(child), child))
            files.sort(key=_by_name)
            directories.sort(key=_by_name, reverse=True)
            names = {name for name, _ in files} | {name for name, _ in directories}
            if len(names) != len(files) + len(directories):
                raise Malformed(f"the image makes two entries of one name in {printable(path or b'/')!r}")
            for name, child in files:
                yield self._placed(child, join(path, name))
            stack.extend((child, join(path, name)) for name, child in directories)
        if self.count != self.held + 1 - self._below_removed() or NOWHERE in self.added or NOWHERE in self.edited:
            raise Malformed("the image makes or edits entries in a directory that is not in the tree")
        if any(one > other for one, other in pairwise(self.added)):
            raise Malformed("the image does not add entries in the tree's order")

    def _below_removed(self) -> int:
        """How many base entries go because a directory above them goes."""
        lost: set[int] = set(self.removed)
        count = 0
        for n, up in enumerate(self.up):
            if n and n not in lost and n not in self.moved and up in lost:
                lost.add(n)
                count += 1
        return count

    def _identity(self, number: int) -> int:
        """What a directory's children call it."""
        if number & 1:
            source = self.delta.adds.sources[number >> 1]
            if source is not None:
                return source << 1
        return number

    def _kind(self, number: int) -> Kind:
        return self.delta.adds.entries.kinds[number >> 1] if number & 1 else self.base.entries.kinds[number >> 1]

    def _name(self, number: int) -> bytes:
        if number & 1:
            return self.delta.adds.entries.paths[number >> 1]
        return self.base.entries.paths[number >> 1].rpartition(b"/")[2]

    def _placed(self, number: int, path: bytes) -> Entry:
        """The entry with this code, at `path`."""
        ref = Ref.of_code(number)
        if ref.added:
            add = self.delta.adds[ref.index]
            if path:
                check_path(path)
            source = self.base.entries[add.source] if add.source is not None else None
            entry, link = merged(source, add.entry, add.fields, path), add.link
            self.added[ref.index] = self.count
        else:
            kept, stated = self.base.entries[ref.index], self.edits[ref.index]
            link = Ref(self.linked[kept.link]) if kept.kind is Kind.HARDLINK else None
            # One and the same path in memory, where it is that of the base.
            path = kept.path if kept.path == path else path
            if stated != NOWHERE:
                edit = self.delta.edits[stated]
                entry, link = merged(kept, edit.entry, edit.fields, path), edit.link or link
                self.edited[stated] = self.count
            else:
                entry = kept if kept.path is path else kept._replace(path=path)
        if entry.extents and sum(entry.extents[-1]) > entry.size:
            raise Malformed(f"the image gives {printable(path)!r} parts beyond its end")
        self.count += 1
        if entry.kind is Kind.HARDLINK:
            first = self.firsts.get(link) if link is not None else None
            if first is None:
                raise Malformed(f"the image links {printable(path)!r} to no file that is before it in the tree")
            return entry if entry.link == first else entry._replace(link=first)
        if ref in self.firsts and entry.kind is not Kind.DIRECTORY:
            self.firsts[ref] = path
        return entry


def _by_name(pair: tuple[bytes, int]) -> bytes:
    return pair[0]


def merged(old: Entry | None, stated: Entry, fields: Field, path: bytes) -> Entry:
    """The entry at `path` that has the stated fields, and the others from `old`."""
    if old is None:
        if fields != RELEVANT[stated.kind]:
            raise Malformed("the image leaves out fields of an entry that is in no base")
        return stated._replace(path=path)
    if old.kind is not stated.kind:
        raise Malformed("the image takes an entry for one of another kind")
    return Entry(
        # One and the same object, where it is: paths are most of what a listing takes.
        path=old.path if old.path == path else path,
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
