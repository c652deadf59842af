"""One named thing in a tree, and the listing: a tree's entries in their one canonical order, with their digest."""

from __future__ import annotations

import enum
import hashlib
import re
import struct
from array import array
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from tbdiff.errors import Malformed, Rejected
from tbdiff.packed import PackedEntries

NAME_MAX = 255
PATH_MAX = 4096
LINK_MAX = 4095
XATTR_NAME_MAX = 255
XATTR_VALUE_MAX = 65536
ID_MAX = 2**32 - 2
MODE_MASK = 0o7777

LISTING_MAGIC = b"tbdiff-listing-1\n"


class Kind(enum.IntEnum):
    """What an entry is. The values are part of the format."""

    DIRECTORY = 1
    FILE = 2
    HARDLINK = 3
    SYMLINK = 4
    FIFO = 5
    CHAR = 6
    BLOCK = 7


Xattrs = tuple[tuple[bytes, bytes], ...]
Extents = tuple[tuple[int, int], ...]


class Entry(NamedTuple):
    """One entry of a tree.

    `path` is relative to the root and raw bytes; the root's own is empty. `mtime` is in nanoseconds since the epoch.
    `digest` is the SHA-256 of a regular file's content. `link` is a symlink's target, or for the second and further
    names of a hard-linked inode the path of its first name (such an entry has no metadata of its own).
    `extents` are the (offset, length) runs that hold data, or None where the file has no holes; where the holes are is
    carried along, but is no part of the digest: file systems with other block sizes move their edges.
    """

    path: bytes
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    digest: bytes = b""
    link: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: Xattrs = ()
    extents: Extents | None = None

    @property
    def name(self) -> bytes:
        """The last component of the path."""
        return self.path.rpartition(b"/")[2]

    @property
    def parent(self) -> bytes:
        """The path of the directory that holds it."""
        return self.path.rpartition(b"/")[0]


def check_name(name: bytes) -> bytes:
    """Return `name` if it can be one component of a path; raise Rejected if it could lead elsewhere."""
    if not 0 < len(name) <= NAME_MAX or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise Malformed(f"the image names an entry {printable(name[:300])!r}, which no directory can hold")
    return name


def check_path(path: bytes) -> bytes:
    """Return `path` if it is a non-empty relative path of legal names; raise Rejected otherwise."""
    if len(path) >= PATH_MAX:
        head = printable(path[:100])
        raise Rejected(f"a path of {len(path)} bytes is too long; {PATH_MAX - 1} is the limit; it begins with {head!r}")
    for name in path.split(b"/"):
        check_name(name)
    return path


def printable(path: bytes) -> str:
    """The path as text that is safe on a terminal: control characters and invalid UTF-8 are escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def join(parent: bytes, name: bytes) -> bytes:
    """The path of `name` in the directory `parent`."""
    return parent + b"/" + name if parent else name


def numberless(path: bytes) -> bytes:
    """The path with its numbers made alike: those of a new kernel or library resemble the old one's."""
    return re.sub(rb"\d+", b"#", path)


def canonical_key(path: bytes) -> list[tuple[bool, bytes]]:
    """Order paths as a listing does: at each level files come before what lies in directories."""
    *above, name = path.split(b"/")
    return [*((True, part) for part in above), (False, name)]


class Listing:
    """A tree in canonical order: each directory before its content, its files before its sub-directories, by bytes."""

    __slots__ = ("_digest", "_index", "entries")

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Take entries that are in canonical order already (`in_order` puts them so)."""
        self.entries = PackedEntries(Entry, entries)
        self._index: dict[bytes, int] | None = None
        self._digest: bytes | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @property
    def index(self) -> dict[bytes, int]:
        """Each path's position."""
        if self._index is None:
            self._index = {path: n for n, path in enumerate(self.entries.paths)}
        return self._index

    def positions(self, paths: Collection[bytes]) -> dict[bytes, int]:
        """The positions of a few paths, without an index of all."""
        return {path: n for n, path in enumerate(self.entries.paths) if path in paths} if paths else {}

    def get(self, path: bytes) -> Entry | None:
        """The entry at `path`, if any."""
        n = self.index.get(path)
        return None if n is None else self.entries[n]

    def of_kind(self, kind: Kind) -> Iterator[tuple[int, Entry]]:
        """The entries of one kind, with their positions."""
        return ((n, self.entries[n]) for n, found in enumerate(self.entries.kinds) if found is kind)

    def digests(self) -> Iterator[tuple[int, bytes]]:
        """The digests of the regular files' contents, with the files' positions."""
        return ((n, self.entries.digest(n)) for n, kind in enumerate(self.entries.kinds) if kind is Kind.FILE)

    @property
    def digest(self) -> bytes:
        """The tree digest: SHA-256 over the serialised listing (docs/format.md, "Tree digest")."""
        if self._digest is None:
            h = hashlib.sha256(LISTING_MAGIC)
            for entry in self.entries:
                h.update(serialise(entry))
            self._digest = h.digest()
        return self._digest

    @property
    def content_size(self) -> int:
        """The sum of the sizes of its regular files, each inode once."""
        return sum(self.entries.sizes)

    @property
    def largest(self) -> int:
        """The size of its largest file."""
        return max(self.entries.sizes, default=0)


EMPTY = Listing(())


def parents(listing: Listing) -> array[int]:
    """The position of each entry's directory; the root's own is 0."""
    positions: dict[bytes, int] = {b"": 0}
    found = array("L")
    for n, (path, kind) in enumerate(zip(listing.entries.paths, listing.entries.kinds, strict=True)):
        found.append(positions[path.rpartition(b"/")[0]])
        if kind is Kind.DIRECTORY:
            positions[path] = n
    return found


def in_order(entries: dict[bytes, Entry]) -> Listing:
    """Put entries, by path, into canonical order; every parent must be there and be a directory."""
    children: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
    for path, entry in entries.items():
        if entry.kind is Kind.DIRECTORY:
            children.setdefault(path, ([], []))
    if entries and b"" not in children:
        raise Malformed("the tree has no root directory")
    for path, entry in entries.items():
        if path:
            held = children.get(path.rpartition(b"/")[0])
            if held is None:
                raise Rejected(f"{printable(path)!r} is in no directory of the tree")
            held[entry.kind is Kind.DIRECTORY].append(path)
    ordered: list[Entry] = []
    stack = [b""] if entries else []
    while stack:
        path = stack.pop()
        ordered.append(entries[path])
        files, directories = children[path]
        # Within one directory all paths share their prefix: ordering paths is ordering names.
        ordered.extend(entries[p] for p in sorted(files))
        stack.extend(sorted(directories, reverse=True))
    if len(ordered) != len(entries):
        raise Malformed("the tree has directories that are not reached from its root")
    return Listing(ordered)


HEAD = struct.Struct("<BHHIIqI")


def serialise(entry: Entry) -> bytes:
    """One entry as it goes into the tree digest (docs/format.md, "Tree digest")."""
    seconds, nanoseconds = divmod(entry.mtime, 1_000_000_000)
    parts = [
        HEAD.pack(entry.kind, len(entry.path), entry.mode, entry.uid, entry.gid, seconds, nanoseconds),
        entry.path,
    ]
    if entry.kind is Kind.FILE:
        parts += (struct.pack("<Q", entry.size), entry.digest)
    elif entry.kind in (Kind.SYMLINK, Kind.HARDLINK):
        parts += (struct.pack("<H", len(entry.link)), entry.link)
    elif entry.kind in (Kind.CHAR, Kind.BLOCK):
        parts.append(struct.pack("<II", *entry.rdev))
    parts.append(struct.pack("<I", len(entry.xattrs)))
    for name, value in entry.xattrs:
        parts += (struct.pack("<HI", len(name), len(value)), name, value)
    return b"".join(parts)
