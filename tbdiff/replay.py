"""What becomes of the names of a tree when the commands of a Btrfs send stream are carried out on it (pure)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from tbdiff.entry import Kind, Listing, join

MAGIC = b"btrfs-stream\0"
_HEAD = struct.Struct("<IHI")
_ATTRIBUTE = struct.Struct("<HH")
# Longer commands would carry contents, which are not asked for.
COMMAND_MAX = 1 << 18

# Commands and attributes by their numbers in the stream (version 1).
MAKERS = frozenset({3, 4, 5, 6, 7, 8})  # file, directory, device, FIFO, socket, symlink
SNAPSHOT, RENAME, LINK, UNLINK, RMDIR, END = 2, 9, 10, 11, 12, 21
TOUCHERS = frozenset({13, 14, 15, 16, 17, 18, 19, 20, 22})  # attributes, contents, owner, mode, times, extents
PATH, PATH_TO, PATH_LINK = 15, 16, 17


class DoubtError(Exception):
    """Something is not as it was thought to be: then everything is to be read."""


class Reader(Protocol):
    """Where a stream comes from."""

    def read(self, size: int, /) -> bytes:
        """Exactly `size` bytes; fewer only at the end."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its number, and its attributes that are paths."""

    number: int
    path: bytes
    to: bytes
    link: bytes


def commands(stream: Reader) -> Iterator[Command]:
    """The commands of a send stream, to its end mark."""
    if stream.read(len(MAGIC)) != MAGIC or stream.read(4) != b"\1\0\0\0":
        raise DoubtError("the stream is of another version")
    while True:
        head = stream.read(_HEAD.size)
        if len(head) != _HEAD.size:
            raise DoubtError("the stream is cut off")
        size, number, _ = _HEAD.unpack(head)
        body = stream.read(size) if size <= COMMAND_MAX else b""
        if len(body) != size:
            raise DoubtError("the stream is cut off")
        if number == END:
            return
        found = _attributes(body)
        yield Command(number, found.get(PATH, b""), found.get(PATH_TO, b""), found.get(PATH_LINK, b""))


def _attributes(body: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(body):
        kind, size = _ATTRIBUTE.unpack_from(body, at)
        at += _ATTRIBUTE.size
        found[kind] = body[at : at + size]
        at += size
    if at != len(body):
        raise DoubtError("the stream has a command that is not well formed")
    return found


# An inode: the path of its first name in the base, or a number for a new one.
Inode = bytes | int


@dataclass(slots=True, eq=False)
class _Node:
    """A name that a command spoke of, or that leads to one. `origin` is where it was in the base."""

    name: bytes
    above: _Node | None
    origin: bytes | None
    inode: Inode
    held: dict[bytes, _Node | None] = field(default_factory=dict)
    moved: bool = False


class Replay:
    """The names of `base` under the commands that were followed so far.

    `touched` are the inodes that may differ in anything, be it in their names.
    """

    def __init__(self, base: Listing) -> None:
        self._base = base
        self._root = _Node(b"", None, b"", b"")
        self._news = 0
        self._gone: set[bytes] = set()
        # The root has no name that could be told by a command.
        self.touched: set[Inode] = {b""}

    def follow(self, command: Command) -> None:
        """Carry out one command."""
        number = command.number
        if number in MAKERS:
            self._news += 1
            self._attach(command.path, _Node(b"", None, None, self._news))
        elif number == RENAME:
            node = self._detach(command.path)
            node.moved = True
            self._attach(command.to, node)
        elif number == LINK:
            self._attach(command.path, _Node(b"", None, None, self._find(command.link).inode))
        elif number in (UNLINK, RMDIR):
            node = self._detach(command.path)
            if node.origin is not None:
                self._gone.add(node.origin)
        elif number in TOUCHERS:
            self.touched.add(self._find(command.path).inode)
        elif number != SNAPSHOT:
            raise DoubtError("the stream has a command that is not known")

    def _find(self, path: bytes) -> _Node:
        node = self._root
        for name in path.split(b"/") if path else ():
            node = self._child(node, name)
        return node

    def _child(self, node: _Node, name: bytes) -> _Node:
        if name in node.held:
            found = node.held[name]
            if found is None:
                raise DoubtError("the stream speaks of what is gone")
            return found
        if node.origin is None:
            raise DoubtError("the stream speaks of what is not there")
        origin = join(node.origin, name)
        entry = self._base.get(origin)
        # What no listing has is a socket.
        inode = entry.link if entry is not None and entry.kind is Kind.HARDLINK else origin
        found = node.held[name] = _Node(name, node, origin, inode)
        return found

    def _detach(self, path: bytes) -> _Node:
        node = self._find(path)
        if node.above is None:
            raise DoubtError("the stream moves the root")
        self.touched |= {node.inode, node.above.inode}
        node.above.held[node.name] = None
        node.above = None
        return node

    def _attach(self, path: bytes, node: _Node) -> None:
        above, _, name = path.rpartition(b"/")
        directory = self._find(above)
        there = directory.origin is not None and self._base.get(join(directory.origin, name)) is not None
        if not name or directory.held.get(name) is not None or (there and name not in directory.held):
            raise DoubtError("the stream makes what is there already")
        directory.held[name] = node
        node.above, node.name = directory, name
        self.touched |= {node.inode, directory.inode}

    def names(self) -> tuple[dict[bytes, bytes | None], set[bytes]]:
        """Where what of the base was moved or removed (None) is now; and the new names."""
        places: dict[bytes, bytes | None] = dict.fromkeys(self._gone)
        fresh: set[bytes] = set()
        stack = [(self._root, b"")]
        while stack:
            node, path = stack.pop()
            if node.origin is None:
                fresh.add(path)
            elif node.moved:
                places[node.origin] = path
            stack += ((held, join(path, name)) for name, held in node.held.items() if held is not None)
        return places, fresh
