"""The disk of a machine: an ext4 /boot with a boot loader as Debian sets it up, a Btrfs with Debian in `@`, and `init`.

Images of v2, good ones and bad ones, lie in /data of the machine.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tbdiff.create import Label, create_image
from tbdiff.signature import create_key
from tbupdate.boot import place
from tests import loops
from tests.boot import debian, uboot
from tests.boot.debian import run
from tests.bootable import archive
from tests.rig import tb_update

MIB = 1 << 20
BOOT_AT, BOOT_SIZE, SIZE = 1 * MIB, 256 * MIB, 3072 * MIB
OPTIONS = "console=ttyS0,115200 mitigations=off loglevel=6"
CONFIG = f'keys = "/etc/tb-update/keys"\n[boot]\noptions = "{OPTIONS}"\n'


@dataclass(frozen=True)
class Golden:
    """A disk image on which v1 is initialised, to be copied; and what the two systems' kernels are called."""

    image: Path
    kernels: tuple[str, str]


@contextlib.contextmanager
def partitions(image: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Both file systems of a disk, mounted: /boot and the top level."""
    found = []
    try:
        for name, at, size in (("boot", BOOT_AT, BOOT_SIZE), ("top", BOOT_AT + BOOT_SIZE, SIZE - BOOT_AT - BOOT_SIZE)):
            place = folder / name
            place.mkdir(exist_ok=True)
            more = ",subvolid=5" if name == "top" else ""
            run("mount", "-o", f"loop,offset={at},sizelimit={size},noatime{more}", image, place)
            found.append(place)
        yield found[0], found[1]
    finally:
        for place in reversed(found):
            subprocess.run(["umount", place], check=True)
        loops.release(image)


def make(folder: Path, install_loader: Callable[[Path, Path, Path], None], loader: str, suite: str = "") -> Golden:
    """A disk with v1, and the images of v2; of this computer's Debian, or of the one that is named."""
    image = folder / "golden.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
    run(
        *("parted", "-s", image, "mklabel", "msdos", "mkpart", "primary", "ext4", "1MiB", "257MiB"),
        *("mkpart", "primary", "btrfs", "257MiB", "100%", "set", "1", "boot", "on"),
    )
    run("mkfs.ext4", "-q", "-b", "4096", "-L", "boot", "-E", f"offset={BOOT_AT}", image, f"{BOOT_SIZE // 1024}k")
    rest = folder / "btrfs.img"
    with rest.open("wb") as file:
        file.truncate(SIZE - BOOT_AT - BOOT_SIZE)
    run("mkfs.btrfs", "-q", "-L", "system", rest)
    run("dd", f"if={rest}", f"of={image}", f"seek={(BOOT_AT + BOOT_SIZE) // MIB}", "bs=1M", "conv=notrunc,sparse")
    rest.unlink()
    create_key(folder / "builder")
    with partitions(image, folder) as (boot, top):
        for name in ("@", "@data", "work"):
            run("btrfs", "subvolume", "create", top / name)
        tree = top / "work/tree"
        run("btrfs", "subvolume", "create", tree)
        older, newer = debian.build(tree, suite or debian.here())
        (tree / "etc/tb-update/keys").mkdir(parents=True)
        shutil.copy(folder / "builder.pub", tree / "etc/tb-update/keys/builder.pub")
        (tree / "etc/tb-update/config.toml").write_text(CONFIG)
        (tree / "var/log/journal").mkdir(parents=True, exist_ok=True)
        install_loader(image, tree, boot)
        run("btrfs", "subvolume", "delete", top / "@")
        run("btrfs", "subvolume", "snapshot", tree, top / "@")
        debian.keep_kernel(top / "@", older, newer)
        # As an installer leaves it; `init` has to see to it.
        table = top / "@/etc/fstab"
        table.write_text(table.read_text().replace("/ btrfs noatime", "/ btrfs noatime,subvol=@"))
        for name in (f"vmlinuz-{older}", f"initrd.img-{older}"):
            (top / "@/boot" / name).rename(top / "@/boot" / f"{name}.moved")
            shutil.move(top / "@/boot" / f"{name}.moved", boot / name)
        config = folder / "config.toml"
        config.write_text(f'keys = "{folder}"\n[boot]\nchooser = "{loader}"\noptions = "{OPTIONS}"\n')
        _init(top, boot, config)
        _make_images(folder, top, tree, older, newer)
        run("btrfs", "subvolume", "delete", tree)
    return Golden(image, (older, newer))


def deploy(golden: Golden, disk: Path, image: str) -> str:
    """Stage an image from outside of the machine, which is off; the id of the deployment."""
    with partitions(disk, disk.parent) as (boot, top):
        config = golden.image.with_name("config.toml")
        ended = tb_update(
            *(top, "deploy", top / f"@data/{image}.tbdiff", "--boot", boot),
            *("--allow-downgrade", "--again", "--json"),
            config=config,
        )
        assert ended.code == 0, ended.err
        return str(ended.json["staged"])


def _init(top: Path, boot: Path, config: Path) -> None:
    ended = tb_update(top, "init", "--yes", "--root", "@", "--boot", boot, config=config)
    assert ended.code == 0, ended.err


def _make_images(folder: Path, top: Path, tree: Path, older: str, newer: str) -> None:
    current = top / "snapshots/current"
    (tree / "etc/tb-version").write_text("v2\n")
    debian.keep_kernel(tree, newer, older)
    _image(folder, top, current, tree, "good", "2.0")
    run("btrfs", "subvolume", "snapshot", "-r", tree, top / "work/good")
    (tree / "etc/tb-version").write_text("v3\n")
    _image(folder, top, top / "work/good", tree, "next", "3.0")
    run("btrfs", "subvolume", "delete", top / "work/good")
    (tree / "etc/tb-version").write_text("v2\n")

    # It comes up - with an initrd that is made when it is deployed - but what it is for does not work.
    initrd = tree / f"boot/initrd.img-{newer}"
    shutil.move(initrd, folder / "initrd")
    check = tree / "usr/lib/tb-update/required.d/10-application"
    check.parent.mkdir(parents=True)
    check.write_text("#!/bin/sh\necho it does not answer\nexit 1\n")
    check.chmod(0o755)
    _image(folder, top, current, tree, "sick", "2.2")
    shutil.rmtree(tree / "usr/lib/tb-update")
    shutil.move(folder / "initrd", initrd)

    # An initrd that has nothing to start: the kernel panics before anything of ours runs.
    initrd.write_bytes(archive("usr/lib/tb-update/boot"))
    _image(folder, top, current, tree, "panic", "2.1")


def _image(folder: Path, top: Path, current: Path, tree: Path, name: str, release: str) -> None:
    out = top / f"@data/{name}.tbdiff"
    create_image(current, tree, out, label=Label(name="demo", release=release), key=folder / "builder", effort="fast")


def grub(image: Path, tree: Path, boot: Path) -> None:
    """GRUB for a BIOS, with what matters of Debian's grub.cfg: its head, an entry, and 41_custom as it comes."""
    modules = boot / "grub/i386-pc"
    modules.mkdir(parents=True)
    for source in (tree / "usr/lib/grub/i386-pc").iterdir():
        if source.suffix in (".mod", ".lst"):
            shutil.copy(source, modules)
    core = tree / "core.img"
    run(
        *("chroot", tree, "grub-mkimage", "-O", "i386-pc", "-p", "(hd0,msdos1)/grub", "-o", "/core.img"),
        *("biosdisk", "part_msdos", "ext2"),
    )
    with image.open("r+b") as disk:
        disk.write((tree / "usr/lib/grub/i386-pc/boot.img").read_bytes()[:440])
        disk.seek(512)
        disk.write(core.read_bytes())
    core.unlink()
    custom = subprocess.run([tree / "etc/grub.d/41_custom"], check=True, capture_output=True, text=True).stdout
    (boot / "grub/grub.cfg").write_text(
        'if [ -s $prefix/grubenv ]; then\n  set have_grubenv=true\n  load_env\nfi\nset default="0"\n'
        "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\nset timeout=0\n"
        "menuentry 'Debian as it was installed' {\n  echo nobody should come here\n}\n" + custom
    )


def with_extlinux(golden: Golden, folder: Path) -> Golden:
    """The same system, but extlinux boots it."""
    image = folder / "extlinux.img"
    run("cp", "--sparse=always", "--reflink=auto", golden.image, image)
    with partitions(image, folder) as (boot, top):
        for name in ("grub", "tb-update"):
            shutil.rmtree(boot / name)
        tree = top / "snapshots/root"
        (boot / "extlinux").mkdir()
        with debian.chroot(tree) as inside:
            run("mount", "--bind", boot, tree / "boot")
            try:
                inside("extlinux", "--install", "/boot/extlinux")
            finally:
                run("umount", tree / "boot")
        with image.open("r+b") as disk:
            disk.write((tree / "usr/lib/syslinux/mbr/mbr.bin").read_bytes()[:440])
        (boot / "extlinux/extlinux.conf").write_text(
            "SERIAL 0 115200\nDEFAULT installed\nPROMPT 0\nTIMEOUT 1\nLABEL installed\n  LINUX /nothing\n"
        )
        config = folder / "config.toml"
        config.write_text(golden.image.with_name("config.toml").read_text().replace('"grub"', '"extlinux"'))
        _init(top, boot, config)
    return Golden(image, golden.kernels)


def with_uboot(golden: Golden, folder: Path) -> Golden:
    """The same system as an installer leaves it for U-Boot, which has its environment on a partition of its own."""
    image, fat = folder / "u-boot.img", folder / "fat.img"
    run("cp", "--sparse=always", "--reflink=auto", golden.image, image)
    older = golden.kernels[0]
    with partitions(image, folder) as (boot, _):
        for name in ("grub", "tb-update"):
            shutil.rmtree(boot / name)
        (boot / "extlinux").mkdir()
        (boot / "extlinux/extlinux.conf").write_text(
            f"DEFAULT installed\nLABEL installed\n  LINUX /vmlinuz-{older}\n  INITRD /initrd.img-{older}\n"
            f"  APPEND root=LABEL=system rootfstype=btrfs ro {OPTIONS}\n"
        )
    with fat.open("wb") as file:
        file.truncate(16 * MIB)
    run("mkfs.vfat", "-n", "UBOOT", fat)
    run("mcopy", "-i", fat, *uboot.make_environments(folder), "::")
    run("truncate", "-s", f"+{16 * MIB}", image)
    run("parted", "-s", image, "mkpart", "primary", "fat16", f"{SIZE}B", "100%")
    run("dd", f"if={fat}", f"of={image}", f"seek={SIZE // MIB}", "bs=1M", "conv=notrunc")
    return Golden(image, golden.kernels)


def with_systemd_boot(golden: Golden, folder: Path) -> Golden:
    """The same system on a GPT disk whose /boot is the EFI partition, with systemd-boot.

    It is put together on the ext4 that is there and copied then: not every kernel that tests run on has FAT.
    """
    image, fat, files = folder / "efi.img", folder / "fat.img", folder / "files"
    run("cp", "--sparse=always", "--reflink=auto", golden.image, image)
    with partitions(image, folder) as (boot, top):
        for name in ("grub", "tb-update"):
            shutil.rmtree(boot / name)
        (boot / "loader/entries").mkdir(parents=True)
        (boot / "loader/loader.conf").write_text("timeout 0\n")
        config = folder / "config.toml"
        config.write_text(golden.image.with_name("config.toml").read_text().replace('"grub"', '"systemd-boot"'))
        _init(top, boot, config)
        old = place.uuid_of(str(boot))
        (folder / "unpacked").mkdir()
        debian.unpack(folder / "unpacked", "systemd-boot-efi")
        (boot / "EFI/BOOT").mkdir(parents=True)
        loader = folder / "unpacked/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
        shutil.copy(loader, boot / "EFI/BOOT/BOOTX64.EFI")
        shutil.copytree(boot, files, ignore=shutil.ignore_patterns("lost+found"))
    with fat.open("wb") as file:
        file.truncate(BOOT_SIZE)
    run("mkfs.vfat", "-F", "32", "-n", "boot", "-i", "0123abcd", fat)
    for entry in (files / "loader/entries").iterdir():
        entry.write_text(entry.read_text().replace(old, "0123-ABCD"))
    run("mcopy", "-s", "-i", fat, *sorted(files.iterdir()), "::")
    run("truncate", "-s", "+1M", image)
    run(
        *("parted", "-s", image, "mklabel", "gpt", "mkpart", "boot", "fat32", "1MiB", "257MiB"),
        *("mkpart", "system", "btrfs", "257MiB", f"{SIZE - 1}B", "set", "1", "esp", "on"),
    )
    run("dd", f"if={fat}", f"of={image}", f"seek={BOOT_AT // MIB}", "bs=1M", "conv=notrunc")
    return Golden(image, golden.kernels)
