"""What may come in the way of an update, in real boots: full disks, second thoughts, a way back that is gone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.boot import disk
from tests.boot.disk import Golden
from tests.boot.machine import Machine
from tests.boot.test_boots import ROOT, status
from tests.btrfs.test_enospc import fill_metadata

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def test_full_disks_two_deploys_two_rollbacks_and_no_way_back(machine: Machine, grub_disk: Golden) -> None:
    older, newer = grub_disk.kernels
    disk.deploy(grub_disk, machine.disk, "panic")
    second = disk.deploy(grub_disk, machine.disk, "good")
    with disk.partitions(machine.disk, machine.disk.parent) as (boot, top):
        fill(boot, top)

    # Of two deploys before one boot the second counts. It is tried, committed and left with no room on either disk.
    machine.start()
    assert machine.settle() == "v2"
    assert machine.run("uname -r").strip() == newer
    said = status(machine)
    assert said["committed"] == second
    (first,) = {one["id"] for one in said["deployments"] if one["committed"]} - {second}
    for boots_next in (first, second, first):
        machine.run("tb-update rollback")
        assert status(machine)["default"] == boots_next
    assert machine.reboot() == "v1"
    assert machine.run("uname -r").strip() == older
    machine.run("tb-update rollback")
    machine.switch_off()
    with disk.partitions(machine.disk, machine.disk.parent) as (boot, top):
        (boot / "filler").unlink()
        shutil.rmtree(top / "filler")

    # The way back goes; that is said, and the next deploy has one again.
    machine.start()
    assert machine.settle() == "v2"
    assert machine.run("uname -r").strip() == newer
    machine.run(f"{ROOT}/..; btrfs subvolume delete {first} {first}.root previous; cd /; umount /mnt")
    assert "no earlier deployment to go back to" in machine.run("tb-update rollback", code=3)
    machine.switch_off()
    third = disk.deploy(grub_disk, machine.disk, "next")
    with disk.partitions(machine.disk, machine.disk.parent) as (boot, top):
        (top / "snapshots/root/usr/lib/systemd/systemd").unlink()
        fill(boot, top)
    machine.start()
    machine.expect("it has no init: going back")
    machine.wait_end()
    machine.start()
    assert machine.settle() == "v2"
    assert machine.run("uname -r").strip() == newer
    said = status(machine)
    assert said["booted"] == said["default"] == said["committed"] == second
    assert {one["id"]: one["bad"] for one in said["deployments"]}[third] == "it has no init"


def fill(boot: Path, top: Path) -> None:
    """Leave no room on either file system."""
    fill_metadata(top)
    with (boot / "filler").open("wb") as file:
        state = os.statvfs(boot)
        file.write(bytes(state.f_bavail * state.f_frsize))
