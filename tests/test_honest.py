"""The honest comparison finds every kind of difference: a tool that cannot fail proves nothing."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.honest import differences
from tests.kitchen.sink import base_tree, kitchen_sink, target_tree
from tests.trees import (
    NOON,
    Bytes,
    Noise,
    Tree,
    acl,
    build,
    capability,
    device,
    directory,
    fifo,
    file,
    sock,
    sparse,
    symlink,
)

PLAIN: Tree = {
    b"": directory(),
    b"dir": directory(),
    b"dir/file": file(b"content", mode=0o755, xattrs=(("user.a", b"1"), ("user.b", b"2"))),
    b"dir/link": symlink(b"target"),
    b"dir/fifo": fifo(),
    b"dir/char": device("char", 5, 1),
    b"dir/block": device("block", 8, 1),
    b"dir/sparse": sparse(64 << 10, Noise(16 << 10, 4096, 1)),
    b"dir/socket": sock(),
    b"one": file(b"linked", group="g"),
    b"two": file(b"linked", group="g"),
    b"three": file(b"linked"),
    b"odd \xff\n": file(b""),
}

Edit = tuple[bytes, dict[str, object], str]

EDITS: dict[str, Edit] = {
    "content": (b"dir/file", {"runs": (Bytes(0, b"contenT"),)}, "'dir/file': content differs from byte 6 on"),
    "size": (b"dir/file", {"size": 8}, "'dir/file': size 7 became 8"),
    "mode": (b"dir/file", {"mode": 0o754}, "'dir/file': mode 0o755 became 0o754"),
    "suid": (b"dir/file", {"mode": 0o4755}, "'dir/file': mode 0o755 became 0o4755"),
    "sticky": (b"dir", {"mode": 0o1755}, "'dir': mode 0o755 became 0o1755"),
    "owner": (b"dir/file", {"uid": 1}, "'dir/file': owner 0 became 1"),
    "group": (b"dir/file", {"gid": 1}, "'dir/file': group 0 became 1"),
    "mtime": (b"dir/file", {"mtime": NOON + 1}, f"'dir/file': mtime {NOON} became {NOON + 1}"),
    "dir mtime": (b"dir", {"mtime": NOON - 1}, f"'dir': mtime {NOON} became {NOON - 1}"),
    "link target": (b"dir/link", {"target": b"targeu"}, "'dir/link': symlink target b'target' became b'targeu'"),
    "link owner": (b"dir/link", {"uid": 7}, "'dir/link': owner 0 became 7"),
    "link mtime": (b"dir/link", {"mtime": NOON + 1}, f"'dir/link': mtime {NOON} became {NOON + 1}"),
    "link xattr": (b"dir/link", {"xattrs": (("trusted.t", b"x"),)}, "'dir/link': xattr 'trusted.t' None became b'x'"),
    "char number": (b"dir/char", {"rdev": (5, 2)}, "'dir/char': device number 5:1 became 5:2"),
    "block number": (b"dir/block", {"rdev": (9, 1)}, "'dir/block': device number 8:1 became 9:1"),
    "fifo mode": (b"dir/fifo", {"mode": 0o600}, "'dir/fifo': mode 0o644 became 0o600"),
    "socket": (b"dir/socket", {"kind": "fifo"}, "'dir/socket': a socket became a fifo"),
    "char to block": (b"dir/char", {"kind": "block"}, "'dir/char': a character device became a block device"),
    "file to dir": (b"three", {"kind": "directory"}, "'three': a file became a directory"),
    "file to link": (b"three", {"kind": "symlink", "target": b"x"}, "'three': a file became a symlink"),
    "xattr value": (
        b"dir/file",
        {"xattrs": (("user.a", b"1"), ("user.b", b"3"))},
        "'dir/file': xattr 'user.b' b'2' became b'3'",
    ),
    "xattr gone": (b"dir/file", {"xattrs": (("user.a", b"1"),)}, "'dir/file': xattr 'user.b' b'2' became None"),
    "hole filled": (
        b"dir/sparse",
        {"runs": (Noise(0, 16 << 10, 0), Noise(16 << 10, 4096, 1))},
        "'dir/sparse': data at 16384-20480 became data at 0-20480",
    ),
    "hole made": (
        b"dir/sparse",
        {"runs": ()},
        "'dir/sparse': data at 16384-20480 became data at nowhere",
    ),
    "root mode": (b"", {"mode": 0o700}, "the root directory: mode 0o755 became 0o700"),
    "root owner": (b"", {"uid": 5}, "the root directory: owner 0 became 5"),
    "root mtime": (b"", {"mtime": NOON + 5}, f"the root directory: mtime {NOON} became {NOON + 5}"),
    "root xattr": (b"", {"xattrs": (("user.r", b""),)}, "the root directory: xattr 'user.r' None became b''"),
    "one name of two": (b"one", {"group": None}, "'one': hard-linked with 'two' became hard-linked with nothing"),
    "one more name": (
        b"three",
        {"group": "g"},
        "'three': hard-linked with nothing became hard-linked with 'one', 'two'",
    ),
}


@pytest.fixture
def ground(btrfs_of_module: Path) -> Iterator[Path]:
    """An empty directory on Btrfs, which holds all namespaces of xattrs and punches holes of one block."""
    with tempfile.TemporaryDirectory(dir=btrfs_of_module) as path:
        yield Path(path)


def found(ground: Path, one: Tree, two: Tree, **how: bool) -> list[str]:
    build(one, ground / "one")
    build(two, ground / "two")
    return differences(ground / "one", ground / "two", **how)


@pytest.mark.parametrize("what", EDITS)
def test_finds_a_difference_in(what: str, ground: Path) -> None:
    path, fields, expected = EDITS[what]
    assert expected in found(ground, PLAIN, PLAIN | {path: replace(PLAIN[path], **fields)})


@pytest.mark.parametrize("path", [p for p in PLAIN if p not in (b"", b"dir")])
def test_finds_what_is_missing(path: bytes, ground: Path) -> None:
    less = {p: node for p, node in PLAIN.items() if p != path}
    kind = {"char": "character device", "block": "block device"}.get(PLAIN[path].kind, PLAIN[path].kind)
    name = ascii(path.decode("utf-8", "backslashreplace"))
    assert f"{name}: a {kind} that is only in the first tree" in found(ground, PLAIN, less)
    assert f"{name}: a {kind} that is only in the second tree" in differences(ground / "two", ground / "one")


@pytest.mark.parametrize("xattr", [acl(0o640, (1, 4)), capability(1 << 10), ("security.x", b"1"), ("trusted.x", b"")])
def test_finds_an_xattr_of_every_namespace(xattr: tuple[str, bytes], ground: Path) -> None:
    bare = {b"f": file(mode=0o640)}
    (line,) = found(ground, bare, {b"f": file(mode=0o640, xattrs=(xattr,))})
    assert line == f"'f': xattr {xattr[0]!r} None became {xattr[1]!r}"


def test_finds_other_partitions_of_the_same_names(ground: Path) -> None:
    def grouped(*groups: str) -> Tree:
        return {b"f%d" % n: file(b"same", group=group) for n, group in enumerate(groups)}

    assert found(ground, grouped("x", "x", "y", "y"), grouped("x", "y", "y", "x"))


def test_finds_a_difference_far_into_a_big_file(ground: Path) -> None:
    big = {b"f": sparse(3 << 20, Noise(0, 3 << 20, 1))}
    edit = {b"f": sparse(3 << 20, Noise(0, 3 << 20, 1), Bytes((3 << 20) - 2, b"\0\1\2\3"[:2]))}
    assert found(ground, big, edit) == [f"'f': content differs from byte {(3 << 20) - 2} on"]


def test_zeros_against_a_hole_differ_only_in_where_data_is(ground: Path) -> None:
    zeros, hole = {b"f": sparse(8192, Noise(0, 8192, 0))}, {b"f": sparse(8192)}
    assert found(ground, zeros, hole) == ["'f': data at 0-8192 became data at nowhere"]
    assert differences(ground / "one", ground / "two", holes=False) == []


def test_sockets_can_be_left_out(ground: Path) -> None:
    one, two = {b"": directory(), b"s": sock()}, {b"": directory()}
    assert found(ground, one, two, sockets=False) == []
    assert differences(ground / "one", ground / "two") == ["'s': a socket that is only in the first tree"]


def test_equal_trees_are_equal_and_states_of_the_kitchen_sink_are_not(ground: Path) -> None:
    one, again, changed = ground / "one", ground / "again", ground / "changed"
    kitchen_sink(one, sockets=True)
    kitchen_sink(again, sockets=True)
    assert differences(one, again) == []
    build(target_tree(sockets=True), changed)
    named = "\n".join(differences(one, changed))
    for what in (
        "mode",
        "owner",
        "group",
        "mtime",
        "size",
        "symlink target",
        "device number",
        "hard-linked",
        "data at",
    ):
        assert what in named


def test_the_builder_builds_what_it_is_told(ground: Path) -> None:
    """The specification of the kitchen sink against what the system says, without the comparison in between."""
    tree = base_tree(sockets=True)
    build(tree, ground / "it")
    for path, node in tree.items():
        held = ground / "it" / os.fsdecode(path)
        st = os.lstat(held)
        assert (st.st_uid, st.st_gid, st.st_mtime_ns) == (node.uid, node.gid, node.mtime), path
        assert stat.S_IMODE(st.st_mode) == node.mode, path
        assert {
            key: os.getxattr(held, key, follow_symlinks=False) for key in os.listxattr(held, follow_symlinks=False)
        } == dict(node.xattrs)
