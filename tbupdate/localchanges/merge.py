"""The three-way merge of a root's local changes into another deployment's tree, as entries (pure)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from tbdiff.compare import differing
from tbdiff.entry import Entry, Kind, Xattrs, canonical_key
from tbdiff.operation import Field
from tbupdate.localchanges.contents import Combine

T = TypeVar("T")

A_KIND = {
    Kind.DIRECTORY: "a directory",
    Kind.FILE: "a file",
    Kind.SYMLINK: "a symlink",
    Kind.FIFO: "a fifo",
    Kind.CHAR: "a device",
    Kind.BLOCK: "a device",
}


@dataclass(frozen=True, slots=True)
class Node:
    """What is at a path: never a further name of something; `names` are all names, where there are several."""

    entry: Entry
    names: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Sides:
    """One path in the tree that both started from, in the local root, and in the tree to merge into."""

    base: Node | None
    ours: Node | None
    theirs: Node | None


class Source(Enum):
    """Whose version a merged path is."""

    OURS = "ours"
    THEIRS = "theirs"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Merged:
    """What comes to a path; `content` where it is neither side's; `why` where the two sides disagree."""

    node: Node | None
    source: Source
    why: str | None = None
    content: bytes | None = None

    @property
    def is_directory(self) -> bool:
        """Whether other paths can be in it."""
        return self.node is not None and self.node.entry.kind is Kind.DIRECTORY


def differences(old: Node, new: Node) -> Field:
    """What differs between two of one kind. Where holes are is no change, nor when a directory last had one."""
    fields = differing(old.entry, new.entry) & ~Field.EXTENTS
    return fields & ~Field.MTIME if new.entry.kind is Kind.DIRECTORY else fields


def same(one: Node | None, other: Node | None) -> bool:
    """Whether two are the same but for their names."""
    if one is None or other is None:
        return one is other
    return one.entry.kind is other.entry.kind and not differences(one, other)


def unchanged(old: Node | None, new: Node | None) -> bool:
    """Whether two are the same, also in their names."""
    return same(old, new) and (old is None or new is None or old.names == new.names)


def merge(sides: Mapping[bytes, Sides], combine: Combine) -> dict[bytes, Merged]:
    """What comes to every path.

    `sides` holds what differs between base and ours, the directories above it, and below a directory that only one of
    ours and theirs has, all that it holds.
    """
    order = sorted(sides, key=canonical_key)
    merged = {path: merge_one(sides[path], path, combine) for path in order}
    for directory in _bring_directories(order, sides, merged):
        for path in order:
            if path.startswith(directory + b"/"):
                merged[path] = Merged(sides[path].ours, Source.OURS)
    for path in order:
        above = merged.get(path.rpartition(b"/")[0]) if path else None
        if above is not None and merged[path].node is not None and not above.is_directory:
            merged[path] = Merged(None, Source.OURS, "new or changed in the image, in a directory that is not here")
    return merged


def _bring_directories(order: list[bytes], sides: Mapping[bytes, Sides], merged: dict[bytes, Merged]) -> list[bytes]:
    """Let what is kept of ours have its directory; those directories that are kept whole against something else."""
    whole = []
    for path in reversed(order):
        above = path.rpartition(b"/")[0]
        kept = merged[path].node is not None and merged[path].source is not Source.THEIRS
        if path and kept and above in merged and not merged[above].is_directory:
            ours, theirs = sides[above].ours, sides[above].theirs
            if ours is None or ours.entry.kind is not Kind.DIRECTORY:
                continue
            why = None
            if theirs is not None:
                why = f"a directory with changes here, {A_KIND[theirs.entry.kind]} in the image"
                whole.append(above)
            merged[above] = Merged(ours, Source.OURS, why)
    return whole


def merge_one(sides: Sides, path: bytes, combine: Combine) -> Merged:
    """What comes to one path, whatever becomes of the directories above."""
    base, ours, theirs = sides.base, sides.ours, sides.theirs
    if unchanged(base, ours):
        return Merged(theirs, Source.THEIRS)
    if same(base, theirs) or (same(ours, theirs) and ours is not None and ours.names):
        return Merged(ours, Source.OURS)
    if same(ours, theirs):
        return Merged(theirs, Source.THEIRS)
    if ours is None or theirs is None or ours.entry.kind is not theirs.entry.kind:
        return Merged(ours, Source.OURS, f"{_said(ours)} here, {_said(theirs)} in the image")
    if ours.names != (base.names if base is not None else ()):
        return Merged(ours, Source.OURS, "linked to other names here, changed in the image")
    alike = base if base is not None and base.entry.kind is ours.entry.kind else None
    return _Fields(alike, ours, theirs, path, combine).merged()


def _said(node: Node | None) -> str:
    return "removed" if node is None else f"{A_KIND[node.entry.kind]}, added or changed,"


class _Fields:
    """Two of one kind, changed on both sides, put together field by field."""

    def __init__(self, base: Node | None, ours: Node, theirs: Node, path: bytes, combine: Combine) -> None:
        self.base = base.entry if base is not None else None
        self.ours, self.theirs = ours, theirs
        self.path = path
        self.combine = combine
        self.clashes: list[str] = []

    def merged(self) -> Merged:
        """The merge, or all of ours where contents cannot be put together."""
        base, ours, theirs = self.base, self.ours.entry, self.theirs.entry
        content: bytes | None = None
        both = _content(ours) == _content(theirs)
        if both:
            entry = theirs._replace(mtime=self._time())
        elif base is not None and _content(ours) == _content(base):
            entry = theirs
        elif base is not None and _content(theirs) == _content(base):
            entry = ours
        else:
            found = self.combine(self.path) if ours.kind is Kind.FILE else None
            if found is None:
                return Merged(self.ours, Source.OURS, "changed here and in the image")
            content = found.content
            if found.why is not None:
                self.clashes.append(found.why)
            entry = theirs._replace(
                size=len(content),
                digest=hashlib.sha256(content).digest(),
                extents=None,
                mtime=max(ours.mtime, theirs.mtime),
            )
        entry = entry._replace(
            mode=self._pick("mode", base.mode if base else None, ours.mode, theirs.mode),
            uid=self._pick("owner", base.uid if base else None, ours.uid, theirs.uid),
            gid=self._pick("group", base.gid if base else None, ours.gid, theirs.gid),
            xattrs=self._xattrs(),
        )
        return Merged(Node(entry), Source.BOTH, "; ".join(self.clashes) or None, content)

    def _pick(self, what: str, base: T | None, ours: T, theirs: T) -> T:
        if ours in (base, theirs):
            return theirs
        if theirs != base:
            self.clashes.append(f"{what} changed here and in the image")
        return ours

    def _time(self) -> int:
        ours, theirs = self.ours.entry.mtime, self.theirs.entry.mtime
        if self.base is not None and self.base.mtime in (ours, theirs):
            return theirs if self.base.mtime == ours else ours
        return max(ours, theirs)

    def _xattrs(self) -> Xattrs:
        base = dict(self.base.xattrs) if self.base is not None else {}
        ours, theirs = dict(self.ours.entry.xattrs), dict(self.theirs.entry.xattrs)
        found: dict[bytes, bytes] = {}
        for name in sorted(ours.keys() | theirs.keys()):
            what = f"attribute {name.decode('utf-8', 'backslashreplace')}"
            value = self._pick(what, base.get(name), ours.get(name), theirs.get(name))
            if value is not None:
                found[name] = value
        return tuple(found.items())


def _content(entry: Entry) -> tuple[object, ...]:
    """What an entry is, but for its metadata."""
    return (entry.size, entry.digest, entry.link, entry.rdev)
