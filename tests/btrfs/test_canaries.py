"""The rigs can find what they look for: naive updates, which must be found out. A silent rig proves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import faults
from tests.rig import Rig, formatted, mounted, system_tree
from tests.trees import build, change

IN_PLACE = """
import os, sys
for name in ("etc/os-release", "usr/big"):
    fd = os.open(f"{sys.argv[1]}/snapshots/root/{name}", os.O_WRONLY | os.O_TRUNC)
    os.write(fd, open(f"{sys.argv[1]}/new/{name}", "rb").read())
    os.close(fd)
"""


def prepared(rig: Rig) -> Path:
    def make(top: Path) -> None:
        (top / "snapshots").mkdir()
        for version, path in ((1, top / "snapshots/root"), (2, top / "new")):
            subprocess.run(["btrfs", "-q", "subvolume", "create", path], check=True)
            build(system_tree(version), path)
        subprocess.run(["btrfs", "subvolume", "set-default", top / "snapshots/root"], check=True)

    return rig.golden("canary", make)


def test_an_update_in_place_is_found_when_it_is_killed(rig: Rig) -> None:
    golden, found = prepared(rig), 0
    with rig.copy(golden) as (top, _):
        ended, calls = faults.record([sys.executable, "-c", IN_PLACE, str(top)], top)
        assert ended.code == 0, ended.err
    for call in calls:
        with rig.copy(golden) as (top, _):
            assert faults.kill_at(call, [sys.executable, "-c", IN_PLACE, str(top)]).code == -9
            try:
                rig.boots(top, (1, 2))
            except AssertionError:
                found += 1
    assert found


def test_data_that_comes_after_the_switch_is_found_by_a_power_cut(rig: Rig) -> None:
    """Metadata can be durable before data: the reason for the syncfs before the switch."""
    image = formatted(rig.folder / "unsynced.btrfs", 320 << 20)
    with mounted(image) as top:
        for version in (1, 2):
            subprocess.run(["btrfs", "-q", "subvolume", "create", top / f"v{version}"], check=True)
        build(system_tree(1), top / "v1")
        subprocess.run(["btrfs", "subvolume", "set-default", top / "v1"], check=True)
        subprocess.run(["sync", "-f", top], check=True)
        build(system_tree(2), top / "v2")
        subprocess.run(["btrfs", "subvolume", "set-default", top / "v2"], check=True)
        # Whatever commits a transaction, here a snapshot elsewhere, makes the switch durable but not the data.
        (top / "other").mkdir()
        subprocess.run(["btrfs", "-q", "subvolume", "snapshot", top / "v1", top / "other/copy"], check=True)
        cut = rig.copied(image)
        assert rig.boots(top, (2,)) == 2
    with mounted(cut) as top, pytest.raises(AssertionError, match="not whole"):
        rig.boots(top, (1, 2))


def test_one_changed_bit_of_metadata_is_found(rig: Rig) -> None:
    tree = system_tree(2)
    change(tree, b"bin/su", mode=0o755)
    with mounted(formatted(rig.folder / "bit.btrfs", 320 << 20)) as top:
        build(tree, top)
        with pytest.raises(AssertionError, match="bin/su"):
            rig.boots(top, (2,))
