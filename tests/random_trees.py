"""Hypothesis strategies: random trees, and pairs of which the second came from the first by random edits.

Everything refers to everything else by small numbers, taken modulo what is there: whatever is drawn makes sense, and
so does whatever remains when Hypothesis shrinks it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import strategies as st

from tests.trees import (
    NOON,
    SECOND,
    Bytes,
    Hole,
    Node,
    Noise,
    Tree,
    capability,
    change,
    device,
    directory,
    drop,
    fifo,
    move,
    ordered,
    parent_of,
    sparse,
    symlink,
)

# Few plain names, so that additions and moves collide with what is or was there.
NAMES = st.sampled_from([b"a", b"b", b"c", b"d", b"a.d", b"a-", b"lib1", b"lib2"]) | st.binary(
    min_size=1, max_size=12
).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"0")).filter(lambda name: name not in (b".", b".."))
NUMBER = st.integers(0, 40)
MODES = st.sampled_from([0o644, 0o755, 0o600, 0o4755, 0o2755, 0o1777, 0o000, 0o7777])
OWNERS = st.sampled_from([0, 1, 1000, 65536, 2**32 - 2])
TIMES = st.sampled_from([NOON, NOON + 1, 0, -1, -2_177_452_800 * SECOND, 4_102_444_800 * SECOND]) | st.integers(
    -(2**31) * SECOND, 2**32 * SECOND
)
# Offsets around the block size, where holes and reflinks have their edges; a few larger pieces for deltas to match in.
OFFSETS = st.sampled_from([0, 1, 100, 4095, 4096, 4097, 8192, 12_288, 40_000, 65_536, 131_072])
LENGTHS = st.sampled_from([1, 10, 4096, 4097, 20_000, 70_000])
SEEDS = st.integers(0, 3)
XATTRS = st.dictionaries(
    st.sampled_from(["user.a", "user.b", "trusted.a", "security.a"]),
    st.sampled_from([b"", b"1", b"two", bytes(300)]),
    max_size=2,
)
RUNS = st.lists(
    st.builds(Noise, OFFSETS, LENGTHS, SEEDS)
    | st.builds(Hole, OFFSETS, LENGTHS)
    | st.builds(Bytes, OFFSETS, st.sampled_from([b"x", b"hello\n", b"\0"])),
    max_size=3,
).map(tuple)
KINDS = ("file", "directory", "symlink", "fifo", "char", "block", "hardlink")


@dataclass(frozen=True)
class New:
    """A node to come: where and what; `kind` weighs files and directories more than the rest."""

    parent: int
    name: bytes
    kind: str
    runs: tuple[Noise | Hole | Bytes, ...]
    cut: int
    mode: int
    owner: int
    mtime: int
    xattrs: dict[str, bytes]
    other: int


NEW = st.builds(
    New,
    NUMBER,
    NAMES,
    st.sampled_from(("file", "directory", *KINDS)),
    RUNS,
    st.sampled_from([0, 0, 1, 4096, 10_000]),
    MODES,
    OWNERS,
    TIMES,
    XATTRS,
    NUMBER,
)


@dataclass(frozen=True)
class Edit:
    """A change to come; `which` and `where` are taken modulo the nodes that are there."""

    what: str
    which: int
    where: int
    new: New


EDITS = st.builds(
    Edit,
    st.sampled_from(
        [
            "add",
            "remove",
            "move",
            "move",
            "swap",
            "copy",
            "content",
            "append",
            "cut",
            "mode",
            "owner",
            "mtime",
            "xattrs",
            "retype",
            "link",
            "unlink-from-group",
            "root",
        ]
    ),
    NUMBER,
    NUMBER,
    NEW,
)


def tree_pairs(*, holes: bool = True) -> st.SearchStrategy[tuple[Tree, Tree]]:
    """Pairs (base, target) of specifications to be built."""
    return st.tuples(st.lists(NEW, max_size=14), st.lists(EDITS, max_size=8)).map(lambda drawn: _pair(*drawn, holes))


def trees() -> st.SearchStrategy[Tree]:
    """Single trees."""
    return st.lists(NEW, max_size=14).map(lambda news: _tree(news, holes=True))


def _pair(news: list[New], edits: list[Edit], holes: bool) -> tuple[Tree, Tree]:
    base = _tree(news, holes)
    target = dict(base)
    for n, edit in enumerate(edits):
        _apply(target, edit, f"e{n}", holes)
    return base, target


def _tree(news: list[New], holes: bool) -> Tree:
    tree: Tree = {b"": directory()}
    for n, new in enumerate(news):
        _add(tree, new, f"n{n}", holes)
    return tree


def _directories(tree: Tree) -> list[bytes]:
    return sorted(path for path, node in tree.items() if node.kind == "directory")


def _linkable(tree: Tree) -> list[bytes]:
    return sorted(path for path, node in tree.items() if node.kind != "directory")


def _at(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name


def _add(tree: Tree, new: New, group: str, holes: bool) -> None:
    above = _directories(tree)
    path = _at(above[new.parent % len(above)], new.name)
    if path in tree or len(path) > 200:
        return
    if new.kind == "hardlink":
        _link(tree, path, new.other, group)
    else:
        tree[path] = _node(new, holes)


def _link(tree: Tree, path: bytes, other: int, group: str) -> None:
    held = _linkable(tree)
    if held:
        first = held[other % len(held)]
        if tree[first].group is None:
            tree[first] = replace(tree[first], group=group)
        tree[path] = tree[first]


def _node(new: New, holes: bool) -> Node:
    dress = {"uid": new.owner, "gid": 65536 - new.owner if new.owner < 65536 else 0, "mtime": new.mtime}
    mine = ordered(new.xattrs)
    rare = tuple(pair for pair in mine if not pair[0].startswith("user."))
    match new.kind:
        case "directory":
            return directory(new.mode, xattrs=mine, **dress)
        case "symlink":
            return symlink(new.name * 3, xattrs=rare, **dress)
        case "fifo":
            return fifo(mode=new.mode, xattrs=rare, **dress)
        case "char" | "block":
            return device(new.kind, new.other, new.cut, mode=new.mode, xattrs=rare, **dress)
        case _:
            capable = (capability(1 << new.other % 30),) if new.other % 7 == 1 else ()
            runs = tuple(run for run in new.runs if holes or not isinstance(run, Hole))
            return sparse(_size(runs, new.cut), *runs, mode=new.mode, xattrs=(*mine, *capable), **dress)


def _size(runs: tuple[Noise | Hole | Bytes, ...], cut: int) -> int:
    ends = [run.offset + (len(run.data) if isinstance(run, Bytes) else run.length) for run in runs]
    return max(0, max(ends, default=0) - cut)


def _apply(tree: Tree, edit: Edit, group: str, holes: bool) -> None:
    named = sorted(path for path in tree if path)
    new = edit.new
    if edit.what == "add":
        _add(tree, new, group, holes)
    elif edit.what == "root":
        tree[b""] = directory(new.mode, uid=new.owner, mtime=new.mtime, xattrs=tuple(x for x in ordered(new.xattrs)))
    elif named:
        path = named[edit.which % len(named)]
        _edit(tree, path, edit, group, holes)


def _edit(tree: Tree, path: bytes, edit: Edit, group: str, holes: bool) -> None:
    node, new = tree[path], edit.new
    above = _directories(tree)
    match edit.what:
        case "remove":
            drop(tree, path)
        case "move":
            to = _at(above[edit.where % len(above)], new.name)
            if not (to == path or to.startswith(path + b"/")) and not path.startswith(to + b"/") and len(to) < 200:
                if to in tree:
                    drop(tree, to)
                move(tree, path, to)
        case "swap":
            named = sorted(p for p in tree if p)
            other = named[edit.where % len(named)]
            if path != other and not path.startswith(other + b"/") and not other.startswith(path + b"/"):
                move(tree, path, b"\0swap")
                move(tree, other, path)
                move(tree, b"\0swap", other)
        case "copy" if node.kind == "file":
            to = _at(above[edit.where % len(above)], new.name)
            if to not in tree and len(to) < 200:
                tree[to] = replace(node, group=None, mtime=new.mtime)
        case "content" if node.kind == "file":
            change(tree, path, **_content(node, (*node.runs, *new.runs), holes))
        case "append" if node.kind == "file":
            change(tree, path, **_content(node, (*node.runs, Noise(node.size, 5000, 3)), holes))
        case "cut" if node.kind == "file":
            change(tree, path, size=max(0, node.size - max(1, new.cut)))
        case "mode" if node.kind != "symlink":
            change(tree, path, mode=new.mode)
        case "owner":
            change(tree, path, uid=new.owner)
        case "mtime":
            change(tree, path, mtime=new.mtime)
        case "xattrs":
            bare = node.kind in ("file", "directory")
            mine = ((k, v) for k, v in ordered(new.xattrs) if bare or not k.startswith("user."))
            change(tree, path, xattrs=tuple(mine))
        case "retype":
            drop(tree, path)
            if parent_of(path) in tree and new.kind != "hardlink":
                tree[path] = _node(new, holes)
            elif new.kind == "hardlink":
                _link(tree, path, edit.where, group)
        case "link" if node.kind != "directory":
            to = _at(above[edit.where % len(above)], new.name)
            if to not in tree and len(to) < 200:
                if node.group is None:
                    tree[path] = replace(node, group=group)
                tree[to] = tree[path]
        case "unlink-from-group":
            tree[path] = replace(node, group=None)


def _content(node: Node, runs: tuple[Noise | Hole | Bytes, ...], holes: bool) -> dict[str, object]:
    kept = tuple(run for run in runs if holes or not isinstance(run, Hole))
    return {"runs": kept, "size": max(node.size, _size(kept, 0))}
