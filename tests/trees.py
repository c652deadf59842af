"""Trees for tests: a small declarative specification, and the builder that makes it real on disk.

A tree is a dict from raw path (the root is b"") to `Node`. Parents that are not listed are made as plain directories.
Nodes with the same `group` are names of one inode; what the first of them (by path) says is what the inode gets.
"""

from __future__ import annotations

import ctypes
import os
import random
import socket
import struct
from dataclasses import dataclass, replace
from pathlib import Path

SECOND = 1_000_000_000
# The time of all that does not say otherwise: fixed, so that two builds of one specification are equal.
NOON = 1_700_000_000 * SECOND
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2


@dataclass(frozen=True)
class Bytes:
    """Literal content at an offset."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Noise:
    """Content that does not compress, made from a seed; seed 0 is zeros that are written, not a hole."""

    offset: int
    length: int
    seed: int


@dataclass(frozen=True)
class Hole:
    """A hole punched into what the runs before it wrote."""

    offset: int
    length: int


Run = Bytes | Noise | Hole


@dataclass(frozen=True)
class Node:
    """One entry. `runs` are written in order and the file is then cut or extended (by a hole) to `size`."""

    kind: str = "file"
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = NOON
    xattrs: tuple[tuple[str, bytes], ...] = ()
    runs: tuple[Run, ...] = ()
    size: int = 0
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    group: str | None = None


Tree = dict[bytes, Node]


def file(data: bytes = b"", **rest: object) -> Node:
    return replace(Node(runs=(Bytes(0, data),) if data else (), size=len(data)), **rest)


def sparse(size: int, *runs: Run, **rest: object) -> Node:
    return replace(Node(runs=runs, size=size), **rest)


def directory(mode: int = 0o755, **rest: object) -> Node:
    return replace(Node("directory", mode), **rest)


def symlink(target: bytes, **rest: object) -> Node:
    return replace(Node("symlink", 0o777, target=target), **rest)


def fifo(**rest: object) -> Node:
    return replace(Node("fifo"), **rest)


def device(kind: str, major: int, minor: int, **rest: object) -> Node:
    return replace(Node(kind, rdev=(major, minor)), **rest)


def sock(**rest: object) -> Node:
    return replace(Node("socket", 0o755), **rest)


def capability(bits: int, *, effective: bool = True) -> tuple[str, bytes]:
    """A valid `security.capability` of version 2 with the permitted `bits`."""
    magic = 0x02000000 | effective
    return "security.capability", struct.pack("<IIIII", magic, bits & 0xFFFFFFFF, 0, bits >> 32, 0)


def acl(mode: int, *users: tuple[int, int], default: bool = False) -> tuple[str, bytes]:
    """A POSIX ACL: what `mode` says, plus (uid, permission) of named users; its mask is the mode's group bits."""
    entries = [(0x01, mode >> 6 & 7, -1)]
    entries += [(0x02, permission, uid) for uid, permission in sorted(users)]
    entries += [(0x04, mode >> 3 & 7, -1), (0x10, mode >> 3 & 7, -1), (0x20, mode & 7, -1)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", t, p, i & 0xFFFFFFFF) for t, p, i in entries)
    return f"system.posix_acl_{'default' if default else 'access'}", value


def ordered(xattrs: dict[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted(xattrs.items()))


def below(tree: Tree, path: bytes) -> list[bytes]:
    """`path` and all paths in it."""
    return [p for p in tree if p == path or not path or p.startswith(path + b"/")]


def move(tree: Tree, old: bytes, new: bytes) -> None:
    """Rename a node with all that is in it."""
    for path in below(tree, old):
        tree[new + path[len(old) :]] = tree.pop(path)


def drop(tree: Tree, path: bytes) -> None:
    """Remove a node with all that is in it."""
    for gone in below(tree, path):
        del tree[gone]


def change(tree: Tree, path: bytes, **fields: object) -> None:
    """Change a node, under all names of its inode."""
    node = replace(tree[path], **fields)
    for other, held in tree.items():
        if other == path or (node.group is not None and held.group == node.group):
            tree[other] = node


def parent_of(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def build(tree: Tree, path: str | bytes | Path) -> None:
    """Make the tree on disk in the directory `path`, which is made if need be and is otherwise empty."""
    Path(os.fsdecode(path)).mkdir(parents=True, exist_ok=True)
    whole = dict(tree)
    whole.setdefault(b"", directory())
    for name in tree:
        while (name := parent_of(name)) and name not in whole:
            whole[name] = directory()
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        made: dict[str, bytes] = {}
        for name in sorted(whole):
            node = whole[name]
            if node.group is not None and node.group in made:
                os.link(made[node.group], name, src_dir_fd=root, dst_dir_fd=root, follow_symlinks=False)
                continue
            if node.group is not None:
                made[node.group] = name
            if name:
                _make(root, name, node)
            if node.kind != "directory":
                _dress(root, name, node)
        # A directory gets its time when all is in it, and loses its write permission then at the earliest.
        for name in sorted((n for n in whole if whole[n].kind == "directory"), reverse=True):
            _dress(root, name, whole[name])
    finally:
        os.close(root)


def _make(root: int, path: bytes, node: Node) -> None:
    match node.kind:
        case "directory":
            os.mkdir(path, dir_fd=root)
        case "symlink":
            os.symlink(node.target, path, dir_fd=root)
        case "fifo":
            os.mkfifo(path, dir_fd=root)
        case "char":
            os.mknod(path, 0o020600, os.makedev(*node.rdev), dir_fd=root)
        case "block":
            os.mknod(path, 0o060600, os.makedev(*node.rdev), dir_fd=root)
        case "socket":
            _make_socket(root, path)
        case "file":
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=root)
            try:
                for run in node.runs:
                    _write(fd, run)
                os.ftruncate(fd, node.size)
            finally:
                os.close(fd)
        case _:
            raise ValueError(f"no such kind: {node.kind}")


def _make_socket(root: int, path: bytes) -> None:
    holder = os.open(parent_of(path) or b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
    try:
        # An address has 107 bytes at most: a short name first, then the real one.
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(b"/proc/self/fd/%d/.socket-in-the-making" % holder)
        os.rename(b".socket-in-the-making", path.rpartition(b"/")[2], src_dir_fd=holder, dst_dir_fd=holder)
    finally:
        os.close(holder)


def _write(fd: int, run: Run) -> None:
    match run:
        case Bytes(offset, data):
            _pwrite(fd, data, offset)
        case Noise(offset, length, seed):
            _pwrite(fd, random.Random(seed).randbytes(length) if seed else bytes(length), offset)
        case Hole(offset, length):
            libc = ctypes.CDLL(None, use_errno=True)
            how = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
            if libc.fallocate(fd, how, ctypes.c_int64(offset), ctypes.c_int64(length)):
                raise OSError(ctypes.get_errno(), "fallocate")


def _pwrite(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _dress(root: int, path: bytes, node: Node) -> None:
    """Owner first (it clears modes and capabilities), then mode, xattrs, and the time last."""
    holder = os.open(parent_of(path) or b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
    try:
        name = path.rpartition(b"/")[2] or b"."
        os.chown(name, node.uid, node.gid, dir_fd=holder, follow_symlinks=False)
        if node.kind != "symlink":
            os.chmod(name, node.mode, dir_fd=holder)
        for key, value in node.xattrs:
            os.setxattr(b"/proc/self/fd/%d/%s" % (holder, name), key, value, follow_symlinks=False)
        os.utime(name, ns=(NOON, node.mtime), dir_fd=holder, follow_symlinks=False)
    finally:
        os.close(holder)
