"""Layers over a base, as OCI packs them: what they bring, replace and remove, and what of the base stays shared."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tbdiff.entry import EMPTY
from tbdiff.errors import NothingToDo, Rejected
from tbdiff.image import open_image
from tbdiff.overlay import Layer, overlay
from tbdiff.tree import read_tree
from tests.honest import differences
from tests.random_trees import tree_pairs
from tests.roundtrip import clear
from tests.tarballs import GNU_TARS, Raw, archive, gnu_tar
from tests.tarballs import directory as folder
from tests.trees import NOON, Noise, Tree, build, device, directory, drop, fifo, file, sock, sparse, symlink

pytestmark = pytest.mark.slow

BASE: Tree = {
    b"": directory(0o755, mtime=NOON - 5),
    b"bin": symlink(b"usr/bin"),
    b"dev": directory(),
    b"dev/pipe": fifo(),
    b"etc": directory(),
    b"etc/hosts": file(b"127.0.0.1 localhost\n"),
    b"etc/sub": directory(),
    b"etc/sub/deep": directory(),
    b"etc/sub/deep/file": file(b"deep"),
    b"links": directory(),
    b"links/a": file(b"shared", group="g", xattrs=(("user.a", b"1"),)),
    b"links/b": file(b"shared", group="g", xattrs=(("user.a", b"1"),)),
    b"links/c/d": file(b"shared", group="g", xattrs=(("user.a", b"1"),)),
    b"run": directory(),
    b"run/socket": sock(),
    b"usr/bin/tool": sparse(5 << 20, Noise(0, 5 << 20, 1), mode=0o755),
    b"usr/holes": sparse(1 << 20, Noise(65536, 4096, 2)),
}


@pytest.fixture
def ground(btrfs_of_module: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=btrfs_of_module) as path:
        yield Path(path)


def with_parents(tree: Tree) -> Tree:
    whole = dict(tree)
    for path in tree:
        while path := path.rpartition(b"/")[0]:
            whole.setdefault(path, directory())
    return whole


def assert_layer(layer: Tree | Path, expected: Tree, ground: Path) -> None:
    """A layer, given as a tree of its own or packed, makes the expected tree of the base."""
    build(BASE, ground / "tree")
    build(expected, ground / "expected")
    if isinstance(layer, Path):
        tarball = layer
    else:
        build({b"": BASE[b""]} | layer, ground / "layer")
        tarball = gnu_tar(ground / "layer", ground / "image", *GNU_TARS["pax-sparse-1.0"])
    with open_image(str(tarball), delta=True) as image:
        listing = image.apply(ground / "tree")
    assert differences(ground / "expected", ground / "tree", sockets=False) == []
    assert listing.digest == read_tree(ground / "tree").digest


def test_additions_and_replacements(ground: Path) -> None:
    layer: Tree = {
        b"dev": directory(),
        b"dev/null": device("char", 1, 3),
        b"etc": directory(0o700, mtime=NOON + 1),
        b"etc/hosts": file(b"new\n", mode=0o600, mtime=NOON + 2),
        b"etc/sub": directory(),
        b"etc/sub/deep": file(b"a file now"),
        b"etc/new": symlink(b"hosts"),
        b"usr": directory(),
        b"usr/holes": sparse(1 << 20, Noise(0, 4096, 3), Noise(1 << 19, 4096, 4)),
    }
    expected = with_parents(BASE) | layer
    drop(expected, b"etc/sub/deep/file")
    assert_layer(layer, expected, ground)


def test_removals(ground: Path) -> None:
    layer: Tree = {
        b".wh.bin": file(),
        b"etc": directory(),
        b"etc/sub": directory(0o711),
        b"etc/sub/.wh..wh..opq": file(),
        b"etc/sub/new": file(b"n"),
        b"etc/.wh.missing": file(),
        b"links": directory(),
        b"links/.wh.a": file(),
        b"run": directory(),
        b"run/.wh.socket": file(),
        b"usr": directory(),
        b"usr/.wh.bin": file(),
    }
    expected = with_parents(BASE)
    for path in (b"bin", b"etc/sub/deep", b"links/a", b"usr/bin"):
        drop(expected, path)
    expected |= {b"etc/sub": directory(0o711), b"etc/sub/new": file(b"n")}
    assert_layer(layer, expected, ground)


def test_a_first_name_that_is_replaced_leaves_the_others_linked(ground: Path) -> None:
    layer: Tree = {b"links": directory(), b"links/a": file(b"its own now")}
    expected = with_parents(BASE) | {b"links/a": file(b"its own now")}
    assert_layer(layer, expected, ground)


def test_hard_links_to_the_base(ground: Path) -> None:
    stat = {"mtime": NOON // 10**9}
    members = (
        folder(b"links", **stat),
        Raw(b"links/e", flag=b"1", link=b"links/c/d"),
        Raw(b"links/b", b"new", **stat),
        Raw(b"links/f", flag=b"1", link=b"links/b"),
        folder(b"links/c", **stat),
        folder(b".", mtime=(NOON - 5) // 10**9),
    )
    (ground / "image").write_bytes(archive(*members))
    expected = with_parents(BASE) | {b"links/b": file(b"new", group="new"), b"links/f": file(b"new", group="new")}
    expected[b"links/e"] = expected[b"links/a"]
    expected[b""] = replace(expected[b""], mtime=(NOON - 5) // 10**9 * 10**9)
    assert_layer(ground / "image", expected, ground)


def test_everything_goes(ground: Path) -> None:
    layer: Tree = {b".wh..wh..opq": file(), b"only": file(b"this")}
    assert_layer(layer, {b"": BASE[b""], b"only": file(b"this")}, ground)


@given(pair=tree_pairs())
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=40)
def test_a_layer_leads_anywhere(pair: tuple[Tree, Tree], btrfs_of_module: Path) -> None:
    """All of the target, with marks for what only the base has, makes the target: over the base and over nothing."""
    ground = btrfs_of_module / "random"
    ground.mkdir(exist_ok=True)
    clear(ground)
    for tree, name in zip(pair, ("base", "target"), strict=True):
        build(tree, ground / name)
    base, target = read_tree(ground / "base"), read_tree(ground / "target")
    gone = frozenset(entry.path for entry in base if target.get(entry.path) is None)
    made = overlay(base, Layer(tuple(target), whiteouts=gone))
    assert made.digest == target.digest
    assert overlay(base, Layer(tuple(target), opaque=frozenset({b""}))).digest == target.digest
    assert overlay(EMPTY, Layer(tuple(target))).digest == target.digest
    assert overlay(base, Layer()).digest == base.digest


def test_what_is_the_same_stays_shared(btrfs: Path) -> None:
    subprocess.run(["btrfs", "-q", "subvolume", "create", btrfs / "base"], check=True)
    build(BASE, btrfs / "base")
    subprocess.run(["btrfs", "-q", "subvolume", "snapshot", btrfs / "base", btrfs / "tree"], check=True)
    copied = BASE | {b"usr/bin/copy": BASE[b"usr/bin/tool"], b"usr/holes": replace(BASE[b"usr/holes"], mode=0o600)}
    build(copied, btrfs / "layer")
    # Without a map of holes: the layer says nothing of them, and those of the base stay.
    tarball = gnu_tar(btrfs / "layer", btrfs / "image", *GNU_TARS["pax"])
    with open_image(str(tarball), delta=True) as image:
        image.apply(btrfs / "tree")
    assert differences(btrfs / "layer", btrfs / "tree", sockets=False) == []
    said = subprocess.run(
        ["btrfs", "filesystem", "du", "-s", "--raw", btrfs / "tree"], check=True, capture_output=True, text=True
    )
    assert int(said.stdout.splitlines()[-1].split()[1]) < 100_000


def test_a_layer_that_brings_nothing(ground: Path) -> None:
    build(BASE, ground / "tree")
    build({b"": BASE[b""]}, ground / "layer")
    tarball = gnu_tar(ground / "layer", ground / "image", *GNU_TARS["pax"])
    with open_image(str(tarball), delta=True) as image, pytest.raises(NothingToDo):
        image.apply(ground / "tree")


def test_a_full_system_over_what_is_there(ground: Path) -> None:
    build(BASE, ground / "tree")
    build(BASE, ground / "before")
    tarball = gnu_tar(ground / "tree", ground / "image", *GNU_TARS["pax"])
    with open_image(str(tarball)) as image, pytest.raises(Rejected, match="not empty"):
        image.apply(ground / "tree")
    assert differences(ground / "before", ground / "tree", sockets=False) == []
