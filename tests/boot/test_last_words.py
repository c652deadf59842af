"""With UEFI: a kernel's last words are in the history after the next boot; and the hook goes back by itself."""

from __future__ import annotations

import json

import pytest

from tests.boot.disk import Golden
from tests.boot.machine import Machine
from tests.boot.test_boots import ROOT, came_back, status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

# Its own service, which brings it to the disk, is masked in all other tests.
UNMASK = "rm /etc/systemd/system/systemd-pstore.service /etc/systemd/system/modprobe@efi_pstore.service"


def test_the_last_words_of_a_kernel_are_kept_and_the_hook_finds_the_partition_of_the_firmware(
    efi_machine: Machine, efi_disk: Golden
) -> None:
    machine = efi_machine
    machine.start()
    assert machine.settle() == "v1"
    machine.run(f"{UNMASK}; sed -i 's/^.boot.$/&\\ntries = 1/' /etc/tb-update/config.toml")
    left = json.loads(machine.run("tb-update deploy --json /data/good.tbdiff"))["staged"]
    machine.run(f"{ROOT}; printf '[health]\\ncommit = false\\n' >>etc/tb-update/config.toml; cd /; umount /mnt")
    machine.ask("systemctl reboot")
    machine.wait_end()
    machine.start()
    assert machine.settle() == "v2"
    machine.run("modprobe efi_pstore")
    machine.ask("echo c >/proc/sysrq-trigger")
    machine.expect("Kernel panic")
    machine.wait_end()
    machine.start()
    came_back(machine, efi_disk, left, "its kernel panicked: sysrq triggered crash")
    failed = status(machine)["failed"]
    assert any("Kernel panic - not syncing: sysrq triggered crash" in line for line in failed["log"])
    assert any("sysrq_handle_crash" in line for line in failed["log"])

    # Its kernel boots, but nothing can come of it: the hook says so to systemd-boot, by a name on its FAT.
    left = json.loads(machine.run("tb-update deploy --again --json /data/good.tbdiff"))["staged"]
    machine.run(f"{ROOT}; rm usr/lib/systemd/systemd; cd /; umount /mnt")
    machine.switch_off()
    machine.start()
    machine.expect("it has no init: going back")
    machine.wait_end()
    machine.start()
    came_back(machine, efi_disk, left, "it has no init")
