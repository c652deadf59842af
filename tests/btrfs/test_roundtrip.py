"""Trees that hold everything round-trip on Btrfs, to the hole; same input gives the same bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tbdiff.create import create_image
from tests.honest import differences
from tests.kitchen.sink import kitchen_sink, kitchen_sink_changed
from tests.random_trees import tree_pairs
from tests.roundtrip import assert_round_trips, assert_way, snapshot
from tests.trees import Tree


@pytest.fixture
def ground(btrfs_of_module: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=btrfs_of_module) as path:
        yield Path(path)


@given(pair=tree_pairs())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_random_pairs(pair: tuple[Tree, Tree], btrfs_of_module: Path) -> None:
    ground = btrfs_of_module / "random"
    ground.mkdir(exist_ok=True)
    assert_round_trips(*pair, ground)


def test_the_kitchen_sink_and_back(ground: Path) -> None:
    kitchen_sink(ground / "base")
    kitchen_sink_changed(ground / "target")
    kitchen_sink(ground / "copy")
    assert_way(ground / "base", ground / "target", ground / "copy", ground / "there.tbdiff")
    assert_way(ground / "target", ground / "base", ground / "copy", ground / "back.tbdiff")


def test_the_kitchen_sink_from_nothing(ground: Path) -> None:
    kitchen_sink_changed(ground / "target")
    (ground / "new").mkdir()
    assert_way(None, ground / "target", ground / "new", ground / "full.tbdiff")


def test_the_kitchen_sink_in_a_snapshot(btrfs: Path) -> None:
    """As a device does it: the base stays as it was, and what did not change stays shared."""
    snapshot_of = btrfs / "base"
    import subprocess

    subprocess.run(["btrfs", "-q", "subvolume", "create", snapshot_of], check=True)
    kitchen_sink(snapshot_of)
    kitchen_sink(btrfs / "pristine")
    kitchen_sink_changed(btrfs / "target")
    copy = snapshot(snapshot_of, btrfs / "copy")
    assert_way(snapshot_of, btrfs / "target", copy, btrfs / "there.tbdiff")
    assert differences(btrfs / "pristine", snapshot_of) == []


def test_sockets_are_left_out_with_a_notice(ground: Path) -> None:
    kitchen_sink(ground / "base", sockets=True)
    kitchen_sink_changed(ground / "target", sockets=True)
    kitchen_sink(ground / "copy", sockets=True)
    said: list[str] = []
    create_image(ground / "base", ground / "target", ground / "i.tbdiff", effort="fast", notice=said.append)
    assert any("socket" in line for line in said)
    assert_way(ground / "base", ground / "target", ground / "copy", ground / "again.tbdiff")


def test_same_trees_same_bytes(ground: Path) -> None:
    images = []
    for n in (1, 2):
        kitchen_sink(ground / f"base{n}")
        kitchen_sink_changed(ground / f"target{n}")
        create_image(ground / f"base{n}", ground / f"target{n}", ground / f"{n}.tbdiff", effort="fast")
        images.append((ground / f"{n}.tbdiff").read_bytes())
    assert images[0] == images[1]
