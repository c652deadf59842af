"""A tree in memory on which the commands of a legacy stream are carried out: a listing goes in, another comes out."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Protocol

from tbdiff.acl import GROUP_OBJ, MASK, OTHER, USER_OBJ
from tbdiff.changes import KINDS
from tbdiff.entry import PATH_MAX, Entry, Kind, Listing, Xattrs, join, printable
from tbdiff.errors import Malformed, Rejected
from tbdiff.legacy.commands import (
    SECOND,
    ChangeDirectory,
    ChangeFile,
    Command,
    Delete,
    Enter,
    Leave,
    MakeDirectory,
    MakeFile,
    MakeSpecial,
    MakeSymlink,
    Mask,
    PatchFile,
    SetXattrs,
    Stated,
)
from tbdiff.tree import STAGING

# Bounds for what no signature bounds.
ENTRIES_MAX = 1 << 21
METADATA_MAX = 1 << 28
ACL_ACCESS, ACL_DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
CAPABILITY = b"security.capability"

Pieces = Iterator[bytes]


class Receiver(Protocol):
    """Who takes the contents of a stream's files."""

    def make(self, entry: Entry, pieces: Pieces) -> Entry:
        """The entry with the digest of its content."""

    def patch(self, entry: Entry, old: Entry, command: PatchFile) -> Entry:
        """The entry with size and digest of the old entry's content, patched."""


class _Node:
    """One inode of the tree. Hard links are one node in several places."""

    __slots__ = ("entry",)

    def __init__(self, entry: Entry) -> None:
        self.entry = entry


class _Directory(_Node):
    """A directory, and what is in it: of the base only the position, until something happens to it."""

    __slots__ = ("held",)

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self.held: dict[bytes, _Node | int] = {}


class LegacyTree:
    """The tree that a stream changes, and the directory in which it is.

    `is_socket` tells whether the tree on disk has a socket at a path: no listing has them, but a stream may remove it.
    """

    def __init__(self, base: Listing, receiver: Receiver, is_socket: Callable[[bytes], bool]) -> None:
        self._base = base
        self._receiver = receiver
        self._is_socket = is_socket
        self._root = _nodes(base)
        self._here: list[tuple[bytes, _Directory]] = [(b"", self._root)]
        self._count = len(base)
        self._metadata = 0
        self.sockets: list[bytes] = []

    def follow(self, command: Command) -> None:
        """Carry out one command; Rejected where the tree is not one that it was made for."""
        match command:
            case Enter(name):
                self._here.append((self._path(name), self._directory(name)))
            case Leave(seconds):
                self._leave(seconds)
            case Delete(name):
                self._delete(name)
            case ChangeDirectory(name, mask, stated):
                directory = self._directory(name) if name else self._here[-1][1]
                directory.entry = _changed(directory.entry, mask, stated)
            case ChangeFile(name, mask, stated):
                file = self._file(name)
                file.entry = _changed(file.entry, mask, stated)
            case PatchFile(name, _, stated):
                old = self._file(name)
                entry = self._receiver.patch(_stated(self._path(name), Kind.FILE, stated), old.entry, command)
                # Other names of the old one keep it.
                self._held[name] = _Node(entry)
            case SetXattrs(name, xattrs):
                self._weigh(sum(len(key) + len(value) for key, value in xattrs))
                node = self._any(name) if name else self._here[-1][1]
                node.entry = node.entry._replace(xattrs=xattrs)
            case _:
                self._make(command)

    def _make(self, command: MakeDirectory | MakeFile | MakeSymlink | MakeSpecial) -> None:
        path = self._path(command.name)
        if command.name in self._held:
            raise Rejected(f"the image makes {printable(path)!r}, which is there already", _OTHER_BASE)
        if path == STAGING:
            raise Malformed(f"the image makes {printable(path)!r}, a name that tbdiff needs for itself")
        self._count += 1
        self._weigh(len(path))
        match command:
            case MakeDirectory(name, stated):
                self._held[name] = _Directory(_stated(path, Kind.DIRECTORY, stated))
            case MakeFile(name, stated, size, pieces):
                entry = _stated(path, Kind.FILE, stated)._replace(size=size)
                self._held[name] = _Node(self._receiver.make(entry, pieces))
            case MakeSymlink(name, target, uid, gid, seconds):
                self._weigh(len(target))
                entry = Entry(path, Kind.SYMLINK, uid=uid, gid=gid, mtime=seconds * SECOND, link=target)
                self._held[name] = _Node(entry)
            case MakeSpecial(name, kind, stated, rdev):
                if kind is None:
                    self.sockets.append(path)
                else:
                    self._held[name] = _Node(_stated(path, kind, stated)._replace(rdev=rdev))

    def _weigh(self, size: int) -> None:
        """Count what is held in memory; Rejected if it is too much."""
        self._metadata += size
        if self._metadata > METADATA_MAX or self._count > ENTRIES_MAX:
            raise Malformed("the image makes more entries than a device can hold")

    @property
    def _held(self) -> dict[bytes, _Node | int]:
        return self._here[-1][1].held

    def _path(self, name: bytes) -> bytes:
        path = join(self._here[-1][0], name)
        if len(path) >= PATH_MAX:
            raise Malformed(f"the image names a path of {len(path)} bytes; {PATH_MAX - 1} is the limit")
        return path

    def _any(self, name: bytes) -> _Node:
        node = self._held.get(name)
        if node is None:
            raise Rejected(f"the image changes {printable(self._path(name))!r}, which is not there", _OTHER_BASE)
        if isinstance(node, int):
            node = self._held[name] = _Node(self._base.entries[node])
        return node

    def _directory(self, name: bytes) -> _Directory:
        node = self._any(name)
        if not isinstance(node, _Directory):
            raise self._other_kind(node, name, Kind.DIRECTORY)
        return node

    def _file(self, name: bytes) -> _Node:
        node = self._any(name)
        if node.entry.kind is not Kind.FILE:
            raise self._other_kind(node, name, Kind.FILE)
        return node

    def _other_kind(self, node: _Node, name: bytes, kind: Kind) -> Rejected:
        shown, found = repr(printable(self._path(name))), KINDS[node.entry.kind]
        return Rejected(f"the image takes {shown} for a {KINDS[kind]}, and it is a {found}", _OTHER_BASE)

    def _leave(self, seconds: int) -> None:
        if len(self._here) == 1:
            raise Malformed("the image leaves the tree that it is applied to; nothing was changed")
        _, node = self._here.pop()
        node.entry = node.entry._replace(mtime=seconds * SECOND)

    def _delete(self, name: bytes) -> None:
        if self._held.pop(name, None) is None and not self._is_socket(self._path(name)):
            raise Rejected(f"the image removes {printable(self._path(name))!r}, which is not there", _OTHER_BASE)

    def listing(self) -> Listing:
        """The tree as it is now."""
        return Listing(self._entries())

    def _entries(self) -> Iterator[Entry]:
        """All entries in canonical order: each directory, its files, then its directories."""
        firsts: dict[int, bytes] = {}
        todo: list[tuple[bytes, _Directory]] = [(b"", self._root)]
        while todo:
            path, directory = todo.pop()
            yield _at(path, directory.entry)
            below = []
            for name in sorted(directory.held):
                node = directory.held[name]
                if isinstance(node, _Directory):
                    below.append((join(path, name), node))
                elif isinstance(node, int):
                    # Nothing happened to it, so neither did to the directories above: its path is the base's.
                    yield self._base.entries[node]
                else:
                    first = firsts.setdefault(id(node), join(path, name))
                    linked = first != join(path, name)
                    yield Entry(join(path, name), Kind.HARDLINK, link=first) if linked else _at(first, node.entry)
            todo.extend(reversed(below))


_OTHER_BASE = "The tree is not the one that the image was made for; it was left as it is."


def _at(path: bytes, entry: Entry) -> Entry:
    return entry if entry.path == path else entry._replace(path=path)


def _nodes(base: Listing) -> _Directory:
    """The nodes of a listing; of its root."""
    root = _Directory(base.entries[0])
    directories = {b"": root}
    linked = {entry.link: _Node(entry) for entry in base if entry.kind is Kind.HARDLINK}
    for position, entry in enumerate(base):
        node: _Node | int = position
        if not position:
            continue
        if entry.kind is Kind.DIRECTORY:
            node = directories[entry.path] = _Directory(entry)
        elif entry.kind is Kind.HARDLINK:
            node = linked[entry.link]
        elif entry.path in linked:
            linked[entry.path].entry = entry
            node = linked[entry.path]
        directories[entry.parent].held[entry.name] = node
    return root


def _stated(path: bytes, kind: Kind, stated: Stated) -> Entry:
    return Entry(path, kind, stated.mode, stated.uid, stated.gid, stated.seconds * SECOND)


def _changed(entry: Entry, mask: Mask, stated: Stated) -> Entry:
    """The entry with other metadata, as the original deploy tool sets it: the mode whatever the mask says."""
    xattrs = entry.xattrs
    if mask & (Mask.UID | Mask.GID):
        # The kernel takes capabilities away from what gets another owner; a stream that keeps them sets them behind.
        xattrs = tuple(pair for pair in xattrs if pair[0] != CAPABILITY)
        entry = entry._replace(uid=stated.uid, gid=stated.gid)
    if mask & Mask.MTIME:
        entry = entry._replace(mtime=stated.seconds * SECOND)
    return entry._replace(mode=stated.mode, xattrs=_with_mode(xattrs, stated.mode))


_ACL_ENTRY = struct.Struct("<HHI")


def _with_mode(xattrs: Xattrs, mode: int) -> Xattrs:
    """The attributes after a change of mode: an access control list has the mode in it."""
    return tuple((name, _acl_with_mode(value, mode) if name == ACL_ACCESS else value) for name, value in xattrs)


def _acl_with_mode(acl: bytes, mode: int) -> bytes:
    if len(acl) % _ACL_ENTRY.size != 4:
        raise Malformed("the image changes the mode of a file whose access control list is damaged")
    entries = list(_ACL_ENTRY.iter_unpack(acl[4:]))
    of_group = MASK if any(tag == MASK for tag, _, _ in entries) else GROUP_OBJ
    bits = {USER_OBJ: mode >> 6 & 7, of_group: mode >> 3 & 7, OTHER: mode & 7}
    return acl[:4] + b"".join(_ACL_ENTRY.pack(tag, bits.get(tag, now), who) for tag, now, who in entries)
