"""A boot partition for tests: a real ext4 on a loop device, and what the boot loader itself reads of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tbupdate.boot import finder, uboot
from tbupdate.boot.chooser import Chooser
from tests import loops

GRUB_CFG = """set default="0"
menuentry 'Debian' {
}
### BEGIN /etc/grub.d/41_custom ###
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
fi
"""
PART = Path(__file__).parents[1] / "boot-hooks/flash-kernel/tb-update"
ENVIRONMENTS = ("uboot.env", "uboot-redundant.env")
ENVIRONMENT_SIZE = 0x2000
ENVIRONMENT = "altbootcmd=run recovery\nbootcmd=run distro_bootcmd\nbootlimit=5\n"
EXTLINUX_CONF = "DEFAULT installed\nPROMPT 0\nLABEL installed\n LINUX /vmlinuz\n"


@contextmanager
def partition(folder: Path, loader: str, size: int = 64 << 20) -> Iterator[tuple[Path, Path]]:
    """The mounted partition, and the file that it is in."""
    image, place = folder / "boot.ext4", folder / "boot"
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    with mounted(image, place):
        install(place, loader)
        yield place, image


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """A boot partition that was made before."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop,noatime", image, place], check=True)
    try:
        yield place
    finally:
        loops.release(image)


def install(place: Path, loader: str) -> None:
    if loader == "grub":
        (place / "grub").mkdir()
        (place / "grub/grub.cfg").write_text(GRUB_CFG)
        (place / "grub/custom.cfg").write_text("# somebody else's\nset color_normal=white/black")
        (place / "grub/custom.cfg").chmod(0o600)
    elif loader in ("extlinux", "u-boot"):
        (place / "extlinux").mkdir()
        (place / "extlinux/extlinux.conf").write_text(EXTLINUX_CONF)
        if loader == "u-boot":
            make_environment(place, *ENVIRONMENTS)
    elif loader == "flash-kernel":
        write_script(place)
    elif loader == "systemd-boot":
        # On ext4, since not every kernel that tests run on has FAT; what is done there is making files and renaming.
        (place / "loader/entries").mkdir(parents=True)
        (place / "loader/loader.conf").write_text("timeout 3\n#default x\n")
        (place / "loader/entries/debian.conf").write_text("title Debian\nlinux /vmlinuz\n")


def write_script(place: Path, *, part: bool = True) -> None:
    """What flash-kernel does: its own script, with the parts of others in the middle, packed by the real mkimage.

    flash-kernel is there for ARM only. These are the lines of its script that ours relies on: what is set before, and
    what comes when ours has booted nothing.
    """
    lines = [
        'setenv bootargs "${bootargs} quiet"',
        "setenv fdtpath dtb-6.1.0",
        "setenv partition ${distro_bootpart}",
        PART.read_text() if part else "",
        "echo the kernel of flash-kernel",
    ]
    text = place.with_name("boot.cmd")
    text.write_text("\n".join(lines) + "\n")
    made = ["mkimage", "-A", "arm", "-O", "linux", "-T", "script", "-C", "none", "-n", "boot script"]
    subprocess.run([*made, "-d", text, place / "boot.scr"], check=True, capture_output=True)


def make_environment(place: Path, *names: str) -> None:
    """An environment of U-Boot, with two copies where two names are given."""
    for name in names:
        redundant = ["-r"] if len(names) > 1 else []
        made = ["mkenvimage", *redundant, "-s", str(ENVIRONMENT_SIZE), "-o", place / name, "-"]
        subprocess.run(made, input=ENVIRONMENT.encode(), check=True)


def environment(place: Path) -> str | None:
    """Where the environment on a partition is, as U-Boot's tools want to be told."""
    names = [name for name in ENVIRONMENTS if (place / name).exists()]
    said = place.with_name(place.name + ".fw_env.config")
    said.write_text("# device offset size\n" + "".join(f"{place / name} 0x0 {ENVIRONMENT_SIZE:#x}\n" for name in names))
    return str(said) if names else None


def chooser(place: Path, wanted: str = "auto") -> Chooser:
    """The boot chooser of a partition."""
    found = finder.find_chooser(wanted, str(place), running=False, environment=environment(place))
    assert found is not None
    return found


def count(chooser: Chooser) -> None:
    """What U-Boot does before each start."""
    if isinstance(chooser, uboot.UBoot):
        said = chooser.environment.read() or {}
        if said.get("upgrade_available") == "1":
            chooser.environment.write({"bootcount": str(int(said.get("bootcount", "0")) + 1)})


def next_block(chooser: Chooser) -> str:
    """Which of our blocks the next start goes by: U-Boot counts before it looks."""
    said = (chooser.environment.read() or {}) if isinstance(chooser, uboot.UBoot) else {}
    limit = int(said.get("bootlimit", "0"))
    spent = said.get("upgrade_available") == "1" and int(said.get("bootcount", "0")) + 1 > limit > 0
    return "back" if spent else "choice"


def as_loader(image: Path, path: str) -> bytes | None:
    """A file as GRUB's own code reads it from what is on the disk in this moment, without replaying a journal."""
    copy = image.with_suffix(".copy")
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    try:
        read = subprocess.run(["grub-fstest", copy, "cat", f"(loop0)/{path}"], capture_output=True)
        return read.stdout if read.returncode == 0 else None
    finally:
        copy.unlink()
