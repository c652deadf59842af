"""Two states of one tree that hold everything which a root file system can hold, and every way in which it changes."""

from __future__ import annotations

from pathlib import Path

from tests.kitchen import content, dress, moves, names
from tests.trees import NOON, Tree, build, change, directory, drop

ROOMS = (names, content, dress, moves)


def kitchen_sink(path: Path, *, sockets: bool = False) -> None:
    """Build the first state in the directory `path`."""
    build(base_tree(sockets=sockets), path)


def kitchen_sink_changed(path: Path, *, sockets: bool = False) -> None:
    """Build the second state in the directory `path`."""
    build(target_tree(sockets=sockets), path)


def base_tree(*, sockets: bool = False) -> Tree:
    """The specification of the first state."""
    tree: Tree = {b"": directory(mtime=NOON + 1, xattrs=(("user.root", b"one"), ("user.root.gone", b"x")))}
    for room in ROOMS:
        tree |= room.before()
    tree |= {path: node for path, (node, _) in moves.retyped(sockets=sockets).items() if node}
    return moves.with_fillings(tree)


def target_tree(*, sockets: bool = False) -> Tree:
    """The specification of the second state."""
    tree = base_tree(sockets=sockets)
    change(tree, b"", mode=0o711, uid=3, gid=4, mtime=NOON + 2, xattrs=(("trusted.root", b"\0"), ("user.root", b"two")))
    for room in ROOMS:
        room.edit(tree)
    for path, (_, node) in moves.retyped(sockets=sockets).items():
        if path in tree:
            drop(tree, path)
        if node:
            tree[path] = node
    return moves.with_fillings(tree)
