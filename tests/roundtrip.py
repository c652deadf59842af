"""The round trip that every pair of trees must survive: create, apply to a copy of the base, compare honestly."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tbdiff.create import create_image
from tbdiff.errors import NothingToDo
from tbdiff.image import open_image
from tests.honest import differences
from tests.trees import Tree, build


def assert_way(base: Path | None, target: Path, copy: Path, image: Path, *, holes: bool = True) -> None:
    """An image from `base` to `target` turns `copy`, which equals the base, into the target."""
    manifest = create_image(base, target, image, effort="fast")
    with open_image(str(image), None, unsigned_ok=True) as opened:
        if base is not None and manifest.way.base == manifest.target.tree:
            try:
                opened.apply(copy)
            except NothingToDo:
                pass
        else:
            listing = opened.apply(copy)
            assert listing.digest.hex() == manifest.target.tree
    assert differences(target, copy, holes=holes, sockets=False) == []


def assert_round_trips(base: Tree, target: Tree, ground: Path, *, holes: bool = True) -> None:
    """Both ways between two specified trees, and from nothing."""
    clear(ground)
    build(base, ground / "base")
    build(target, ground / "target")
    build(base, ground / "there")
    assert_way(ground / "base", ground / "target", ground / "there", ground / "there.tbdiff", holes=holes)
    assert_way(ground / "target", ground / "base", ground / "there", ground / "back.tbdiff", holes=holes)
    (ground / "new").mkdir()
    assert_way(None, ground / "target", ground / "new", ground / "full.tbdiff", holes=holes)


def clear(ground: Path) -> None:
    """Empty a directory, with whatever is in it."""
    for held in ground.iterdir():
        if held.is_dir():
            # `rm` copes with paths that are too long for one system call.
            subprocess.run(["rm", "-rf", held], check=True)
        else:
            held.unlink()


def snapshot(source: Path, to: Path) -> Path:
    """A writable snapshot on Btrfs."""
    subprocess.run(["btrfs", "-q", "subvolume", "snapshot", source, to], check=True)
    return to


def copied(source: Path, to: Path) -> Path:
    """A whole copy by the system's own tool."""
    assert shutil.which("cp")
    subprocess.run(["cp", "-a", "--sparse=auto", source, to], check=True)
    return to
