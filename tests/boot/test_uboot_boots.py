"""Real boots through a U-Boot that counts the starts in its environment: what panics is given up, what works stays."""

from __future__ import annotations

import json

import pytest

from tests.boot.disk import Golden
from tests.boot.machine import Machine
from tests.boot.test_boots import came_back, status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def test_uboot_gives_up_what_panics_and_boots_a_good_update(uboot_machine: Machine, uboot_disk: Golden) -> None:
    machine, (older, newer) = uboot_machine, uboot_disk.kernels
    machine.start()
    assert machine.settle() == "v1"
    machine.run("tb-update init --yes")
    assert machine.reboot() == "v1"
    said = status(machine)
    assert said["boot"]["chooser"] == "u-boot"
    assert said["booted"] == said["committed"]
    left = json.loads(machine.run("tb-update deploy --json /data/panic.tbdiff"))["staged"]
    machine.ask("systemctl reboot")
    machine.wait_end()
    for _ in range(3):
        machine.start()
        machine.expect("Kernel panic")
        machine.wait_end()
    machine.start()
    machine.expect("Using altbootcmd")
    came_back(machine, uboot_disk, left, "the initramfs was never reached")
    assert variables(machine)["upgrade_available"] == "0"
    machine.run("tb-update deploy --allow-downgrade /data/good.tbdiff")
    assert machine.reboot() == "v2"
    assert machine.run("uname -r").strip() == newer
    assert status(machine)["committed"] == status(machine)["booted"]
    # It is not counted any more, so it stays.
    assert variables(machine)["upgrade_available"] == "0"
    assert variables(machine)["tb_counts"] == "yes"
    assert "as the last trial has shown" in machine.run("tb-update doctor", code=None)
    machine.run("tb-update rollback")
    assert machine.reboot() == "v1"
    assert machine.run("uname -r").strip() == older


def variables(machine: Machine) -> dict[str, str]:
    """U-Boot's environment."""
    return dict(line.split("=", 1) for line in machine.run("fw_printenv").splitlines() if "=" in line)
