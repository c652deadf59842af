"""What lies beside the root: programs that write into the root are found, and files that would be hidden are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbupdate import fstab
from tests import device
from tests.console import Device, set_up


@pytest.fixture
def dev(btrfs: Path, tmp_path: Path) -> Device:
    for name in ("home/user", "srv", "var/log"):
        (btrfs / name).mkdir(parents=True)
    (btrfs / "home/user/.profile").write_text("shipped")
    return set_up(btrfs, tmp_path)


def writers(dev: Device) -> list[str]:
    found = dev.json("doctor")["findings"]
    return [one["problem"] for one in found if one["name"] == "writers" and one["notice"]]


def test_who_writes_into_the_root_is_found(dev: Device) -> None:
    root = dev.top / "snapshots/root"
    assert writers(dev) == []
    (root / "home/user/letter").write_text("mine")
    (root / "var/log/syslog").write_text("line")
    assert [("/home" in said, "/var/log" in said) for said in writers(dev)] == [(True, False), (False, True)]
    table = device.FSTAB + "LABEL=system /home btrfs subvol=home 0 0\nLABEL=data /var ext4 defaults 0 0\n"
    (root / "etc/fstab").write_text(table)
    assert writers(dev) == []


def test_files_that_a_new_system_brings_below_a_mount_are_told(dev: Device) -> None:
    (dev.top / "snapshots/root/etc/fstab").write_text(device.FSTAB + "LABEL=system /home btrfs subvol=home 0 0\n")
    tree = dev.tree("next")
    (tree / "etc/fstab").write_text(device.FSTAB)
    for name in ("home/user", "home-grown", "srv"):
        (tree / name).mkdir(parents=True)
    (tree / "home/user/.profile").write_text("better")
    (tree / "home-grown/file").write_text("x")
    told = dev.json("deploy", dev.image(None, tree, "2.0"))["warnings"]
    assert [said for said in told if "brings 2 files and directories below /home," in said]
    (tree / "home/user/.profile").unlink()
    (tree / "home/user").rmdir()
    told = dev.json("deploy", dev.image(None, tree, "3.0"))["warnings"]
    assert not [said for said in told if "below /home" in said]


def test_what_is_outside() -> None:
    table = """
    UUID=1 / btrfs defaults 0 0
    UUID=2 /boot ext4 defaults 0 2   # the boot partition
    UUID=3 /boot/efi vfat defaults 0 2
    UUID=1 /home btrfs subvol=@home,noatime 0 0
    UUID=1 /srv/ btrfs subvolid=300 0 0
    tmpfs /tmp tmpfs defaults 0 0
    tmpfs /var/tmp tmpfs size=1m 0 0
    /swapfile none swap sw 0 0
    proc /proc proc defaults 0 0
    broken
    """
    found = fstab.outside(fstab.lines(table))
    assert [(line.point, fstab.subvolume_of(line)) for line in found] == [
        ("/home", "@home"),
        ("/srv", "300"),
        ("/var/tmp", None),
    ]
