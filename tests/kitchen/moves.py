"""Directories that move into each other, and every kind that becomes every other."""

from __future__ import annotations

from itertools import permutations

from tests.trees import NOON, Bytes, Node, Tree, change, device, directory, drop, fifo, file, move, sock, symlink

DIRECTORIES = (
    b"moved",
    b"sibling",
    b"uncle",
    b"swap-a",
    b"swap-b",
    b"ring-1",
    b"ring-2",
    b"ring-3",
    b"split",
    b"joined-a",
    b"joined-b",
    b"stays",
    b"outer/inner",
    b"gone",
    b"gone/too/deep",
)
SWAPPED = ((b"swap-a", b"swap-b"), (b"file-swap-1", b"file-swap-2"), (b"link-swap-1", b"link-swap-2"))


def before() -> Tree:
    tree: Tree = {}
    for name in DIRECTORIES:
        for n in range(4):
            tree[b"moves/" + name + b"/f%d" % n] = file(name + b" %d" % n, mtime=NOON + n)
    tree[b"moves/file-swap-1"], tree[b"moves/file-swap-2"] = file(b"one", mode=0o600), file(b"two", mode=0o644)
    tree[b"moves/link-swap-1"], tree[b"moves/link-swap-2"] = symlink(b"one", uid=5), symlink(b"two", gid=5)
    tree[b"moves/outer"] = directory(0o700)
    return tree


def edit(tree: Tree) -> None:
    move(tree, b"moves/moved", b"moves/renamed")
    move(tree, b"moves/sibling", b"moves/uncle/sibling")
    for one, two in SWAPPED:
        _swap(tree, b"moves/" + one, b"moves/" + two)
    move(tree, b"moves/ring-1", b"moves/ring-0")
    move(tree, b"moves/ring-3", b"moves/ring-1")
    move(tree, b"moves/ring-2", b"moves/ring-3")
    move(tree, b"moves/ring-0", b"moves/ring-2")
    move(tree, b"moves/split/f0", b"moves/split-off/f0")
    move(tree, b"moves/split/f1", b"moves/split-off/f1")
    move(tree, b"moves/joined-a", b"moves/joined")
    for n in range(4):
        move(tree, b"moves/joined-b/f%d" % n, b"moves/joined/b%d" % n)
    # Inside out: the inner directory takes the outer one's place, and the outer goes into it.
    move(tree, b"moves/outer/inner", b"moves/inner")
    move(tree, b"moves/outer", b"moves/inner/outer")
    move(tree, b"moves/inner", b"moves/outer")
    drop(tree, b"moves/gone")
    # Moved, and changed inside at the same time.
    change(tree, b"moves/renamed/f1", runs=(Bytes(0, b"changed in the moved"),), size=20)
    del tree[b"moves/renamed/f2"]
    tree[b"moves/renamed/new"] = file(b"new in the moved")


def _swap(tree: Tree, one: bytes, two: bytes) -> None:
    move(tree, one, one + b".swap")
    move(tree, two, one)
    move(tree, one + b".swap", two)


def retyped(*, sockets: bool) -> dict[bytes, tuple[Node | None, Node | None]]:
    kinds: dict[str, Node | None] = {
        "absent": None,
        "file": file(b"content", mode=0o640, uid=1),
        "empty": directory(0o750),
        "full": directory(0o700),
        "symlink": symlink(b"target", gid=2),
        "dangling-loop": symlink(b"."),
        "fifo": fifo(mode=0o600),
        "char": device("char", 5, 1, mode=0o620),
        "block": device("block", 8, 17, mode=0o660),
        "whiteout": device("char", 0, 0, mode=0),
        "hardlink": file(b"the hard-linked one", group="retyped"),
    }
    if sockets:
        kinds["socket"] = sock()
    tree: dict[bytes, tuple[Node | None, Node | None]] = {b"kinds/link": (kinds["hardlink"], kinds["hardlink"])}
    for old, new in permutations(kinds, 2):
        tree[f"kinds/{old}-to-{new}".encode()] = (kinds[old], kinds[new])
    return tree


def with_fillings(tree: Tree) -> Tree:
    """Put something into each directory of `retyped` that is to be full."""
    full: Tree = {}
    for path, node in tree.items():
        if path.startswith(b"kinds/") and node.kind == "directory" and node.mode == 0o700:
            full |= {path + b"/a": file(path), path + b"/b/c": symlink(b"../a"), path + b"/d": fifo()}
    return tree | full
