"""The same on Debian 13, whatever runs here: with its kernel, initramfs-tools, systemd, Python and btrfs-progs."""

from __future__ import annotations

import pytest

from tests.boot import disk
from tests.boot.disk import Golden
from tests.boot.machine import Machine
from tests.boot.test_boots import came_back, status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def test_an_update_and_a_fall_back_on_debian_13(trixie_machine: Machine, trixie_disk: Golden) -> None:
    machine, (older, newer) = trixie_machine, trixie_disk.kernels
    machine.start()
    assert machine.settle() == "v1"
    assert machine.run("uname -r").strip() == older
    assert machine.run("cat /etc/debian_version").startswith("13")
    machine.run("tb-update deploy /data/good.tbdiff")
    assert machine.reboot() == "v2"
    assert machine.run("uname -r").strip() == newer
    said = status(machine)
    assert said["committed"] == said["booted"] == said["boot"]["default"]
    machine.switch_off()
    left = disk.deploy(trixie_disk, machine.disk, "next")
    with disk.partitions(machine.disk, machine.disk.parent) as (_, top):
        (top / "snapshots/root/usr/lib/systemd/systemd").unlink()
    machine.start()
    machine.expect("it has no init: going back")
    machine.wait_end()
    machine.start()
    came_back(machine, trixie_disk, left, "it has no init", to="v2")
