"""A boot partition for tests: a real ext4 on a loop device, and what the boot loader itself reads of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import loops

GRUB_CFG = """set default="0"
menuentry 'Debian' {
}
### BEGIN /etc/grub.d/41_custom ###
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
fi
"""
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
    elif loader == "extlinux":
        (place / "extlinux").mkdir()
        (place / "extlinux/extlinux.conf").write_text(EXTLINUX_CONF)
    elif loader == "systemd-boot":
        # On ext4, since not every kernel that tests run on has FAT; what is done there is making files and renaming.
        (place / "loader/entries").mkdir(parents=True)
        (place / "loader/loader.conf").write_text("timeout 3\n#default x\n")
        (place / "loader/entries/debian.conf").write_text("title Debian\nlinux /vmlinuz\n")


def as_loader(image: Path, path: str) -> bytes | None:
    """A file as GRUB's own code reads it from what is on the disk in this moment, without replaying a journal."""
    copy = image.with_suffix(".copy")
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    try:
        read = subprocess.run(["grub-fstest", copy, "cat", f"(loop0)/{path}"], capture_output=True)
        return read.stdout if read.returncode == 0 else None
    finally:
        copy.unlink()
