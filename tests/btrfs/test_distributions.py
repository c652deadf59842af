"""`doctor` and `init` on what the installers of Debian, Ubuntu, openSUSE and Fedora leave."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tbdiff.signature import create_key
from tbupdate import fstab
from tests import bootpart, distributions
from tests.bootable import INITRD, bootable
from tests.console import Device
from tests.distributions import DEBIAN, FEDORA, OPENSUSE, UBUNTU, Layout

KERNEL_STAYS = "/boot is a directory of the root and no file system of its own: grub goes on booting the kernel"


@pytest.fixture
def console(btrfs: Path, tmp_path: Path) -> Device:
    """A device without any layout, whose builder is trusted."""
    (tmp_path / "keys").mkdir()
    create_key(tmp_path / "builder")
    (tmp_path / "builder.pub").rename(tmp_path / "keys/builder.pub")
    (tmp_path / "config.toml").write_text(f'keys = "{tmp_path}/keys"\n')
    return Device(btrfs, tmp_path)


def doctor(console: Device, *options: str, code: int = 0) -> dict[str, list[str]]:
    """What it finds: of each name the problems; those that are only worth knowing under "notice"."""
    shown = console.json("doctor", *options, code=code)
    assert shown["healthy"] == (code == 0)
    found: dict[str, list[str]] = {}
    for one in shown["findings"]:
        assert one["remedy"].rstrip(")`")[-1:] in {*".abcdefghijklmnopqrstuvwxyz"}, one
        found.setdefault("notice" if one["notice"] else one["name"], []).append(one["problem"])
    return found


def mounted(root: Path) -> dict[str, str | None]:
    return {line.point: fstab.subvolume_of(line) for line in fstab.read(str(root))}


@pytest.mark.parametrize(
    ("layout", "option"), [(DEBIAN, "subvol=@rootfs"), (UBUNTU, "subvol=@")], ids=["debian", "ubuntu"]
)
def test_a_root_that_holds_the_boot_directory(console: Device, layout: Layout, option: str) -> None:
    """Its own GRUB boots its own kernel with its own subvolume for ever: that is told before anything is done."""
    root = distributions.install(layout, console.top)
    before = doctor(console, code=1)
    assert set(before) == {"layout", "boot-options", "kernel"}
    assert before["layout"] == [f"the layout is not there; the system in {layout.root} calls itself {layout.name}"]
    assert before["boot-options"] == [f"{root}/boot/grub/grub.cfg mounts / with {option}"]
    assert before["kernel"][0].startswith(KERNEL_STAYS)

    notes = console.json("init", "--dry-run")["notes"]
    assert [note for note in notes if f"grub.cfg mounts / with {option}. " in note and "update-grub" in note]
    assert [note for note in notes if note.startswith(KERNEL_STAYS)]
    console("init", "--yes")
    root = console.top / "snapshots/root"
    assert mounted(root)["/"] is None
    assert mounted(root).get("/home") == mounted(console.top / layout.root).get("/home")
    assert set(doctor(console, code=1)) == {"boot-options", "kernel"}

    # What the remedies say: GRUB's last rootflags= counts; and somebody answers for the kernel.
    (root / "boot/grub/grub.cfg").write_text(distributions.menu(f"rootflags={option} rootflags=noatime"))
    with (console.work / "config.toml").open("a") as file:
        file.write('[boot]\nchooser = "none"\n')
    assert set(doctor(console)) == {"notice"}


def test_opensuse(console: Device) -> None:
    """Its GRUB follows the default subvolume, and its data is outside already; but snapper sets that as well."""
    root = distributions.install(OPENSUSE, console.top)
    found = doctor(console, code=1)
    assert set(found) == {"layout", "notice"}
    assert "the system in @/.snapshots/1/snapshot calls itself openSUSE Leap 15.6" in found["layout"][0]
    assert any("GRUB takes its menu and the kernel from the default subvolume" in one for one in found["notice"])
    assert any("snapper keeps snapshots of /, too" in one for one in found["notice"])

    notes = console.json("init", "--dry-run")["notes"]
    assert [note for note in notes if "snapper" in note and "tb-update rollback" in note]
    assert not [note for note in notes if "--move" in note or "goes on booting" in note]
    console("init", "--yes")
    assert (console.top / "snapshots/root/etc/fstab").read_text() == (root / "etc/fstab").read_text()
    assert set(doctor(console)) == {"notice"}
    subprocess.run(["btrfs", "subvolume", "set-default", root], check=True)
    assert "not snapshots/root" in doctor(console, code=1)["default"][0]


@pytest.fixture
def partition(tmp_path: Path) -> Iterator[Path]:
    """A boot partition with nothing on it."""
    with bootpart.partition(tmp_path, "none") as (place, _):
        yield place


@pytest.mark.parametrize("layout", [FEDORA, DEBIAN], ids=["fedora", "debian"])
def test_with_boot_on_a_partition_of_its_own(console: Device, layout: Layout, partition: Path) -> None:
    """`init` makes an entry without rootflags=; those that the distribution has stay, and are only worth knowing."""
    root = distributions.install(layout, console.top)
    shutil.rmtree(root / "boot")
    bootable(distributions.KERNEL)(root)
    distributions.write(layout, root)
    shutil.copytree(root / "boot", partition, dirs_exist_ok=True)
    shutil.rmtree(root / "boot")
    (root / "boot").mkdir()
    if layout is FEDORA:
        kernel = distributions.KERNEL
        (partition / f"initrd.img-{kernel}").rename(partition / f"initramfs-{kernel}.img")
    where = ("--boot", str(partition))
    before = doctor(console, *where, code=1)
    assert "kernel" not in before
    assert any("grub boots this system but does not know of tb-update" in said for said in before["notice"])
    assert console.json("init", "--dry-run", *where)["notes"] == []

    console("init", "--yes", *where)
    after = doctor(console, *where)
    assert set(after) == {"notice"}, "what systemd makes anew in each root is nothing to move"
    assert any("has an entry that mounts / with subvol=" in one for one in after["notice"])
    entry = next((partition / "tb-update/entries").iterdir()).read_text()
    assert "tb.id=" in entry
    assert "rootflags" not in entry
    assert INITRD in next(partition.glob("tb-update/k-*/initrd")).read_bytes()

    if layout is FEDORA:
        machines = console.top / "snapshots/root/var/lib/machines"
        machines.rmdir()
        subprocess.run(["btrfs", "-q", "subvolume", "create", machines], check=True)
        assert set(doctor(console, *where)) == {"notice"}
        (machines / "guest").mkdir()
        assert "/var/lib/machines of snapshots/root" in doctor(console, *where, code=1)["nested"][0]


def test_several_systems_and_none(console: Device) -> None:
    distributions.install(FEDORA, console.top)
    subprocess.run(["btrfs", "-q", "subvolume", "create", console.top / "other"], check=True)
    assert set(doctor(console, code=1)) >= {"layout"}
    (console.top / "other/etc").mkdir()
    (said,) = doctor(console, code=1)["layout"]
    assert "holds no system, but other, root do" in said
