"""Images become tarballs that other programs read, and that lead to the same tree; always the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tbdiff import acl
from tbdiff.convert import convert_to_tar, pack_tree
from tbdiff.create import create_image
from tbdiff.entry import Entry, Kind
from tbdiff.image import open_image
from tbdiff.tar.check import Scan
from tbdiff.tar.filter import Packing
from tbdiff.tar.writer import headers
from tbdiff.tree import read_tree
from tests import metered
from tests.honest import differences
from tests.kitchen.sink import kitchen_sink, kitchen_sink_changed, target_tree
from tests.random_trees import trees
from tests.roundtrip import clear
from tests.tarballs import GNU_TARS, gnu_tar
from tests.trees import NOON, Bytes, Noise, Tree, build, device, directory, drop, file, sparse, symlink
from tests.trees import acl as acl_of

pytestmark = pytest.mark.slow

SUFFIXES = ("tar", "tar.gz", "tar.zst", "tar.xz")
SMALL: Tree = {
    b"": directory(0o711, uid=1, gid=2, mtime=NOON + 2),
    b"etc/conf": file(b"x" * 1000, xattrs=(acl_of(0o640, (54322, 6)),), mode=0o640),
    b"etc/\xff": symlink(b"conf", mtime=NOON + 3),
    b"bin/a": file(b"a", group="a"),
    b"bin/b": file(b"a", group="a"),
    b"bin/sparse": sparse(200_000, Noise(70_000, 5000, 1)),
    b"dev/null": device("char", 1, 3),
}


@pytest.fixture
def ground(btrfs_of_module: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=btrfs_of_module) as path:
        yield Path(path)


def tbdiff(*arguments: str | Path) -> metered.Ended:
    return metered.run("tbdiff", *arguments)


def unpacked(tarball: Path, to: Path) -> Path:
    to.mkdir()
    with open_image(str(tarball)) as image:
        image.apply(to)
    return to


def test_everything_comes_back(ground: Path) -> None:
    kitchen_sink(ground / "base")
    kitchen_sink_changed(ground / "target")
    create_image(ground / "base", ground / "target", ground / "image", effort="fast")
    out = ground / "out.tar"
    ended = tbdiff("convert", ground / "image", ground / "base", "-o", out, "--json")
    assert ended.code == 0, ended.err
    said = json.loads(ended.out)
    assert (said["size"], said["tree"]) == (out.stat().st_size, read_tree(ground / "target").digest.hex())
    assert differences(ground / "target", unpacked(out, ground / "new"), sockets=False) == []
    assert not list(ground.glob(".*"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_packings(suffix: str, ground: Path) -> None:
    build(SMALL, ground / "tree")
    create_image(None, ground / "tree", ground / "image", effort="fast")
    assert tbdiff("convert", ground / "image", "-o", ground / f"out.{suffix}").code == 0
    magic = {"tar": b"./", "tar.gz": b"\x1f\x8b", "tar.zst": b"\x28\xb5", "tar.xz": b"\xfd7"}
    assert (ground / f"out.{suffix}").read_bytes().startswith(magic[suffix])
    assert differences(ground / "tree", unpacked(ground / f"out.{suffix}", ground / "new")) == []


@given(tree=trees())
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=40)
def test_random_trees_come_back(tree: Tree, btrfs_of_module: Path) -> None:
    ground = btrfs_of_module / "random"
    ground.mkdir(exist_ok=True)
    clear(ground)
    build(tree, ground / "tree")
    pack_tree(ground / "tree", ground / "out.tar", Packing.NONE)
    assert differences(ground / "tree", unpacked(ground / "out.tar", ground / "new"), sockets=False) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_same_tree_same_bytes(suffix: str, ground: Path) -> None:
    for n in (1, 2):
        build(SMALL, ground / f"tree{n}")
        create_image(None, ground / f"tree{n}", ground / f"{n}.tbdiff", effort="fast")
        convert_to_tar(str(ground / f"{n}.tbdiff"), None, ground / f"{n}.{suffix}")
    assert (ground / f"1.{suffix}").read_bytes() == (ground / f"2.{suffix}").read_bytes()


def test_gnu_tar_reads_it(ground: Path) -> None:
    build(target_tree(), ground / "tree")
    pack_tree(ground / "tree", ground / "out.tar", Packing.NONE)
    (ground / "new").mkdir()
    options = (
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--numeric-owner",
        "--same-owner",
        "-p",
        "--delay-directory-restore",
    )
    subprocess.run(["tar", "-xf", ground / "out.tar", "-C", ground / "new", *options], check=True, capture_output=True)
    assert differences(ground / "tree", ground / "new", holes=False) == []


def test_bsdtar_reads_it(ground: Path) -> None:
    tree = target_tree()
    # bsdtar normalises Unicode, and has its own mind of fractions of seconds before 1970.
    drop(tree, b"names")
    drop(tree, b"times")
    build(tree, ground / "tree")
    pack_tree(ground / "tree", ground / "out.tar", Packing.NONE)
    (ground / "new").mkdir()
    unpack = ["bsdtar", "-xpf", ground / "out.tar", "--numeric-owner", "--acls", "--xattrs", "-C", ground / "new"]
    subprocess.run(unpack, check=True, capture_output=True, env=os.environ | {"LC_ALL": "C.UTF-8"})
    found = differences(ground / "tree", ground / "new", holes=False)
    assert [line for line in found if not line.startswith("the root directory: mtime")] == []


def test_python_reads_it(ground: Path) -> None:
    build(
        {
            b"d/\xff\xfe": file(b"raw"),
            b"long/" * 40 + b"name": file(b"x"),
            b"hole": sparse(1 << 20, Bytes(70_000, b"x")),
        },
        ground / "t",
    )
    pack_tree(ground / "t", ground / "out.tar", Packing.NONE)
    with tarfile.open(ground / "out.tar", errors="surrogateescape") as archive:
        names = {os.fsencode(name) for name in archive.getnames()}
        hole = archive.extractfile("./hole")
        assert hole is not None
        assert hole.read() == bytes(70_000) + b"x" + bytes((1 << 20) - 70_001)
    assert {b"./d/\xff\xfe", b"./" + b"long/" * 40 + b"name"} <= names


def test_sizes_and_numbers_beyond_the_fields(ground: Path) -> None:
    odd: Tree = {
        b"owned": file(b"x", uid=2**32 - 2, gid=2**31, mtime=-1),
        b"late": file(b"x", mtime=2**34 * 10**9 + 7),
        b"early": file(b"x", mtime=-(2**31) * 10**9 + 1),
    }
    build(odd, ground / "tree")
    pack_tree(ground / "tree", ground / "out.tar", Packing.NONE)
    assert differences(ground / "tree", unpacked(ground / "out.tar", ground / "new")) == []


@pytest.mark.parametrize("size", [2**33 - 1, 2**33, 2**40])
@pytest.mark.parametrize("extents", [None, ((0, 5), (2**32, 7))])
def test_sizes_beyond_the_fields(size: int, extents: tuple[tuple[int, int], ...] | None) -> None:
    """Only the headers: what is behind them is as it is for small files."""
    entry = Entry(b"large", Kind.FILE, size=size, extents=extents)
    scan = Scan()
    for block in headers(entry, entry):
        scan.feed(block)
    assert [member.entry for member in scan.members] == [entry]


def test_signed_with_what_it_is_called(ground: Path) -> None:
    build({b"f": file(b"x")}, ground / "tree")
    create_image(None, ground / "tree", ground / "image", effort="fast")
    assert tbdiff("keygen", ground / "key").code == 0
    out = ground / "out.tar.zst"
    ended = tbdiff("convert", ground / "image", "-o", out, "--name", "System")
    assert (ended.code, "--key" in ended.err) == (2, True), ended
    ended = tbdiff("convert", ground / "image", "-o", out, "--name", "System", "--key", ground / "key")
    assert ended.code == 0, ended.err
    (ground / "new").mkdir()
    assert tbdiff("apply", out, ground / "new", "--keys", ground / "key.pub").code == 0
    assert differences(ground / "tree", ground / "new") == []
    said = json.loads(tbdiff("show", out, "--json").out)
    assert said["target"]["name"] == "System"


def test_from_one_packing_to_another(ground: Path) -> None:
    build({b"f": file(b"x"), b"g": sparse(9000, Noise(0, 9000, 1))}, ground / "tree")
    gnu_tar(ground / "tree", ground / "in.tar", *GNU_TARS["pax"])
    assert tbdiff("convert", ground / "in.tar", "-o", ground / "out.tar.xz").code == 0
    assert differences(ground / "tree", unpacked(ground / "out.tar.xz", ground / "new")) == []


def test_what_no_tarball_holds_is_refused(ground: Path) -> None:
    build({b".wh.f": file(b"x")}, ground / "tree")
    create_image(None, ground / "tree", ground / "image", effort="fast")
    ended = tbdiff("convert", ground / "image", "-o", ground / "out.tar")
    assert (ended.code, ".wh.f" in ended.err) == (3, True), ended
    assert sorted(path.name for path in ground.iterdir()) == ["image", "tree"]


def test_a_tree_that_is_not_the_base_is_named_as_it_was_given(ground: Path) -> None:
    for name in ("base", "target", "other"):
        build({b"f": file(name.encode())}, ground / name)
    create_image(ground / "base", ground / "target", ground / "image", effort="fast")
    ended = tbdiff("convert", ground / "image", ground / "other", "-o", ground / "out.tar")
    assert (ended.code, f"{ground}/other is not the tree that the image starts from" in ended.err) == (3, True), ended


def test_lists_as_text() -> None:
    value = acl_of(0o640, (54322, 6), (54323, 4))[1]
    assert acl.to_text(value) == b"user::rw-,user:54322:rw-,user:54323:r--,group::r--,mask::r--,other::---"
    assert acl.from_text(acl.to_text(value) or b"") == value
    assert acl.to_text(value[:-1]) is None
    assert acl.to_text(b"") is None


def test_links_of_devices(ground: Path) -> None:
    """What GNU tar's own archives lose."""
    tree = target_tree()
    for path in [path for path in tree if not path.startswith(b"links") and path]:
        if path in tree:
            drop(tree, path)
    build(tree, ground / "tree")
    pack_tree(ground / "tree", ground / "out.tar", Packing.NONE)
    assert differences(ground / "tree", unpacked(ground / "out.tar", ground / "new")) == []
