"""The commands of a legacy stream that turn one listing into another, as far as the format can say it (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tbdiff.entry import Entry, Kind, Listing
from tbdiff.legacy.commands import (
    EVERYTHING,
    SECOND,
    ChangeDirectory,
    ChangeFile,
    Command,
    Delete,
    Enter,
    Leave,
    MakeDirectory,
    MakeSpecial,
    MakeSymlink,
    Mask,
    SetXattrs,
    Stated,
)
from tbdiff.legacy.tree import ACL_DEFAULT


@dataclass(frozen=True, slots=True)
class Send:
    """A file whose content has to be sent: as a patch of `old` where there is one. `name` is that in its directory."""

    name: bytes
    path: bytes
    new: Entry
    old: Entry | None = None


Step = Command | Send


@dataclass(frozen=True, slots=True)
class _Into:
    """Go on with what is in a directory."""

    path: bytes


def steps(base: Listing, target: Listing) -> Iterator[Step]:
    """What turns `base` into `target`, in order. Equal trees, down to the second, need nothing."""
    return _Plan(base, target).steps()


class _Plan:
    """Two listings being compared, name by name."""

    def __init__(self, base: Listing, target: Listing) -> None:
        self.base = base
        self.target = target
        self.old_names = _children(base)
        self.new_names = _children(target)
        self.split = _split_links(base, target)
        # Directories that hold something that is different, however deep.
        self.touched: set[bytes] = set()
        for entry in base:
            if target.get(entry.path) is None:
                self._touch(entry)
        for entry in target:
            if entry.path and next(self._entry(entry, inherits=False), None) is not None:
                self._touch(entry)

    def _touch(self, entry: Entry) -> None:
        path = entry.parent
        while path not in self.touched:
            self.touched.add(path)
            path = path.rpartition(b"/")[0]

    def steps(self) -> Iterator[Step]:
        """All of them; directories may be deeper than functions can call each other."""
        stack = [self._root()]
        while stack:
            step = next(stack[-1], None)
            if step is None:
                stack.pop()
            elif isinstance(step, _Into):
                stack.append(self._directory(step.path))
            else:
                yield step

    def _root(self) -> Iterator[Step | _Into]:
        old, new = self.base.entries[0], self.target.entries[0]
        if old.xattrs != new.xattrs:
            yield SetXattrs(b"", new.xattrs)
        if b"" in self.touched:
            yield from self._held(b"")
        # Last: what happens in a directory changes its time.
        if b"" in self.touched or _differing(old, new):
            yield ChangeDirectory(b"", EVERYTHING, Stated.of(new))
            if new.xattrs and old.mode != new.mode:
                yield SetXattrs(b"", new.xattrs)

    def _directory(self, path: bytes) -> Iterator[Step | _Into]:
        entry = self.target.entries[self.target.index[path]]
        yield Enter(entry.name)
        yield from self._held(path)
        yield Leave(entry.mtime // SECOND)

    def _held(self, path: bytes) -> Iterator[Step | _Into]:
        directory = self.target.entries[self.target.index[path]]
        inherits = any(name == ACL_DEFAULT for name, _ in directory.xattrs)
        for name in sorted(self.new_names[path]):
            entry = self.new_names[path][name]
            yield from self._entry(entry, inherits=inherits)
            if entry.kind is Kind.DIRECTORY and (self._is_new(entry) or entry.path in self.touched):
                yield _Into(entry.path)
        for name in sorted(self.old_names.get(path, {}).keys() - self.new_names[path].keys()):
            yield Delete(name)

    def _is_new(self, entry: Entry) -> bool:
        """Whether a directory is none in the base; all that it holds is new then."""
        old = self.base.get(entry.path)
        return old is None or old.kind is not Kind.DIRECTORY

    def _entry(self, entry: Entry, *, inherits: bool) -> Iterator[Step]:
        """What has to happen to one name; not to what is in it."""
        old, new = self.base.get(entry.path), _inode(self.target, entry)
        old = None if old is None else _inode(self.base, old)
        if old is not None and old.kind is new.kind and self._stays(entry.path, old, new):
            yield from self._change(entry.name, old, new)
            return
        if old is not None and (old.kind is not new.kind or new.kind is not Kind.FILE):
            yield Delete(entry.name)
            old = None
        yield self._make(entry, new, old)
        if new.xattrs or inherits:
            yield SetXattrs(entry.name, new.xattrs)

    def _stays(self, path: bytes, old: Entry, new: Entry) -> bool:
        """Whether something of the base needs no more than other metadata."""
        if new.kind is Kind.DIRECTORY:
            return True
        if path in self.split or (old.digest, old.link, old.rdev) != (new.digest, new.link, new.rdev):
            return False
        return new.kind is Kind.FILE or not _differing(old, new)

    def _change(self, name: bytes, old: Entry, new: Entry) -> Iterator[Step]:
        mask = _differing(old, new)
        if mask and new.kind is Kind.DIRECTORY:
            yield ChangeDirectory(name, mask, Stated.of(new))
        elif mask:
            yield ChangeFile(name, mask, Stated.of(new))
        # Another owner takes capabilities away, another mode changes access control lists.
        if old.xattrs != new.xattrs or (mask and new.xattrs):
            yield SetXattrs(name, new.xattrs)

    def _make(self, entry: Entry, new: Entry, old: Entry | None) -> Step:
        match new.kind:
            case Kind.DIRECTORY:
                return MakeDirectory(entry.name, Stated.of(new))
            case Kind.FILE:
                return Send(entry.name, entry.path, new, old)
            case Kind.SYMLINK:
                return MakeSymlink(entry.name, new.link, new.uid, new.gid, new.mtime // SECOND)
            case _:
                return MakeSpecial(entry.name, new.kind, Stated.of(new), new.rdev)


def _inode(listing: Listing, entry: Entry) -> Entry:
    """What an entry's name leads to: itself, or the first name of a hard link."""
    return entry if entry.kind is not Kind.HARDLINK else listing.entries[listing.index[entry.link]]


def _children(listing: Listing) -> dict[bytes, dict[bytes, Entry]]:
    """What each directory holds, by name."""
    found: dict[bytes, dict[bytes, Entry]] = {}
    for entry in listing:
        if entry.path:
            found[entry.parent][entry.name] = entry
        if entry.kind is Kind.DIRECTORY:
            found[entry.path] = {}
    return found


def _split_links(base: Listing, target: Listing) -> set[bytes]:
    """The names of the base's hard links that lead to different things in the target: none may be changed in place."""
    groups: dict[bytes, list[bytes]] = {}
    for entry in base:
        if entry.kind is Kind.HARDLINK:
            groups.setdefault(entry.link, [entry.link]).append(entry.path)
    split: set[bytes] = set()
    for paths in groups.values():
        left = [entry for entry in map(target.get, paths) if entry is not None]
        if len({_inode(target, entry).path for entry in left}) > 1:
            split.update(paths)
    return split


def _differing(old: Entry, new: Entry) -> Mask:
    """Which metadata differ, as far as the format has them."""
    found = Mask(0)
    if old.mtime // SECOND != new.mtime // SECOND:
        found |= Mask.MTIME
    if old.mode != new.mode:
        found |= Mask.MODE
    if old.uid != new.uid:
        found |= Mask.UID
    if old.gid != new.gid:
        found |= Mask.GID
    return found
