"""Names, hard links, times, owners, at their edges."""

from __future__ import annotations

from tests.trees import NOON, SECOND, Bytes, Tree, change, device, directory, drop, fifo, file, move, symlink

ID_MAX = 2**32 - 2
Y1901, Y2100 = -2_177_452_800 * SECOND, 4_102_444_800 * SECOND

# A line break, no UTF-8, a terminal's colour, what a shell would eat, one letter in two normal forms.

ODD = (
    b"new\nline",
    b"\xff\xfe not utf-8 \x80",
    b"tab\tand\x1b[31mred",
    b" ",
    b"-rf",
    b"\\n",
    b"*",
    b"\xc3\xa9",
    b"e\xcc\x81",
    b"...",
)
LONG, LONG_UTF8 = b"n" * 255, "ü".encode() * 127
DEEP = b"/".join([b"deep", *[b"%03d-" % n + b"d" * 196 for n in range(19)]])


def before() -> Tree:
    """The first state."""
    return _names() | _links() | _times() | _ids()


def edit(tree: Tree) -> None:
    """Turn it into the second."""
    for part in (_edit_names, _edit_links, _edit_times, _edit_ids):
        part(tree)


def _names() -> Tree:
    tree: Tree = {}
    for name in (*ODD, LONG, LONG_UTF8):
        tree[b"names/" + name] = file(b"in " + name)
        tree[b"names/dirs/" + name + b"/" + name] = file(b"in a directory " + name)
        tree[b"names/links/" + name[:200] + b".l"] = symlink(name)
    tree[b"names/long-target"] = symlink(b"t" * 4095)
    tree[DEEP + b"/bottom"] = file(b"far down")
    tree[b"shallow/" + b"/".join([b"a"] * 300) + b"/bottom"] = file(b"many levels")
    return tree


def _edit_names(tree: Tree) -> None:
    for name in ODD:
        change(tree, b"names/" + name, runs=(Bytes(0, b"changed " + name),), size=8 + len(name))
        change(tree, b"names/links/" + name + b".l", target=name + b"\n")
    drop(tree, b"names/" + LONG)
    move(tree, b"names/dirs/" + LONG, b"names/dirs/" + b"m" * 255)
    move(tree, b"names/dirs/new\nline", b"names/dirs/new\rline\xff")
    change(tree, b"names/long-target", target=b"u" * 4095)
    change(tree, DEEP + b"/bottom", mode=0o600)
    tree[DEEP + b"/added"] = file(b"also far down")
    tree[b"shallow/" + b"/".join([b"a"] * 300) + b"/added"] = symlink(b"../" * 300)
    # A name that one state has as the prefix of another's: order and lookup by bytes must not mix them.
    tree[b"names/dirs.d/x"] = file(b"sorts between dirs and dirs/")
    tree[b"names/dirs-"] = file(b"so does this")


def _group(name: str, *paths: bytes, data: bytes | None = None) -> Tree:
    return {b"links/" + path: file(data or name.encode() * 50, group=name) for path in paths}


def _links() -> Tree:
    return {
        **_group("same", b"same-1", b"d/same-2"),
        **_group("breaks", b"breaks-1", b"breaks-2", b"d/breaks-3"),
        **_group("all-break", b"all-break-1", b"all-break-2"),
        **_group("gains", b"gains-1", b"gains-2"),
        **_group("loses-first", b"a-first", b"b-second", b"c-third"),
        **_group("one", b"one-1", b"one-2", b"merged-1"),
        **_group("two", b"two-1", b"two-2", b"merged-2"),
        **_group("edited", b"edited-1", b"d/edited-2"),
        **_group("moved", b"moved-1", b"d/moved-2"),
        **_group("dies", b"dies-1", b"dies-2"),
        **_group("new-inode", b"new-inode-1", b"new-inode-2", data=b"equal"),
        b"links/will-form-1": file(b"equal before"),
        b"links/will-form-2": file(b"equal before"),
        b"links/will-form-3": file(b"not equal before"),
        b"links/sym-1": symlink(b"somewhere", group="sym"),
        b"links/sym-2": symlink(b"somewhere", group="sym"),
        b"links/fifo-1": fifo(group="fifo"),
        b"links/d/fifo-2": fifo(group="fifo"),
        b"links/null-1": device("char", 1, 3, group="null"),
        b"links/null-2": device("char", 1, 3, group="null"),
    }


def _edit_links(tree: Tree) -> None:
    tree[b"links/breaks-2"] = file(b"its own now")
    for path in (b"links/all-break-1", b"links/all-break-2"):
        tree[path] = file(b"all-break" * 50)
    tree[b"links/gains-0"] = tree[b"links/new-dir/gains-3"] = tree[b"links/gains-1"]
    del tree[b"links/a-first"]
    tree[b"links/merged-1"], tree[b"links/merged-2"] = tree[b"links/merged-2"], tree[b"links/merged-1"]
    change(tree, b"links/edited-1", runs=(Bytes(0, b"edited under both names"),), size=23, mode=0o600)
    move(tree, b"links/moved-1", b"links/zz-moved")
    move(tree, b"links/d/moved-2", b"links/0-moved")
    drop(tree, b"links/dies-1")
    drop(tree, b"links/dies-2")
    formed = file(b"equal before", group="formed", mtime=NOON + 7)
    for n in (1, 2, 3):
        tree[b"links/will-form-%d" % n] = formed
    tree[b"links/sym-3"] = tree[b"links/sym-1"]
    del tree[b"links/sym-2"]
    tree[b"links/fifo-1"] = fifo()
    change(tree, b"links/null-1", rdev=(1, 5))
    # The group's name of one state becomes a directory that holds the group's new name in the other.
    del tree[b"links/new-inode-1"]
    tree[b"links/new-inode-1/inside"] = tree[b"links/new-inode-2"]


TIMES = (Y1901, -SECOND, -1, 0, 1, 999_999_999, SECOND, Y2100, Y2100 + 999_999_999, 2**31 * SECOND, 2**32 * SECOND + 5)
IDS = (0, 1, 65535, 65536, 2**31 - 1, 2**31, ID_MAX)


def _times() -> Tree:
    tree: Tree = {}
    for n, when in enumerate(TIMES):
        tree[b"times/file-%d" % n] = file(b"t", mtime=when)
        tree[b"times/dir-%d" % n] = directory(mtime=when)
        tree[b"times/link-%d" % n] = symlink(b"t", mtime=when)
    return tree


def _edit_times(tree: Tree) -> None:
    for n in range(len(TIMES)):
        for kind in (b"file", b"dir", b"link"):
            change(tree, b"times/%s-%d" % (kind, n), mtime=TIMES[(n + 1) % len(TIMES)])


def _ids() -> Tree:
    tree: Tree = {}
    for n, owner in enumerate(IDS):
        tree[b"ids/file-%d" % n] = file(b"i", uid=owner, gid=IDS[-1 - n])
        tree[b"ids/link-%d" % n] = symlink(b"i", uid=owner, gid=IDS[-1 - n])
    return tree


def _edit_ids(tree: Tree) -> None:
    for n in range(len(IDS)):
        for kind in (b"file", b"link"):
            change(tree, b"ids/%s-%d" % (kind, n), uid=IDS[-1 - n], gid=IDS[(n + 3) % len(IDS)])
