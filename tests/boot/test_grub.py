"""Real boots through GRUB: a good update, and systems that do not come up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.boot.disk import Golden
from tests.boot.machine import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def status(machine: Machine) -> dict[str, Any]:
    return dict(json.loads(machine.run("tb-update status --json")))


def test_a_good_update(machine: Machine, grub_disk: Golden) -> None:
    older, newer = grub_disk.kernels
    machine.start()
    assert machine.up() == "v1"
    assert machine.run("uname -r").strip() == older
    first = status(machine)
    assert first["booted"] == first["default"] == first["committed"]
    machine.run("echo mine >/data/mine")
    machine.run("tb-update deploy /data/good.tbdiff")
    assert machine.reboot() == "v2"
    assert machine.run("uname -r").strip() == newer
    assert status(machine)["trial"]
    machine.run("tb-update commit")
    assert machine.reboot() == "v2"
    assert machine.run("cat /data/mine") == "mine\n"
    last = status(machine)
    assert last["committed"] == last["booted"] != first["booted"]
    machine.run("tb-update rollback")
    assert machine.reboot() == "v1"
    assert machine.run("uname -r").strip() == older


def stage(machine: Machine, image: str) -> str:
    """Switch it on, deploy an image; the id of the deployment."""
    machine.start()
    assert machine.up() == "v1"
    machine.run(f"tb-update deploy /data/{image}.tbdiff")
    return str(status(machine)["staged"])


def came_back(machine: Machine, disk: Golden, left: str, why: str) -> None:
    """v1 runs again, under its own kernel, and says why."""
    assert machine.up() == "v1"
    assert machine.run("uname -r").strip() == disk.kernels[0]
    machine.run("tb-update prune", code=None)
    said = status(machine)
    assert said["booted"] == said["default"] == said["committed"]
    assert not said["interrupted"]
    bad = next(one for one in said["deployments"] if one["id"] == left)
    assert bad["state"] == "bad"
    assert why in bad["bad"]


def test_a_kernel_that_panics_before_the_initramfs(machine: Machine, grub_disk: Golden) -> None:
    left = stage(machine, "panic")
    machine.ask("systemctl reboot")
    machine.wait_end()
    for _ in range(3):
        machine.start()
        machine.expect("Kernel panic")
        machine.wait_end()
    machine.start()
    came_back(machine, grub_disk, left, "the initramfs was never reached")
    # What failed is not installed again by itself.
    assert "failed here before" in machine.run("tb-update deploy /data/panic.tbdiff", code=3)
    machine.run("tb-update deploy /data/good.tbdiff")
    assert machine.reboot() == "v2"


def test_a_system_without_init(machine: Machine, grub_disk: Golden) -> None:
    left = stage(machine, "good")
    machine.run("mount -o subvolid=5 LABEL=system /mnt; rm /mnt/snapshots/root/usr/lib/systemd/systemd; umount /mnt")
    machine.ask("systemctl reboot")
    machine.wait_end()
    machine.start()
    machine.expect("it has no init: going back")
    machine.wait_end()
    machine.start()
    came_back(machine, grub_disk, left, "it has no init")


def test_a_system_that_hangs(machine: Machine, grub_disk: Golden) -> None:
    left = stage(machine, "good")
    machine.run(
        "mount -o subvolid=5 LABEL=system /mnt; cd /mnt/snapshots/root/usr/sbin; rm init; "
        "printf '#!/bin/sh\necho it hangs >/dev/console; while :; do sleep 1000; done' >init; chmod +x init; "
        "cd /; umount /mnt"
    )
    machine.ask("systemctl reboot")
    machine.wait_end()
    for left_over in (2, 1, 0):
        machine.start()
        machine.expect(f"{left_over} tries left after this one")
        machine.expect("it hangs")
        machine.cut()  # as a watchdog does
    machine.start()
    came_back(machine, grub_disk, left, "never committed")
