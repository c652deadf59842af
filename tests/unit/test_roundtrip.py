"""Random pairs of trees round-trip on whatever file system the temporary directory is on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings

from tbdiff.create import create_image
from tbdiff.errors import Stop
from tbdiff.image import open_image
from tests.honest import differences
from tests.random_trees import tree_pairs
from tests.roundtrip import assert_round_trips
from tests.trees import NOON, Noise, Tree, build, change, directory, file, move, sparse, symlink


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("roundtrip")


@given(pair=tree_pairs())
@example(pair=({b"": directory()}, {b"": directory()}))
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_random_pairs(pair: tuple[Tree, Tree], ground: Path) -> None:
    assert_round_trips(*pair, ground)


def linked(*names: bytes, **rest: object) -> Tree:
    return {name: file(b"one inode", group="g", **rest) for name in names}


PAIRS: dict[str, tuple[Tree, Tree]] = {
    "nothing but the root's time": ({b"": directory()}, {b"": directory(mtime=NOON + 1)}),
    "all goes": ({b"a/b/c": file(b"x"), b"l": symlink(b"a")}, {b"": directory()}),
    "a group loses its first name": (linked(b"a", b"b", b"c"), linked(b"b", b"c")),
    "a group's first name becomes another file": (linked(b"a", b"b"), linked(b"b", b"c") | {b"a": file(b"other")}),
    "two groups swap names": (
        linked(b"a", b"b") | {b"c": file(b"2", group="h"), b"d": file(b"2", group="h")},
        {b"a": file(b"2", group="h"), b"b": file(b"one inode", group="g")}
        | {b"c": file(b"one inode", group="g"), b"d": file(b"2", group="h")},
    ),
    "a group of equals forms": (
        {b"a": file(b"="), b"b": file(b"=")},
        {b"a": file(b"=", group="g"), b"b": file(b"=", group="g")},
    ),
    "a group breaks into equals": (
        {b"a": file(b"=", group="g"), b"b": file(b"=", group="g")},
        {b"a": file(b"="), b"b": file(b"=")},
    ),
    "linked symlinks": (
        {b"a": symlink(b"x", group="g"), b"b": symlink(b"x", group="g")},
        {b"a": symlink(b"y", group="g"), b"b": symlink(b"y", group="g"), b"c": symlink(b"y", group="g")},
    ),
    "a name becomes a directory holding it": ({b"a": file(b"x")}, {b"a/a": file(b"x")}),
    "a directory becomes the file in it": ({b"a/a": file(b"x")}, {b"a": file(b"x")}),
    "a moved directory's file changes its kind": (
        {b"d/1": file(b"1"), b"d/2": file(b"2"), b"d/3": file(b"3")},
        {b"e/1": file(b"1"), b"e/2": symlink(b"2"), b"e/3": file(b"3")},
    ),
    "a linked file moves with its directory": (
        linked(b"d/1", b"d/2", b"z") | {b"d/3": file(b"3")},
        linked(b"e/1", b"e/2", b"z") | {b"e/3": file(b"3")},
    ),
    "a linked file's directory moves before its first name": (
        linked(b"b/1", b"c/2") | {b"b/x": file(b"x"), b"c/y": file(b"y")},
        linked(b"b/1", b"a/2") | {b"b/x": file(b"x"), b"a/y": file(b"y")},
    ),
    "content and name swap": ({b"a": file(b"1"), b"b": file(b"2")}, {b"a": file(b"2"), b"b": file(b"1")}),
    "a file is copied and its source changes": (
        {b"a": file(b"old" * 5000)},
        {b"a": file(b"new" * 5000), b"b": file(b"old" * 5000), b"c/d": file(b"old" * 5000, mode=0)},
    ),
    "a file is copied and its source's directory goes": (
        {b"d/a": file(b"old" * 5000)},
        {b"b": file(b"old" * 5000), b"c": file(b"old" * 5000, uid=1)},
    ),
}


@pytest.mark.parametrize("what", PAIRS)
def test_chosen_pairs(what: str, tmp_path: Path) -> None:
    assert_round_trips(*PAIRS[what], tmp_path)


def test_nested_swaps(tmp_path: Path) -> None:
    base: Tree = {b"a/%d/f%d" % (n, m): file(b"%d %d" % (n, m)) for n in range(3) for m in range(3)}
    target = dict(base)
    move(target, b"a/0", b"a/x")
    move(target, b"a/1", b"a/0")
    move(target, b"a/x", b"a/0/1")
    move(target, b"a", b"b")
    change(target, b"b/0/1/f1", mode=0o600)
    assert_round_trips(base, target, tmp_path)


@pytest.mark.parametrize("order", [(b"a", b"b"), (b"b", b"a")])
@pytest.mark.parametrize("size", [1, 5000, 8192, 8193])
def test_equal_content_with_and_without_a_hole(size: int, order: tuple[bytes, bytes], tmp_path: Path) -> None:
    zeros, hole = order
    target: Tree = {zeros: sparse(size, Noise(0, size, 0)), hole: sparse(size)}
    target[b"half"] = sparse(size, Noise(0, min(size, 4096), 0))
    assert_round_trips({b"": directory()}, target, tmp_path)


def test_a_file_whose_holes_only_change(tmp_path: Path) -> None:
    base: Tree = {b"a": sparse(16384, Noise(0, 16384, 0)), b"b": sparse(16384)}
    target: Tree = {b"a": sparse(16384, Noise(4096, 4096, 0)), b"b": sparse(16384, Noise(8192, 8192, 0))}
    assert_round_trips(base, target, tmp_path)


def test_a_refused_apply_leaves_the_tree_to_the_next(tmp_path: Path) -> None:
    """The image breaks off in the middle; the whole one can be applied to the same tree afterwards."""
    base: Tree = {b"a": file(b"1"), b"b": file(b"b")}
    target: Tree = {b"a": sparse(3 << 20, Noise(0, 3 << 20, 1)), b"c": file(b"c")}
    for name, tree in (("base", base), ("pristine", base), ("target", target)):
        build(tree, tmp_path / name)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    create_image(tmp_path / "base", tmp_path / "target", whole, effort="fast")
    cut.write_bytes(whole.read_bytes()[: 2 << 20])
    with pytest.raises(Stop), open_image(str(cut), None, unsigned_ok=True) as image:
        image.apply(tmp_path / "base")
    assert differences(tmp_path / "pristine", tmp_path / "base") == []
    with open_image(str(whole), None, unsigned_ok=True) as image:
        image.apply(tmp_path / "base")
    assert differences(tmp_path / "target", tmp_path / "base") == []
