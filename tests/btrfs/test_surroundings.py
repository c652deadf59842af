"""Trees that others change, or mount things in, while they are read and changed by us: nothing outside is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tbdiff import create
from tbdiff.create import create_image
from tbdiff.errors import Rejected
from tbdiff.image import open_image
from tbdiff.tree import read_tree
from tests.honest import differences

# Swaps the directory `d` for a link that leads outside, and back, as fast as it can.
SWAPPER = """
import os, sys
tree, outside = sys.argv[1:]
directory, aside, link = (os.path.join(tree, name) for name in ("d", "aside", "link"))
print("ready", flush=True)
while os.path.isdir(tree):
    try:
        os.symlink(outside, link)
        os.rename(directory, aside)
        os.rename(link, directory)
        os.unlink(directory)
        os.rename(aside, directory)
    except OSError:
        for path in (link, directory):
            if os.path.islink(path):
                os.unlink(path)
        if os.path.isdir(aside) and not os.path.exists(directory):
            os.rename(aside, directory)
"""
RACES = 12


def system(tree: Path, release: str) -> Path:
    for number in range(60):
        place = tree / "d" / str(number)
        place.mkdir(parents=True)
        (place / "file").write_text(f"{release} {number}" * 50)
        (place / release).write_text("only here")
    return tree


@contextmanager
def swapped(tree: Path, outside: Path) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", SWAPPER, tree, outside], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as swapper:
        assert swapper.stdout
        swapper.stdout.readline()
        try:
            yield
        finally:
            swapper.kill()


@pytest.mark.slow
def test_directories_swapped_for_links_while_an_image_is_applied(btrfs: Path, tmp_path: Path) -> None:
    base, target, outside = (btrfs / name for name in ("base", "target", "outside"))
    system(base, "1")
    system(target, "2")
    system(outside / "d", "1")
    before = read_tree(outside).digest
    image = tmp_path / "image"
    create_image(base, target, image)
    codes = set()
    for race in range(RACES):
        tree = btrfs / f"tree{race}"
        subprocess.run(["cp", "-a", base, tree], check=True)
        with swapped(tree, outside / "d"):
            done = subprocess.run(
                [sys.executable, "-m", "tbdiff", "apply", image, tree], capture_output=True, text=True, timeout=120
            )
        assert "Traceback" not in done.stderr
        assert done.returncode in (0, 1, 3, 4), done.stderr
        codes.add(done.returncode)
        assert read_tree(outside).digest == before
    # Where it never got in between, nothing was tried.
    assert codes != {0}


def test_a_subvolume_within_is_refused(btrfs: Path, tmp_path: Path) -> None:
    tree = system(btrfs / "tree", "1")
    subprocess.run(["btrfs", "-q", "subvolume", "create", tree / "d/sub"], check=True)
    with pytest.raises(Rejected, match="d/sub"):
        create_image(None, tree, tmp_path / "image")
    assert not (tmp_path / "image").exists()


def test_a_mount_within_is_refused(btrfs: Path, tmp_path: Path) -> None:
    base, target = system(btrfs / "base", "1"), system(btrfs / "target", "2")
    image, elsewhere = tmp_path / "image", system(btrfs / "elsewhere", "1")
    create_image(base, target, image)
    before = read_tree(elsewhere).digest
    for number, (kind, source) in enumerate((("bind", elsewhere), ("tmpfs", "none"))):
        tree = btrfs / f"tree{number}"
        subprocess.run(["cp", "-a", base, tree], check=True)
        option = ["--bind"] if kind == "bind" else ["-t", kind]
        subprocess.run(["mount", *option, source, tree / "d/7"], check=True)
        try:
            with pytest.raises(Rejected), open_image(str(image)) as opened:
                opened.apply(tree)
        finally:
            subprocess.run(["umount", tree / "d/7"], check=True)
        assert differences(base, tree) == []
    assert read_tree(elsewhere).digest == before


def test_windows_that_are_too_large_are_refused(btrfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads an image has room for the windows that it may have, and no more."""
    target = btrfs / "target"
    target.mkdir()
    (target / "file").write_bytes(os.urandom(1 << 20) * 3)
    monkeypatch.setattr(create, "WINDOW_LOG", 27)
    with pytest.raises(Rejected):
        create_image(None, target, tmp_path / "image")
