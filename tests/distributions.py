"""Installed systems as the installers of distributions leave them on a Btrfs: subvolumes, fstab, what GRUB reads.

The names and lines are those that the distributions document; what else is in the trees is plausible, no more.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

UUID = "9c1f0a34-7f0e-4c5e-9d2b-2f5f2d5f7c11"
KERNEL = "6.1.0-13-amd64"
CUSTOM = "if [ -f ${config_directory}/custom.cfg ]; then\n  source ${config_directory}/custom.cfg\nfi\n"
# What openSUSE's GRUB is told so that it looks into the default subvolume.
FOLLOWS = 'set btrfs_relative_path="y"\nexport btrfs_relative_path\n'


@dataclass(frozen=True)
class Layout:
    """How a distribution divides a Btrfs. `root` is a path from the top level, files are within the root."""

    name: str
    root: str
    subvolumes: tuple[str, ...]
    fstab: str
    grub: str
    files: dict[str, str] = field(default_factory=dict)
    default: bool = False

    @property
    def all_files(self) -> dict[str, str]:
        """All that is written, but for what is only there to be plausible."""
        told = {"etc/os-release": f'PRETTY_NAME="{self.name}"\n', "etc/fstab": self.fstab}
        return told | {self.grub: CUSTOM} | self.files


def menu(options: str, boot: str = "/boot") -> str:
    """A menu as GRUB's scripts write it."""
    line = f"\tlinux {boot}/vmlinuz-{KERNEL} root=UUID={UUID} ro {options} quiet\n"
    return f"menuentry 'Linux' {{\n{line}}}\n{CUSTOM}"


def _table(*lines: tuple[str, str, str]) -> str:
    return "".join(f"UUID={UUID} {point} {kind} {options} 0 0\n" for point, kind, options in lines)


_SUSE = ("var", "usr/local", "tmp", "srv", "root", "opt", "home", "boot/grub2/x86_64-efi", "boot/grub2/i386-pc")

DEBIAN = Layout(
    "Debian GNU/Linux 12 (bookworm)",
    "@rootfs",
    ("@rootfs",),
    _table(("/", "btrfs", "defaults,subvol=@rootfs"), ("/boot/efi", "vfat", "umask=0077")),
    "boot/grub/grub.cfg",
    {"boot/grub/grub.cfg": menu("rootflags=subvol=@rootfs", "/@rootfs/boot")},
)
UBUNTU = Layout(
    "Ubuntu 24.04 LTS",
    "@",
    ("@", "@home"),
    _table(("/", "btrfs", "defaults,subvol=@"), ("/home", "btrfs", "defaults,subvol=@home")),
    "boot/grub/grub.cfg",
    {"boot/grub/grub.cfg": menu("rootflags=subvol=@", "/@/boot")},
)
OPENSUSE = Layout(
    "openSUSE Leap 15.6",
    "@/.snapshots/1/snapshot",
    ("@", *(f"@/{name}" for name in _SUSE), "@/.snapshots", "@/.snapshots/1/snapshot"),
    _table(
        ("/", "btrfs", "defaults"), *((f"/{name}", "btrfs", f"subvol=/@/{name}") for name in (*_SUSE, ".snapshots"))
    ),
    "boot/grub2/grub.cfg",
    {
        "boot/grub2/grub.cfg": FOLLOWS + menu("splash=silent"),
        "etc/snapper/configs/root": '# subvolume to snapshot\nSUBVOLUME="/"\nFSTYPE="btrfs"\n',
    },
    default=True,
)
# systemd makes these two within any root on Btrfs.
FEDORA = Layout(
    "Fedora Linux 40 (Workstation Edition)",
    "root",
    ("root", "home", "root/var/lib/machines", "root/var/lib/portables"),
    _table(
        ("/", "btrfs", "subvol=root,compress=zstd:1"),
        ("/home", "btrfs", "subvol=home,compress=zstd:1"),
        ("/boot", "ext4", "defaults"),
    ),
    "boot/grub2/grub.cfg",
    {
        f"boot/loader/entries/0123-{KERNEL}.conf": f"title Fedora\nlinux /vmlinuz-{KERNEL}\n"
        f"options root=UUID={UUID} ro rootflags=subvol=root rhgb quiet\n"
    },
)


def install(layout: Layout, top: Path) -> Path:
    """Put a system onto a fresh Btrfs as the installer does; its root."""
    for name in layout.subvolumes:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["btrfs", "-q", "subvolume", "create", top / name], check=True)
    root = top / layout.root
    for name in ("boot", "home", "root", "usr/bin", "var/log"):
        (root / name).mkdir(parents=True, exist_ok=True)
    write(layout, root)
    if layout.default:
        subprocess.run(["btrfs", "subvolume", "set-default", root], check=True)
    return root


def write(layout: Layout, root: Path) -> None:
    """Write the files that tell."""
    for name, text in layout.all_files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
