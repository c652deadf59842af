"""What a device needs of memory does not grow with the size of the files."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.honest import differences
from tests.metered import Ended, run
from tests.rig import Rig, mounted
from tests.roundtrip import snapshot
from tests.trees import Bytes, Noise, Tree, build, directory, file, sparse

pytestmark = pytest.mark.slow

MIB = 1 << 20
LIMIT = 64 * MIB
HUGE, MOVED = 240 * MIB, 60 * MIB


def assert_small(ended: Ended) -> None:
    assert ended.code == 0, ended.err
    assert ended.memory < LIMIT, f"{ended.memory / MIB:.1f} MiB"


def huge(version: int) -> Tree:
    pieces = tuple(Noise(at, 20 * MIB, at + 1) for at in range(0, HUGE, 20 * MIB))
    edits = tuple(Bytes(at, b"edited %d" % version) for at in range(12_345, HUGE, 50 * MIB))
    tree: Tree = {b"": directory(), b"huge": sparse(HUGE, *pieces, *(edits if version > 1 else ()))}
    if version > 1:
        # All of it moves by a few bytes: no block of it is where it was.
        moved = tuple(Noise(at + 7, 20 * MIB, at + 10_001) for at in range(0, MOVED, 20 * MIB))
        tree[b"moved"] = sparse(MOVED + 7, Bytes(0, b"shifted"), *moved)
        tree[b"text"] = file(b"the same line again and again\n" * 1_000_000)
    else:
        moved = tuple(Noise(at, 20 * MIB, at + 10_001) for at in range(0, MOVED, 20 * MIB))
        tree[b"moved"] = sparse(MOVED, *moved)
    return tree


@pytest.mark.slow
def test_huge_files(make_btrfs: Callable[..., Path], tmp_path: Path) -> None:
    btrfs = make_btrfs(4 << 30)
    for version in (1, 2):
        subprocess.run(["btrfs", "-q", "subvolume", "create", btrfs / f"v{version}"], check=True)
        build(huge(version), btrfs / f"v{version}")
    way, full = tmp_path / "way.tbdiff", tmp_path / "full.tbdiff"
    assert run("tbdiff", "create", "--effort", "fast", btrfs / "v1", btrfs / "v2", "-o", way).code == 0
    tree = snapshot(btrfs / "v1", btrfs / "copy")
    assert_small(run("tbdiff", "apply", way, tree))
    assert differences(btrfs / "v2", tree) == []
    assert way.stat().st_size < 20 * MIB
    assert run("tbdiff", "create", "--effort", "fast", "--full", btrfs / "v1", "-o", full).code == 0
    (btrfs / "new").mkdir()
    assert_small(run("tbdiff", "apply", full, btrfs / "new"))
    assert differences(btrfs / "v1", btrfs / "new") == []
    full.unlink()


def test_every_command_of_a_device(rig: Rig) -> None:
    """The floor: what the commands need for a system of twenty files."""
    image = rig.copied(rig.golden("bare", lambda top: build(huge_free(), top)))
    with mounted(image) as top:
        options = ("--top", top, "--config", rig.config)
        for command in (
            ("init", "--yes"),
            ("deploy", rig.image(None, 2)),
            ("status",),
            ("commit",),
            ("list", "--json"),
            ("verify",),
            ("diff",),
            ("rollback",),
            ("history",),
        ):
            assert_small(run("tbupdate", *command, *options))


def huge_free() -> Tree:
    return {b"": directory(), b"etc/os-release": file(b"PRETTY_NAME=Small\n"), b"sbin/init": file(b"#!", mode=0o755)}
