"""Images that follow one on the other: applied at once, taken up in the middle, and made one."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tbdiff.create import create_image
from tbdiff.image import open_image
from tbdiff.squash import squash
from tests import metered
from tests.honest import differences
from tests.kitchen.sink import kitchen_sink, kitchen_sink_changed
from tests.random_trees import tree_pairs
from tests.roundtrip import clear
from tests.trees import Noise, Tree, build, file, sparse

pytestmark = pytest.mark.slow

FIRST: Tree = {b"a": file(b"1"), b"d/b": sparse(60_000, Noise(0, 60_000, 1)), b"gone": file(b"x")}
SECOND: Tree = {b"a": file(b"22"), b"d/b": sparse(60_000, Noise(0, 60_000, 1), Noise(5000, 100, 2)), b"n": file(b"new")}
THIRD: Tree = {
    b"a": file(b"333"),
    b"e/b": sparse(60_000, Noise(0, 60_000, 1), Noise(5000, 100, 3)),
    b"gone": file(b"x"),
}


@pytest.fixture
def ground(btrfs_of_module: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=btrfs_of_module) as path:
        yield Path(path)


def tbdiff(*arguments: str | Path) -> metered.Ended:
    return metered.run("tbdiff", *arguments)


def prepare(ground: Path, *, keys: bool = False) -> None:
    """Trees 1, 2, 3, the images 0-1, 1-2, 2-3 between them, and a copy of 1 to work on."""
    for n, tree in enumerate((FIRST, SECOND, THIRD), 1):
        build(tree, ground / str(n))
        key = ground / "keys/release" if keys else None
        base = ground / str(n - 1) if n > 1 else None
        if keys and n == 1:
            (ground / "keys").mkdir()
            assert tbdiff("keygen", ground / "keys/release").code == 0
        create_image(base, ground / str(n), ground / f"{n - 1}-{n}", key=key, effort="fast")
    build(FIRST, ground / "tree")


# --- applied at once


def test_several_images_at_once(ground: Path) -> None:
    prepare(ground)
    ended = tbdiff("apply", ground / "1-2", ground / "2-3", ground / "tree", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["entries"] == 5
    assert differences(ground / "3", ground / "tree") == []
    (ground / "new").mkdir()
    assert tbdiff("apply", ground / "0-1", ground / "1-2", ground / "2-3", ground / "new").code == 0
    assert differences(ground / "3", ground / "new") == []


def test_what_is_done_already_is_not_done_again(ground: Path) -> None:
    """Where a run was cut between two images the same command goes on."""
    prepare(ground)
    assert tbdiff("apply", ground / "1-2", ground / "tree").code == 0
    assert tbdiff("apply", ground / "0-1", ground / "1-2", ground / "2-3", ground / "tree").code == 0
    assert differences(ground / "3", ground / "tree") == []
    ended = tbdiff("apply", ground / "0-1", ground / "1-2", ground / "2-3", ground / "tree")
    assert (ended.code, "is the target of" in ended.err) == (4, True), ended


def damaged(image: Path, at: int) -> Path:
    raw = bytearray(image.read_bytes())
    raw[at] ^= 1
    image.write_bytes(raw)
    return image


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("2-3", "1-2"), "does not start where"),
        (("1-2", "0-1"), "is a full image"),
        (("1-2", "1-2"), "does not start where"),
        (("0-1", "1-2"), "not empty"),
        (("2-3", "cut"), "cut off"),
        (("1-2", "missing"), "cannot be opened"),
        (("-", "-"), "standard input"),
    ],
)
def test_a_wrong_chain_changes_nothing(names: tuple[str, str], words: str, ground: Path) -> None:
    prepare(ground)
    (ground / "tree/a").write_bytes(b"of neither tree")
    shutil.copytree(ground / "tree", ground / "before", symlinks=True)
    (ground / "cut").write_bytes((ground / "2-3").read_bytes()[:300])
    images = [name if name == "-" else ground / name for name in names]
    ended = tbdiff("apply", *images, ground / "tree")
    assert ended.code == (1 if "missing" in names else 3), ended
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert differences(ground / "before", ground / "tree") == []


def test_a_later_file_is_read_whole_before_anything_changes(ground: Path) -> None:
    prepare(ground)
    damaged(ground / "2-3", -1)
    ended = tbdiff("apply", ground / "1-2", ground / "2-3", ground / "tree")
    assert (ended.code, "damaged" in ended.err) == (3, True), ended
    assert differences(ground / "1", ground / "tree") == []


def test_a_later_pipe_may_fail_in_between_and_it_is_said_how_far_it_came(ground: Path) -> None:
    prepare(ground)
    damaged(ground / "2-3", -1)
    with (ground / "2-3").open("rb") as pipe:
        ended = metered.run("tbdiff", "apply", ground / "1-2", "-", ground / "tree", stdin=pipe)
    assert ended.code == 1, ended
    assert f"became the target of {ground / '1-2'}" in ended.err
    assert differences(ground / "2", ground / "tree") == []


def test_all_signatures_are_verified_before_anything_changes(ground: Path) -> None:
    prepare(ground, keys=True)
    create_image(ground / "2", ground / "3", ground / "unsigned", effort="fast")
    keys = ("--keys", ground / "keys")
    ended = tbdiff("apply", ground / "1-2", ground / "unsigned", ground / "tree", *keys)
    assert (ended.code, "not signed" in ended.err) == (3, True), ended
    assert differences(ground / "1", ground / "tree") == []
    assert tbdiff("apply", ground / "1-2", ground / "2-3", ground / "tree", *keys).code == 0
    assert differences(ground / "3", ground / "tree") == []


def test_a_compressor_that_is_missing_later_is_missed_first(ground: Path) -> None:
    prepare(ground)
    image = ground / "2-3"
    raw = image.read_bytes()
    with open_image(str(image)) as opened:
        way = opened.manifest.way
    old = way.to_bytes()
    new = way.model_copy(update={"encoders": ("deflate:9:8=0123456789abcdef",)}).to_bytes()
    sizes = len(old).to_bytes(4, "little"), len(new).to_bytes(4, "little")
    image.write_bytes(raw.replace(sizes[0] + old, sizes[1] + new))
    ended = tbdiff("apply", ground / "1-2", image, ground / "tree")
    assert (ended.code, "compressor deflate:9:8" in ended.err) == (3, True), ended
    assert differences(ground / "1", ground / "tree") == []


def test_tarballs_in_a_chain(ground: Path) -> None:
    """A full tarball, then an image, then a layer."""
    prepare(ground)
    subprocess.run(["tar", "--format=posix", "-cf", ground / "full.tar", "-C", ground / "1", "."], check=True)
    (ground / "new").mkdir()
    ended = tbdiff("apply", ground / "full.tar", ground / "1-2", ground / "new")
    assert ended.code == 0, ended.err
    assert differences(ground / "2", ground / "new") == []
    assert tbdiff("apply", ground / "full.tar", ground / "1-2", ground / "new", "--delta").code == 2


# --- made one


def test_squashed(ground: Path) -> None:
    prepare(ground)
    ended = tbdiff("squash", ground / "1-2", ground / "2-3", "--base", ground / "1", "-o", ground / "1-3", "--json")
    assert ended.code == 0, ended.err
    said = json.loads(ended.out)
    assert said["size"] == (ground / "1-3").stat().st_size
    create_image(ground / "1", ground / "3", ground / "straight")
    assert (ground / "1-3").read_bytes() == (ground / "straight").read_bytes()
    assert tbdiff("apply", ground / "1-3", ground / "tree").code == 0
    assert differences(ground / "3", ground / "tree") == []
    assert differences(ground / "1", ground / "1") == []
    assert not list(ground.glob(".tbdiff*"))


@given(first=tree_pairs(), second=tree_pairs())
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=30)
def test_squashed_is_one_after_the_other(
    first: tuple[Tree, Tree], second: tuple[Tree, Tree], btrfs_of_module: Path
) -> None:
    ground = btrfs_of_module / "random"
    ground.mkdir(exist_ok=True)
    clear(ground)
    for n, tree in enumerate((*first, second[1]), 1):
        build(tree, ground / str(n))
    build(first[0], ground / "tree")
    for n in (1, 2):
        create_image(ground / str(n), ground / str(n + 1), ground / f"{n}-{n + 1}", effort="fast")
    manifest = squash([str(ground / "1-2"), str(ground / "2-3")], ground / "1", ground / "1-3", effort="fast")
    with open_image(str(ground / "1-3")) as image:
        assert image.manifest == manifest
        if manifest.way.base != manifest.target.tree:
            image.apply(ground / "tree")
    assert differences(ground / "3", ground / "tree", sockets=False) == []


def test_squashed_by_who_may_only_deliver(ground: Path) -> None:
    """The target statement and what the release key signed stay, byte by byte; the new way has the other signature."""
    prepare(ground, keys=True)
    (ground / "keys/delivery").mkdir()
    assert tbdiff("keygen", ground / "deliverer").code == 0
    keys = ("--keys", ground / "keys")
    arguments = ("--base", ground / "1", "-o", ground / "1-3", "--key", ground / "deliverer", *keys)
    assert tbdiff("squash", ground / "1-2", ground / "2-3", *arguments).code == 0
    with open_image(str(ground / "2-3")) as last, open_image(str(ground / "1-3")) as one:
        assert one.stated == last.stated
    assert tbdiff("apply", ground / "1-3", ground / "tree", *keys).code == 3
    shutil.move(ground / "deliverer.pub", ground / "keys/delivery")
    ended = tbdiff("apply", ground / "1-3", ground / "tree", *keys)
    assert ended.code == 0, ended.err
    assert differences(ground / "3", ground / "tree") == []


def test_another_way_to_a_signed_target(ground: Path) -> None:
    """Made by who may only deliver, from a base that the release key never saw an image for."""
    prepare(ground, keys=True)
    (ground / "keys/delivery").mkdir()
    assert tbdiff("keygen", ground / "deliverer").code == 0
    shutil.move(ground / "deliverer.pub", ground / "keys/delivery")
    keys, way = ("--keys", ground / "keys"), (ground / "1", ground / "3", "-o", ground / "1-3")
    arguments = (*way, "--target-of", ground / "2-3", "--key", ground / "deliverer")
    assert tbdiff("create", *arguments).code == 0
    with open_image(str(ground / "2-3")) as last, open_image(str(ground / "1-3")) as one:
        assert one.stated == last.stated
    assert tbdiff("apply", ground / "1-3", ground / "tree", *keys).code == 0
    assert differences(ground / "3", ground / "tree") == []
    ended = tbdiff("create", *way, "--target-of", ground / "1-2")
    assert (ended.code, "not the tree that was stated" in ended.err) == (3, True), ended
    assert tbdiff("create", *arguments, "--name", "Mine").code == 2


def test_full_images_and_deltas_become_a_full_image(ground: Path) -> None:
    prepare(ground)
    assert tbdiff("squash", ground / "0-1", ground / "1-2", ground / "2-3", "-o", ground / "0-3").code == 0
    (ground / "new").mkdir()
    assert tbdiff("apply", ground / "0-3", ground / "new").code == 0
    assert differences(ground / "3", ground / "new") == []


def test_squashed_relies_on_no_other_compressor(ground: Path) -> None:
    """A device that could apply both can apply the one."""
    page = b"".join(b"line %d of a manual page\n" % n for n in range(3000))
    for n in (1, 2, 3):
        packed = subprocess.run(
            ["gzip", "-9n"], input=b"version %d\n" % n + page, capture_output=True, check=True
        ).stdout
        build({b"man.gz": file(packed)}, ground / str(n))
    for n in (1, 2):
        create_image(ground / str(n), ground / str(n + 1), ground / f"{n}-{n + 1}", available=None)
    images = [str(ground / "1-2"), str(ground / "2-3")]
    assert squash(images, ground / "1", ground / "plain").way.encoders == ()
    relied_on = create_image(ground / "2", ground / "3", ground / "2-3").way.encoders
    assert squash(images, ground / "1", ground / "packed").way.encoders == relied_on != ()


def test_questions_of_squash(ground: Path) -> None:
    prepare(ground)
    out = ("-o", ground / "out")
    for arguments, code, words in (
        ((ground / "1-2", ground / "2-3"), 3, "--base"),
        ((ground / "1-2", ground / "2-3", "--base", ground / "2"), 3, "not the tree"),
        ((ground / "0-1", ground / "1-2", "--base", ground / "1"), 3, "full image"),
        ((ground / "2-3", ground / "1-2", "--base", ground / "2"), 3, "does not start where"),
        ((ground / "1-2", "--base", ground / "1"), 2, "two images"),
    ):
        ended = tbdiff("squash", *arguments, *out)
        assert ended.code == code, ended
        assert words in ended.err
        assert "Traceback" not in ended.err
    assert not (ground / "out").exists()
    assert not list(ground.glob(".tbdiff*"))


def test_the_kitchen_sink_there_and_back(ground: Path) -> None:
    kitchen_sink(ground / "1")
    kitchen_sink_changed(ground / "2")
    create_image(ground / "1", ground / "2", ground / "there", effort="fast")
    create_image(ground / "2", ground / "1", ground / "back", effort="fast")
    manifest = squash([str(ground / "there"), str(ground / "back")], ground / "1", ground / "none", effort="fast")
    assert manifest.way.base == manifest.target.tree
    kitchen_sink(ground / "tree")
    assert tbdiff("apply", ground / "there", ground / "back", ground / "tree").code == 0
    assert differences(ground / "1", ground / "tree") == []
