"""Real boots through GRUB: a good update, and systems that do not come up or do not work."""

from __future__ import annotations

import collections
import io
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from tbupdate.boot import initrd, place
from tests.boot import debian, disk, efi
from tests.boot.debian import run
from tests.boot.disk import Golden
from tests.boot.machine import Machine, Recording

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

ROOT = "mount -o subvolid=5 LABEL=system /mnt; cd /mnt/snapshots/root"


def status(machine: Machine) -> dict[str, Any]:
    return dict(json.loads(machine.run("tb-update status --json")))


def came_back(machine: Machine, golden: Golden, left: str, why: str, to: str = "v1") -> None:
    """The version before runs again, under its own kernel, and has said by itself why."""
    assert machine.settle() == to
    assert machine.run("uname -r").strip() == golden.kernels[("v1", "v2").index(to)]
    said = status(machine)
    assert said["booted"] == said["default"] == said["committed"]
    assert not said["interrupted"]
    bad = next(one for one in said["deployments"] if one["id"] == left)
    assert bad["state"] == "bad"
    assert why in bad["bad"]


def test_a_good_update_and_back_by_hand(machine: Machine, grub_disk: Golden) -> None:
    older, newer = grub_disk.kernels
    machine.start()
    assert machine.settle() == "v1"
    assert machine.run("uname -r").strip() == older
    assert machine.run("systemctl show --property RuntimeWatchdogUSec --value").strip() == "1min"
    first = status(machine)
    assert first["booted"] == first["default"] == first["committed"]
    machine.run("echo mine >/data/mine; echo early >/etc/early")
    machine.run("tb-update deploy /data/good.tbdiff; echo late >/etc/late")
    machine.ask("systemctl reboot")
    machine.wait_end()
    with disk.partitions(machine.disk, machine.disk.parent) as (_, top):
        # Not the first boot, but the unit that is stopped last has brought it.
        assert (top / "snapshots/root/etc/late").read_text() == "late\n"
    machine.start()
    assert machine.settle() == "v2"
    assert machine.run("cat /etc/early /etc/late") == "early\nlate\n"
    assert machine.run("mount -o subvolid=5 LABEL=system /mnt; ls /mnt/snapshots | grep carried; umount /mnt") == ""
    machine.run("passwd -d daemon; echo new >/etc/late")
    assert machine.run("uname -r").strip() == newer
    last = status(machine)
    assert last["committed"] == last["booted"] != first["booted"]
    assert last["boot"]["default"] == last["booted"]
    assert last["boot"]["trial"] is None
    assert machine.run("cat /data/mine") == "mine\n"
    machine.run("tb-update rollback")
    assert machine.reboot() == "v1"
    assert machine.run("uname -r").strip() == older
    assert machine.run("cat /etc/late; getent shadow daemon | cut -d: -f2") == "late\n\n"


def test_a_power_cut_after_the_deploy_loses_no_local_change(machine: Machine, grub_disk: Golden) -> None:
    disk.deploy(grub_disk, machine.disk, "good")
    with disk.partitions(machine.disk, machine.disk.parent) as (_, top):
        # What ran is a root that is kept now; nothing of it was carried on by a shutdown.
        (running,) = (top / "snapshots").glob("Debian*.root")
        (running / "etc/late").write_text("late\n")
    machine.start()
    assert machine.settle() == "v2"
    assert machine.run("cat /etc/late") == "late\n"


def test_a_kernel_that_panics_before_the_initramfs(machine: Machine, grub_disk: Golden) -> None:
    left = disk.deploy(grub_disk, machine.disk, "panic")
    for _ in range(3):
        machine.start()
        machine.expect("Kernel panic")
        machine.wait_end()
    machine.start()
    came_back(machine, grub_disk, left, "the initramfs was never reached")
    # What failed is not installed again by itself.
    assert "failed here before" in machine.run("tb-update deploy /data/panic.tbdiff", code=3)


def test_a_required_check_that_fails(machine: Machine, grub_disk: Golden) -> None:
    left = disk.deploy(grub_disk, machine.disk, "sick")
    machine.start()
    assert machine.up() == "v2"
    machine.wait_end()
    machine.start()
    came_back(machine, grub_disk, left, "the required check 10-application failed: it does not answer")
    assert "tb-update" in machine.run("tb-update history")


def test_a_system_without_init_and_one_that_hangs(machine: Machine, grub_disk: Golden) -> None:
    first = disk.deploy(grub_disk, machine.disk, "sick")
    with disk.partitions(machine.disk, machine.disk.parent) as (_, top):
        (top / "snapshots/root/usr/lib/systemd/systemd").unlink()
    machine.start()
    machine.expect("it has no init: going back")
    machine.wait_end()

    left = disk.deploy(grub_disk, machine.disk, "good")
    with disk.partitions(machine.disk, machine.disk.parent) as (_, top):
        init = top / "snapshots/root/usr/sbin/init"
        init.unlink()
        init.write_text("#!/bin/sh\necho it hangs >/dev/console\nwhile :; do sleep 1000; done\n")
        init.chmod(0o755)
    for tries in (2, 1, 0):
        machine.start()
        machine.expect(f"{tries} tries left after this one")
        machine.expect("it hangs")
        machine.cut()  # as a watchdog does
    machine.start()
    came_back(machine, grub_disk, left, "never committed")
    # What the hook wrote down before was read by the deploy that came next.
    assert {one["id"]: one["bad"] for one in status(machine)["deployments"]}[first] == "it has no init"


def test_a_clean_reboot_before_the_commit_costs_no_try(machine: Machine, grub_disk: Golden) -> None:
    disk.deploy(grub_disk, machine.disk, "good")
    with disk.partitions(machine.disk, machine.disk.parent) as (_, top):
        config = top / "snapshots/root/etc/tb-update/config.toml"
        config.write_text(config.read_text() + "[health]\ncommit = false\n")
    machine.start()
    assert machine.settle() == "v2"
    assert status(machine)["boot"]["tries"] == 2
    assert machine.reboot() == "v2"
    assert status(machine)["boot"]["tries"] == 2


def test_extlinux_boots_a_good_update_and_the_hook_leaves_one_that_hangs(
    extlinux_machine: Machine, extlinux_disk: Golden
) -> None:
    machine, (older, newer) = extlinux_machine, extlinux_disk.kernels
    left = disk.deploy(extlinux_disk, machine.disk, "good")
    with disk.partitions(machine.disk, machine.disk.parent) as (_, top):
        (top / "snapshots/root/usr/sbin/init").unlink()
        hangs = top / "snapshots/root/usr/sbin/init"
        hangs.write_text("#!/bin/sh\necho it hangs >/dev/console\nwhile :; do sleep 1000; done\n")
        hangs.chmod(0o755)
    for _ in range(3):
        machine.start()
        machine.expect("it hangs")
        machine.cut()
    machine.start()
    machine.expect("tries are used up: going back")
    machine.wait_end()
    machine.start()
    came_back(machine, extlinux_disk, left, "its tries are used up")
    assert machine.run("uname -r").strip() == older
    machine.switch_off()
    disk.deploy(extlinux_disk, machine.disk, "good")
    machine.start()
    assert machine.settle() == "v2"
    assert machine.run("uname -r").strip() == newer
    assert status(machine)["boot"]["trial"] is None


def test_the_hook_works_in_an_initrd_of_dracut(machine: Machine, grub_disk: Golden) -> None:
    """Something else is the default subvolume; the hook brings what the boot entry names."""
    with disk.partitions(machine.disk, machine.disk.parent) as (boot, top):
        scratch = top / "work/dracut"
        run("btrfs", "subvolume", "snapshot", top / "snapshots/current", scratch)
        (kernels,) = (boot / "tb-update").glob("k-*")
        debian.dracut_initrd(scratch, grub_disk.kernels[0], machine.folder / "initrd")
        assert initrd.has_hook(io.BytesIO((machine.folder / "initrd").read_bytes()))
        shutil.copy(machine.folder / "initrd", kernels / "initrd")
        run("btrfs", "subvolume", "set-default", scratch)
    machine.start()
    assert machine.settle() == "v1"
    assert "snapshots/root" in machine.run("btrfs subvolume show /")
    assert "is the default subvolume now" in machine.run("dmesg")
    assert status(machine)["booted"] == status(machine)["committed"]


def test_systemd_boot_gives_up_what_panics_and_boots_a_good_update_whenever_it_is_cut(
    efi_machine: Machine, efi_disk: Golden, record_property: Callable[[str, object], None]
) -> None:
    machine, (older, newer) = efi_machine, efi_disk.kernels
    machine.start()
    assert machine.settle() == "v1"
    assert machine.run("uname -r").strip() == older
    left = json.loads(machine.run("tb-update deploy --json /data/panic.tbdiff"))["staged"]
    machine.ask("systemctl reboot")
    machine.wait_end()
    for _ in range(3):
        machine.start()
        machine.expect("Kernel panic")
        machine.wait_end()
    deploying = machine.start_recorded("deploy")
    came_back(machine, efi_disk, left, "the initramfs was never reached")
    # The first deploy has made room: a directory that grows while power is cut is lost to the firmware.
    assert int(machine.run("stat -c %s /boot/loader/entries")) >= place.ROOM
    old, begun = status(machine)["booted"], deploying.count
    new = json.loads(machine.run("tb-update deploy --allow-downgrade --json /data/good.tbdiff"))["staged"]
    cuts = check_every_cut(deploying, begun, deploying.count, {old, new}, efi.Reading(new, old))
    record_property("counted", f"deploy, EFI partition: {cuts}")
    machine.switch_off()
    booting = machine.start_recorded("boot")
    assert machine.settle() == "v2"
    assert machine.run("uname -r").strip() == newer
    said = status(machine)
    assert said["committed"] == said["booted"]
    assert said["boot"]["trial"] is None
    assert "+" not in machine.run("ls /boot/loader/entries")
    committed = booting.count
    # Firmware renames an entry by taking it away first: a cut in that moment is the end of the trial.
    cuts = check_every_cut(booting, 0, committed, {new, old}, efi.Reading(new, new))
    record_property("counted", f"trial boot and commit, EFI partition: {cuts}")
    machine.run("tb-update rollback")
    cuts = check_every_cut(booting, committed, booting.count, {new, old}, efi.Reading(old, old))
    record_property("counted", f"rollback, EFI partition: {cuts}")
    # The order of entries stands in their names: this systemd-boot reads it there.
    assert machine.reboot() == "v1"
    assert machine.run("uname -r").strip() == older


def check_every_cut(
    recorded: Recording,
    first: int,
    last: int,
    may_boot: set[str],
    in_the_end: efi.Reading,
) -> str:
    """Whatever a cut leaves of the EFI partition, it boots a whole pair, and so it does when the tries are used up."""
    seen: collections.Counter[str] = collections.Counter()
    for cut, image in efi.states(recorded, first, last, os.environ.get("TB_CRASH") == "all"):
        reading = efi.read(image)
        assert reading.first in may_boot, (cut, reading)
        seen[f"{reading.first}, {reading.otherwise}"] += 1
        if cut.point == last:
            assert reading == in_the_end, (cut, reading)
    return f"{seen.total()} cuts among {last - first} writes and flushes: {dict(seen)}"
