"""The legacy format on real file systems: what the original wrote, what our writer writes, and what means harm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tbdiff.convert import convert, copy_tree
from tbdiff.errors import NothingToDo, Rejected
from tbdiff.image import open_image
from tbdiff.legacy.commands import Delete, MakeSpecial
from tbdiff.legacy.create import create_legacy
from tbdiff.tree import read_tree
from tests import metered
from tests.corpus.debian import Corpus
from tests.golden_legacy import BASE, GOLDEN, TARGET
from tests.honest import differences
from tests.kitchen.sink import base_tree, target_tree
from tests.legacy_original import Original
from tests.random_trees import tree_pairs
from tests.roundtrip import clear, snapshot
from tests.trees import NOON, SECOND, Bytes, Noise, Tree, build, capability, directory, file, sock, sparse, symlink
from tests.unit.test_legacy_wire import PLAIN, stream

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
ORIGINALS = REPOSITORY.parent / "shared" / "legacy"
MEMORY_MAX = 64 << 20


@pytest.fixture
def ground(btrfs_of_module: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=btrfs_of_module) as path:
        yield Path(path)


def applied(image: Path, tree: Path) -> Path:
    tree.mkdir(exist_ok=True)
    with open_image(str(image)) as opened:
        try:
            listing = opened.apply(tree)
        except NothingToDo:
            return tree
    assert listing.digest == read_tree(tree).digest
    return tree


def sayable(tree: Tree) -> Tree:
    """What the format can say of a tree: whole seconds."""
    return {path: replace(node, mtime=node.mtime // SECOND * SECOND) for path, node in tree.items()}


def differing(one: Path, two: Path) -> list[str]:
    return [line for line in differences(one, two, holes=False, sockets=False) if "hard-linked with" not in line]


def assert_both_ways(base: Tree, target: Tree, ground: Path) -> None:
    """Our reader and what the original did both make the target of the base, and the base of the target."""
    build(sayable(base), ground / "base")
    build(sayable(target), ground / "target")
    build(sayable(base), ground / "ours")
    build(sayable(base), ground / "originals")
    for one, two in (("base", "target"), ("target", "base")):
        image = ground / f"{two}.tbd"
        create_legacy(ground / one, ground / two, image)
        applied(image, ground / "ours")
        Original(image.read_bytes(), ground / "originals").run()
        assert differing(ground / two, ground / "ours") == []
        assert differing(ground / two, ground / "originals") == []


# --- round trips


def test_the_kitchen_sink(ground: Path) -> None:
    assert_both_ways(base_tree(), target_tree(), ground)


@given(pair=tree_pairs())
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=25)
def test_random_pairs(pair: tuple[Tree, Tree], btrfs_of_module: Path) -> None:
    ground = btrfs_of_module / "random"
    ground.mkdir(exist_ok=True)
    clear(ground)
    assert_both_ways(*pair, ground)


def test_from_nothing_and_the_same_bytes(ground: Path) -> None:
    build(sayable(target_tree()), ground / "target")
    for name in ("one", "two"):
        create_legacy(None, ground / "target", ground / name)
    assert (ground / "one").read_bytes() == (ground / "two").read_bytes()
    assert differing(ground / "target", applied(ground / "one", ground / "new")) == []
    (ground / "originals").mkdir()
    Original((ground / "one").read_bytes(), ground / "originals").run()
    assert differing(ground / "target", ground / "originals") == []


def test_equal_trees_need_nothing(ground: Path) -> None:
    build(base_tree(), ground / "tree")
    build(base_tree(), ground / "same")
    assert create_legacy(ground / "tree", ground / "same", ground / "image") == 22


def test_what_is_lost_is_told(ground: Path) -> None:
    tree = {
        b"a": file(b"x" * 9, group="g", mtime=NOON + 1),
        b"b": file(b"x" * 9, group="g", mtime=NOON + 1),
        b"c": sparse(1 << 20),
    }
    build(tree, ground / "tree")
    told: list[str] = []
    create_legacy(None, ground / "tree", ground / "image", notice=told.append)
    assert [text.split(":")[1] for text in told] == [
        " 1 times are cut",
        " 1 become copies",
        " those of 1 sparse files are filled",
    ]


def test_too_large_a_file(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original cut sizes to 32 bits, and lost the rest of the stream."""
    build({b"large": file(b"x" * 1001)}, ground / "tree")
    monkeypatch.setattr("tbdiff.legacy.create.SIZE_MAX", 1000)
    with pytest.raises(Rejected, match="'large' has 1001 bytes"):
        create_legacy(None, ground / "tree", ground / "image")
    assert [path.name for path in ground.iterdir()] == ["tree"]


def test_a_file_that_was_too_large(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No patch can say where in it something changes: it is sent whole."""
    base: Tree = {b"": directory(), b"large": file(b"x" * 1001), b"stays": file(b"y" * 1001)}
    target: Tree = base | {b"large": file(b"x" * 1000), b"stays": file(b"y" * 1001, mode=0o600)}
    monkeypatch.setattr("tbdiff.legacy.create.SIZE_MAX", 1000)
    for name, tree in (("base", base), ("target", target)):
        build(tree, ground / name)
    create_legacy(ground / "base", ground / "target", ground / "image")
    assert differences(ground / "target", applied(ground / "image", ground / "base")) == []


def to_the_second(lines: list[str]) -> list[str]:
    """The differences that remain when times are cut."""
    times = re.compile(r": mtime (-?\d+) became (-?\d+)$")
    found = [(line, times.search(line)) for line in lines]
    return [line for line, time in found if not time or int(time[1]) // SECOND != int(time[2]) // SECOND]


def test_a_real_system(corpus: Corpus, ground: Path) -> None:
    image, tree = ground / "image", ground / "tree"
    create_legacy(corpus.top / "point-v1", corpus.top / "point-v2", image)
    tree.mkdir()
    copy_tree(corpus.top / "point-v1", read_tree(corpus.top / "point-v1"), tree)
    assert differences(corpus.top / "point-v1", tree) == []
    ended = metered.run("tbdiff", "apply", image, tree)
    assert ended.code == 0, ended.err
    assert ended.memory < MEMORY_MAX, f"{ended.memory >> 20} MiB"
    assert to_the_second(differing(corpus.top / "point-v2", tree)) == []


# --- what the original wrote


@pytest.mark.skipif(not ORIGINALS.exists(), reason="samples of the original program are not part of the repository")
def test_samples_of_the_original(ground: Path) -> None:
    tree, original = ground / "tree", ground / "original"
    tree.mkdir()
    original.mkdir()
    for name in ("patchone", "patchtwo", "patchthree"):
        image = ORIGINALS / f"{name}.tbd"
        applied(image, tree)
        Original(image.read_bytes(), original).run()
        assert [line for line in differences(original, tree) if not line.startswith("the root directory: mtime")] == []
        if name == "patchone":
            assert (tree / "two/three/four/five/six/seven/dirdir/blockdev").is_block_device()
    assert sorted(path.name for path in tree.iterdir()) == ["a.txt", "b.txt", "dirdir"]


@pytest.mark.parametrize("name", ["full", "change"])
def test_golden(name: str, ground: Path) -> None:
    """Streams that an earlier version wrote: they must apply for ever. `python -m tests.golden_legacy` made them."""
    build(BASE, ground / "base")
    build(TARGET, ground / "target")
    if name == "full":
        tree = ground / "new"
        create_legacy(None, ground / "base", ground / "again")
        wanted = ground / "base"
    else:
        tree = ground / "base"
        create_legacy(ground / "base", ground / "target", ground / "again")
        wanted = ground / "target"
    assert (ground / "again").read_bytes() == (GOLDEN / f"{name}.tbd").read_bytes()
    applied(GOLDEN / f"{name}.tbd", tree)
    assert differing(wanted, tree) == []


# --- what the original did badly


def test_blocks_that_stay_are_shared(ground: Path) -> None:
    """One byte of a large file changes in a snapshot: the original copied all of it."""
    subprocess.run(["btrfs", "-q", "subvolume", "create", ground / "base"], check=True)
    big = sparse(32 << 20, Noise(0, 32 << 20, 1))
    build({b"big": big}, ground / "base")
    build({b"big": replace(big, runs=(*big.runs, Bytes(10_000_000, b"!")))}, ground / "target")
    size = create_legacy(ground / "base", ground / "target", ground / "image")
    assert size < 200
    tree = snapshot(ground / "base", ground / "copy")
    applied(ground / "image", tree)
    assert differences(ground / "target", tree) == []
    os.sync()
    said = subprocess.run(["btrfs", "filesystem", "du", "--raw", "-s", tree], capture_output=True, text=True).stdout
    assert int(said.splitlines()[1].split()[1]) < 1 << 20
    for path in (tree, ground / "base"):
        subprocess.run(["btrfs", "-q", "subvolume", "delete", path], check=True)


def test_attributes_of_any_length_and_a_new_owner(ground: Path) -> None:
    many = (capability(1 << 10), ("user.a", b"long" * 50), ("user.z", b""))
    base: Tree = {b"f": file(b"x", xattrs=many), b"g": file(b"y", mode=0o755, xattrs=many[:1])}
    target: Tree = {b"f": file(b"x", uid=5, xattrs=many), b"g": file(b"y", mode=0o755, uid=7)}
    assert_both_ways(base, target, ground)


def test_memory_does_not_grow_with_files(ground: Path) -> None:
    big = sparse(150 << 20, *(Noise(at << 20, 10 << 20, at + 1) for at in range(0, 150, 10)))
    base: Tree = {b"": directory(), b"big": big}
    edited = replace(big, runs=(*big.runs, Bytes(70 << 20, b"edited")), size=(150 << 20) - 5)
    build(base, ground / "base")
    build(base | {b"big": edited, b"new": big}, ground / "target")
    image = ground / "image"
    made = metered.run("tbdiff", "create", "--legacy", ground / "base", ground / "target", "-o", image)
    assert made.code == 0, made.err
    with subprocess.Popen(["cat", image], stdout=subprocess.PIPE) as cat:
        ended = metered.run("tbdiff", "apply", "-", ground / "base", stdin=cat.stdout)
    assert ended.code == 0, ended.err
    assert ended.memory < MEMORY_MAX, f"{ended.memory >> 20} MiB"
    assert differences(ground / "target", ground / "base") == []


def test_many_files_in_one_directory(ground: Path) -> None:
    """The original took 109 s for this."""
    build({b"d/%d" % n: file() for n in range(16_000)}, ground / "tree")
    create_legacy(None, ground / "tree", ground / "image")
    assert differing(ground / "tree", applied(ground / "image", ground / "new")) == []


def test_sockets(ground: Path) -> None:
    """One that the stream makes is left out, one that it removes may be there."""
    build({b"old": sock(), b"f": file(b"x")}, ground / "tree")
    image = ground / "image"
    image.write_bytes(stream(MakeSpecial(b"new", None, PLAIN), Delete(b"old"), Delete(b"f")))
    ended = metered.run("tbdiff", "apply", image, ground / "tree")
    assert ended.code == 0
    assert "new is a socket and was left out" in ended.err
    assert [path.name for path in (ground / "tree").iterdir()] == ["old"]


# --- conversion, and the commands of old


@pytest.mark.parametrize("signed", [False, True])
def test_conversion(signed: bool, ground: Path) -> None:
    build(BASE, ground / "base")
    build(TARGET, ground / "target")
    create_legacy(ground / "base", ground / "target", ground / "old")
    before = sorted(path.name for path in ground.iterdir())
    if signed:
        assert metered.run("tbdiff", "keygen", ground / "key").code == 0
        arguments = ("-o", ground / "new", "--name", "System", "--release", "2", "--key", ground / "key")
        ended = metered.run("tbdiff", "convert", ground / "old", ground / "base", *arguments)
        assert ended.code == 0, ended.err
        ended = metered.run("tbdiff", "apply", ground / "new", ground / "base", "--keys", ground / "key.pub")
        assert ended.code == 0, ended.err
    else:
        convert(str(ground / "old"), ground / "base", ground / "new", effort="fast")
        assert sorted(path.name for path in ground.iterdir()) == sorted([*before, "new"])
        applied(ground / "new", ground / "base")
    assert differing(ground / "target", ground / "base") == []


def test_unsigned_is_refused_where_keys_are_given(ground: Path) -> None:
    build({b"f": file(b"x")}, ground / "tree")
    create_legacy(None, ground / "tree", ground / "image")
    (ground / "new").mkdir()
    assert metered.run("tbdiff", "keygen", ground / "key").code == 0
    ended = metered.run("tbdiff", "apply", ground / "image", ground / "new", "--keys", ground / "key.pub")
    assert ended.code == 3
    assert "has no signatures" in ended.err
    assert not list((ground / "new").iterdir())


def original(program: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run an entry point as its script does."""
    call = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from tbdiff.legacy.cli import {program}_main as main"
    code = f"{call}; sys.argv[0] = 'tbdiff-{program}'; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True)


def test_the_commands_of_old(ground: Path) -> None:
    build(BASE, ground / "base")
    build(TARGET, ground / "target")
    # The original compared a symlink as a symlink.
    (ground / "current").symlink_to("base")
    made = original("create", "out.tbd", "current", "target", cwd=ground)
    assert (made.returncode, made.stdout) == (0, ""), made.stderr
    done = original("deploy", "../out.tbd", cwd=ground / "base")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert differing(ground / "target", ground / "base") == []
    for arguments in ([], ["missing.tbd"], ["../out.tbd", "more"]):
        ended = original("deploy", *arguments, cwd=ground / "base")
        assert ended.returncode == 1
        assert "Traceback" not in ended.stderr
    assert original("create", "out", "nothing", "target", cwd=ground).returncode == 1


def test_shown_in_words(ground: Path) -> None:
    base: Tree = {b"d/f": file(b"x"), b"d/g": file(b"y" * 5000), b"l": symlink(b"a"), b"gone": file()}
    target: Tree = {b"d/f": file(b"x", mode=0o600), b"d/g": file(b"y" * 6000), b"l": file(b"now a file")}
    build(base, ground / "base")
    build(target, ground / "target")
    create_legacy(ground / "base", ground / "target", ground / "image")
    said = metered.run("tbdiff", "show", "--operations", ground / "image").out
    for line in ("~ d/f (mode)", "~ d/g (content) 1000 bytes", "- gone", "~ l (replaced by a file) 10 bytes"):
        assert line in said
