"""Deltas between what two images lead to: the same as from the trees, made by who may do nothing to any tree."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tbdiff.between import make_between
from tbdiff.create import Stated, create_image
from tbdiff.errors import NothingToDo, Rejected
from tbdiff.image import open_image
from tbdiff.signature import create_key
from tests.honest import differences
from tests.kitchen.sink import kitchen_sink, kitchen_sink_changed

# All that root may do but reading its own files.
POWERLESS = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs")


@pytest.fixture(scope="module")
def kitchen(btrfs_of_module: Path) -> Iterator[Path]:
    """Two trees with one of everything, 1 and 2; images 0-1, 0-2, 1-2 and 2-1; keys."""
    with tempfile.TemporaryDirectory(dir=btrfs_of_module) as place:
        made = Path(place)
        (made / "keys/delivery").mkdir(parents=True)
        create_key(made / "keys/release")
        create_key(made / "keys/delivery/server")
        kitchen_sink(made / "1")
        kitchen_sink_changed(made / "2")
        for base, target in ((0, 1), (0, 2), (1, 2), (2, 1)):
            key, out = made / "keys/release", made / f"{base}-{target}"
            create_image(made / f"{base}" if base else None, made / f"{target}", out, key=key, effort="fast")
        yield made


def image(kitchen: Path, name: str) -> str:
    return str(kitchen / name)


def test_the_same_bytes_as_from_the_trees_without_any_rights(kitchen: Path) -> None:
    made, key = kitchen / "between", kitchen / "keys/delivery/server"
    words = ("delta", kitchen / "0-1", kitchen / "0-2", "-o", made, "--key", key, "--effort", "fast", "--json")
    command = [*POWERLESS, sys.executable, "-m", "tbdiff", *words, "--keys", kitchen / "keys"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    with open_image(image(kitchen, "0-2")) as full:
        stated = Stated(*full.stated)
    trees = kitchen / "1", kitchen / "2"
    create_image(*trees, kitchen / "from-trees", stated=stated, key=key, effort="fast")
    assert made.read_bytes() == (kitchen / "from-trees").read_bytes()
    kitchen_sink(kitchen / "copy")
    applied = ("tbdiff", "apply", made, kitchen / "copy", "--keys", kitchen / "keys")
    subprocess.run([sys.executable, "-m", *applied], check=True, capture_output=True)
    assert differences(kitchen / "2", kitchen / "copy") == []
    assert not list(kitchen.glob(".*"))


def test_what_came_as_a_delta_is_laid_out_over_what_it_starts_from(kitchen: Path) -> None:
    """There and back again, over a full image of the one, by the way of the other."""
    for base, target, over in (("0-1", "1-2", []), ("1-2", "0-1", []), ("1-2", "2-1", ["0-1"])):
        known = [image(kitchen, name) for name in over]
        manifest = make_between(
            image(kitchen, base), image(kitchen, target), kitchen / "out", over=known, effort="fast"
        )
        with open_image(image(kitchen, "1-2" if target == "1-2" else "2-1")) as there:
            assert (manifest.way.base, manifest.target) == (there.manifest.way.base, there.manifest.target)


def test_what_cannot_be_made(kitchen: Path) -> None:
    (kitchen / "text").write_text("no image")
    damaged = bytearray((kitchen / "0-2").read_bytes())
    damaged[-1] ^= 1
    (kitchen / "damaged").write_bytes(damaged)
    for base, target, words in (
        ("1-2", "2-1", "no image was named that leads there from nothing"),
        ("text", "0-1", "not an image"),
        ("0-1", "damaged", "damaged"),
    ):
        with pytest.raises(Rejected, match=words):
            make_between(image(kitchen, base), image(kitchen, target), kitchen / "none")
    with pytest.raises(NothingToDo, match="same tree"):
        make_between(image(kitchen, "0-1"), image(kitchen, "0-1"), kitchen / "none")
    assert not (kitchen / "none").exists()
    assert not list(kitchen.glob(".*"))
