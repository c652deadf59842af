"""Snapshots of one history: what Btrfs tells of their differences leads to the same bytes as reading everything."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tbdiff import generation
from tbdiff.create import Known, Stated, create_image, write_image
from tbdiff.errors import Rejected
from tbdiff.generation import keep, read_changed, read_kept, snapshot_at
from tbdiff.image import open_image
from tbdiff.tree import quiet, read_tree
from tests import metered
from tests.kitchen.sink import kitchen_sink
from tests.random_trees import trees
from tests.trees import Noise, Tree, build, file, sparse, symlink

pytestmark = pytest.mark.slow

FICLONE = 0x40049409
NUMBER = st.integers(0, 60)


def btrfs(*arguments: str | Path) -> None:
    subprocess.run(["btrfs", "-q", *arguments], check=True)


def subvolume(path: Path) -> Path:
    btrfs("subvolume", "create", path)
    return path


def frozen(source: Path, to: Path) -> Path:
    btrfs("subvolume", "snapshot", "-r", source, to)
    return to


def thrown_away(ground: Path) -> None:
    """Delete all subvolumes in a directory, the nested ones first."""
    # `find` copes with paths that are too long for one system call.
    found = subprocess.run(
        ["find", ground, "-depth", "-inum", "256", "-type", "d", "-print0"], capture_output=True, check=True
    )
    for path in filter(None, found.stdout.split(b"\0")):
        subprocess.run(["btrfs", "property", "set", path, "ro", "false"], check=True)
        subprocess.run(["btrfs", "-q", "subvolume", "delete", path], check=True)


@pytest.fixture
def ground(btrfs_of_module: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=btrfs_of_module) as path:
        yield Path(path)
        thrown_away(Path(path))


# --- changes in place, as a system makes them


class Living:
    """A tree that is changed in place; what an operation works on is chosen by numbers."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)

    def _all(self) -> list[bytes]:
        return sorted(os.path.join(top, name) for top, below, files in os.walk(self.root) for name in (*below, *files))

    def pick(self, number: int, fits: Callable[[bytes], bool] = os.path.lexists) -> bytes:
        found = [path for path in self._all() if fits(path)]
        if not found:
            raise FileNotFoundError
        return found[number % len(found)]

    def file(self, number: int) -> bytes:
        return self.pick(number, lambda path: os.path.isfile(path) and not os.path.islink(path))

    def place(self, number: int, name: int) -> bytes:
        """A name in some directory, which may be taken."""
        held = [self.root, *(path for path in self._all() if os.path.isdir(path) and not os.path.islink(path))]
        return os.path.join(held[number % len(held)], b"n%d" % (name % 6))

    def change(self, what: str, a: int, b: int) -> None:
        match what:
            case "append":
                with open(self.file(a), "ab") as out:
                    out.write(b"more" * (b + 1))
            case "in place":
                with open(self.file(a), "r+b") as out:
                    out.seek(b * 100)
                    out.write(b"patched")
            case "cut":
                os.truncate(self.file(a), b * 50)
            case "hole":
                fd = os.open(self.file(a), os.O_RDWR)
                try:
                    subprocess.run(
                        ["fallocate", "-p", "-o", "0", "-l", "8192", f"/proc/self/fd/{fd}"], pass_fds=[fd], check=True
                    )
                finally:
                    os.close(fd)
            case "reflink":
                with open(self.file(a), "rb") as old, open(self.file(b), "wb") as new:
                    fcntl.ioctl(new, FICLONE, old.fileno())
            case "new file":
                with open(self.place(a, b), "xb") as out:
                    out.write(os.urandom(b * 100))
            case "directory":
                os.mkdir(self.place(a, b))
            case "symlink":
                os.symlink(b"to", self.place(a, b))
            case "fifo":
                os.mkfifo(self.place(a, b))
            case "socket":
                with socket.socket(socket.AF_UNIX) as made:
                    made.bind(self.place(a, b)[:100])
            case "link":
                os.link(
                    self.pick(a, lambda path: not os.path.isdir(path) or os.path.islink(path)),
                    self.place(b, a),
                    follow_symlinks=False,
                )
            case "rename":
                os.rename(self.pick(a), self.place(b, a))
            case "swap":
                one, other = self.pick(a), self.pick(b)
                if one == other or one.startswith(other + b"/") or other.startswith(one + b"/"):
                    return
                os.rename(one, one + b".swap")
                os.rename(other, one)
                os.rename(one + b".swap", other)
            case "remove":
                path = self.pick(a)
                if os.path.isdir(path) and not os.path.islink(path):
                    subprocess.run(["rm", "-rf", path], check=True)
                else:
                    os.unlink(path)
            case "again":
                path = self.file(a)
                os.rename(path, path + b".old")
                with open(path, "xb") as new, open(path + b".old", "rb") as old:
                    new.write(old.read())
                os.unlink(path + b".old")
            case "mode":
                os.chmod(self.pick(a, lambda path: not os.path.islink(path)), 0o600 + b)
            case "owner":
                os.chown(self.pick(a), b, b, follow_symlinks=False)
            case "time":
                os.utime(self.pick(a), ns=(b, b), follow_symlinks=False)
            case "attribute":
                os.setxattr(self.pick(a), b"trusted.t%d" % (b % 3), b"v%d" % b, follow_symlinks=False)
            case "no attribute":
                path = self.pick(a)
                for name in os.listxattr(path, follow_symlinks=False):
                    os.removexattr(path, name, follow_symlinks=False)
            case "root":
                os.chmod(self.root, 0o700 + b % 8)


WHATS = (
    *("append", "in place", "cut", "hole", "reflink", "new file", "directory", "symlink", "fifo", "socket", "link"),
    *(
        "rename",
        "rename",
        "swap",
        "swap",
        "remove",
        "again",
        "mode",
        "owner",
        "time",
        "attribute",
        "no attribute",
        "root",
    ),
)
CHANGES = st.lists(st.tuples(st.sampled_from(WHATS), NUMBER, NUMBER), min_size=1, max_size=12)


def assert_told(base: Path, target: Path, ground: Path) -> None:
    """What is told leads to the same listing, and to the same image, as reading everything."""
    old = read_tree(base)
    told = read_changed(base, old, target)
    assert told is not None, "there was a doubt"
    whole = read_tree(target)
    assert list(told) == list(whole)
    create_image(base, target, ground / "told", effort="fast")
    with open_image(str(ground / "told")) as image:
        stated = Stated(*image.stated)
    write_image(Known(base, old), Known(target, whole), ground / "read", stated, None, "fast", None, quiet)
    assert (ground / "told").read_bytes() == (ground / "read").read_bytes()


@given(tree=trees(), rounds=st.lists(CHANGES, min_size=1, max_size=2))
@example(
    tree={b"a/b/c": file(b"x"), b"d": file(b"y", group="g"), b"a/e": file(b"y", group="g")}, rounds=[[("swap", 1, 4)]]
)
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
def test_random_changes(tree: Tree, rounds: list[list[tuple[str, int, int]]], btrfs_of_module: Path) -> None:
    with tempfile.TemporaryDirectory(dir=btrfs_of_module) as place:
        ground = Path(place)
        try:
            build(tree, subvolume(ground / "living"))
            living = Living(ground / "living")
            before = frozen(ground / "living", ground / "0")
            for n, changes in enumerate(rounds, 1):
                for what, a, b in changes:
                    with suppress(OSError):
                        # Not everything goes with everything.
                        living.change(what, a, b)
                after = frozen(ground / "living", ground / str(n))
                (ground / f"r{n}").mkdir()
                assert_told(before, after, ground / f"r{n}")
                before = after
        finally:
            thrown_away(ground)


def test_the_kitchen_sink_and_much_of_it_changed(ground: Path) -> None:
    kitchen_sink(subvolume(ground / "living"), sockets=True)
    base = frozen(ground / "living", ground / "base")
    living = Living(ground / "living")
    done = 0
    for n, what in enumerate(WHATS * 6):
        with suppress(OSError):
            living.change(what, n * 37, n * 11)
            done += 1
    assert done > 50
    target = frozen(ground / "living", ground / "target")
    assert_told(base, target, ground)


MOVES = {
    "a name comes behind the other": [("a", "z")],
    "both names move along": [("a", "z"), ("b", "y")],
    "one into the other": [("b", "a/b")],
    "two swap": [("a", "c"), ("b", "a"), ("c", "b")],
    "a name of its own": [("b/linked", "b/renamed")],
    "in a moved directory": [("a", "z"), ("z/inner", "inner")],
}


@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES)
def test_linked_files_in_directories_that_move(moves: list[tuple[str, str]], ground: Path) -> None:
    """The inode does not change, but which of its names is the first."""
    living = subvolume(ground / "living")
    tree = {name: file(b"linked", group="g") for name in (b"a/inner/linked", b"a/linked", b"b/linked")}
    build(
        {b"a/other": file(b"x"), b"b/sym": symlink(b"x", group="s"), b"c2/sym": symlink(b"x", group="s"), **tree},
        living,
    )
    base = frozen(living, ground / "base")
    for old, new in moves:
        (living / old).rename(living / new)
    assert_told(base, frozen(living, ground / "target"), ground)


# --- which snapshots are of one history


@pytest.fixture
def pair(ground: Path) -> tuple[Path, Path]:
    """A tree in several states: `living`, `base` as it was, `target` as it is."""
    build(
        {b"d/a": file(b"1"), b"d/big": sparse(500_000, Noise(0, 500_000, 1)), b"b": file(b"2")},
        subvolume(ground / "living"),
    )
    base = frozen(ground / "living", ground / "base")
    (ground / "living/d/a").write_bytes(b"changed")
    return base, frozen(ground / "living", ground / "target")


def test_siblings_children_and_parents(pair: tuple[Path, Path], ground: Path) -> None:
    base, target = pair
    assert read_changed(base, read_tree(base), target) is not None
    btrfs("subvolume", "snapshot", base, ground / "child")
    (ground / "child/d/new").write_bytes(b"new")
    subprocess.run(["btrfs", "property", "set", ground / "child", "ro", "true"], check=True)
    for one, other in ((base, ground / "child"), (ground / "child", base), (target, base)):
        assert list(read_changed(one, read_tree(one), other) or ()) == list(read_tree(other))


def test_what_is_no_such_pair_is_read(pair: tuple[Path, Path], ground: Path) -> None:
    base, target = pair
    old = read_tree(base)
    stranger = subvolume(ground / "stranger")
    build({b"x": file(b"1")}, stranger)
    frozen(stranger, ground / "frozen")
    for other in (ground / "living", ground / "frozen", stranger, target / "d", base):
        assert read_changed(base, old, other) is None
    assert read_changed(base / "d", read_tree(base / "d"), target) is None
    (ground / "plain").mkdir()
    assert snapshot_at(ground / "plain") is snapshot_at(ground / "missing") is snapshot_at(base / "b") is None


def test_who_may_not_ask_reads(pair: tuple[Path, Path], ground: Path) -> None:
    base, target = pair
    create_image(base, target, ground / "told", effort="fast")
    less = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-m", "tbdiff")
    made = (*less, "create", base, target, "-o", ground / "read", "--effort", "fast")
    subprocess.run(made, check=True, capture_output=True, cwd=metered.REPOSITORY)
    assert (ground / "told").read_bytes() == (ground / "read").read_bytes()


def test_what_is_mounted_in_a_snapshot_is_not_overlooked(pair: tuple[Path, Path]) -> None:
    base, target = pair
    old = read_tree(base)
    subprocess.run(["mount", "-t", "tmpfs", "none", target / "d"], check=True)
    try:
        assert read_changed(base, old, target) is None
        with pytest.raises(Rejected, match="another file system"):
            create_image(base, target, base.parent / "image", effort="fast")
    finally:
        subprocess.run(["umount", target / "d"], check=True)


def test_a_nested_subvolume_is_not_overlooked(pair: tuple[Path, Path], ground: Path) -> None:
    base, _ = pair
    subvolume(ground / "living/d/nested")
    target = frozen(ground / "living", ground / "nesting")
    assert read_changed(base, read_tree(base), target) is None
    with pytest.raises(Rejected, match="nested subvolume"):
        create_image(base, target, ground / "image", effort="fast")


def test_another_listing_raises_a_doubt(pair: tuple[Path, Path], ground: Path) -> None:
    """A base's listing that is not the base's is found out, as far as what changed touches it."""
    base, target = pair
    (ground / "other").mkdir()
    build({b"d/z": file(b"1")}, ground / "other")
    assert read_changed(base, read_tree(ground / "other"), target) is None


# --- listings that are kept


class Bytes:
    """How much was read, by the progress that is told."""

    def __init__(self) -> None:
        self.read = 0

    def __call__(self, phase: str, done: int, total: int) -> None:
        self.read = max(self.read, done) if phase == "read" else self.read


def test_what_is_kept_is_not_read_again(pair: tuple[Path, Path], ground: Path) -> None:
    base, target = pair
    first, second, third = Bytes(), Bytes(), Bytes()
    create_image(base, target, ground / "1", kept=ground / "kept", effort="fast", progress=first)
    assert first.read >= 500_000
    assert len(list((ground / "kept").iterdir())) == 2
    create_image(base, target, ground / "2", kept=ground / "kept", effort="fast", progress=second)
    assert second.read == len(b"changed")
    create_image(None, target, ground / "full", kept=ground / "kept", effort="fast", progress=third)
    assert third.read == 0
    assert (ground / "1").read_bytes() == (ground / "2").read_bytes()
    ended = metered.run(
        "tbdiff", "create", base, target, "-o", ground / "3", "--effort", "fast", "--listings", ground / "kept"
    )
    assert ended.code == 0, ended.err
    assert (ground / "3").read_bytes() == (ground / "1").read_bytes()


def test_a_snapshot_that_was_changed_is_read_again(pair: tuple[Path, Path], ground: Path) -> None:
    base, _ = pair
    keep(base, read_tree(base), ground / "kept")
    name = snapshot_at(base)
    subprocess.run(["btrfs", "property", "set", base, "ro", "false"], check=True)
    assert snapshot_at(base) is None
    (base / "b").write_bytes(b"meanwhile")
    subprocess.run(["btrfs", "property", "set", base, "ro", "true"], check=True)
    assert snapshot_at(base) != name
    assert list(read_kept(base, ground / "kept")) == list(read_tree(base))


def test_a_damaged_listing_is_passed_over(pair: tuple[Path, Path], ground: Path) -> None:
    base, _ = pair
    keep(base, read_tree(base), ground / "kept")
    (kept,) = (ground / "kept").iterdir()
    raw = bytearray(kept.read_bytes())
    raw[20] ^= 1
    kept.write_bytes(raw)
    assert list(read_kept(base, ground / "kept")) == list(read_tree(base))


def test_only_snapshots_are_kept(ground: Path) -> None:
    build({b"a": file(b"1")}, ground / "tree")
    keep(ground / "tree", read_tree(ground / "tree"), ground / "kept")
    assert not (ground / "kept").exists()


def test_few_changes_among_many_files(ground: Path) -> None:
    """Neither names nor contents are gone through: what is told is as much as what changed."""
    living = subvolume(ground / "living")
    for n in range(4000):
        place = living / f"d{n // 100}"
        place.mkdir(exist_ok=True)
        (place / f"f{n}").write_bytes(b"%d" % n)
    base = frozen(living, ground / "base")
    for n in range(0, 4000, 400):
        (living / f"d{n // 100}/f{n}").chmod(0o600)
    target = frozen(living, ground / "target")
    before = snapshot_at(base)
    assert before is not None
    replay = generation.differences(read_tree(base), target, before)
    assert len(replay.touched) == 11
    assert replay.names() == ({}, set())
