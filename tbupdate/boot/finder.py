"""Find the boot loader that is in use."""

from __future__ import annotations

from tbdiff.errors import Rejected
from tbupdate.boot import extlinux, grub, place, systemd_boot
from tbupdate.boot.chooser import Chooser
from tbupdate.boot.inplace import InPlace

AUTO, NONE = "auto", "none"
USUAL = "/boot"


def find_chooser(wanted: str, boot: str | None, *, running: bool) -> Chooser | None:
    """The wanted boot loader, or with "auto" the only one that is there; None for "none", or where none is known.

    `boot` is the mounted boot partition; that of the running system is known.
    """
    directory = boot or (USUAL if running else None)
    if wanted == NONE:
        return None
    if directory is None:
        if wanted == AUTO:
            return None
        raise Rejected(f"nobody said where {wanted} has its files; nothing was changed", "Name the place: --boot DIR")
    there = found(directory)
    if wanted != AUTO:
        chosen = next((one for one in there if one.name == wanted), None)
        if chosen is None:
            raise Rejected(
                f"{directory} has no files of {wanted}; nothing was changed",
                'Install it first, mount the boot partition there, or set [boot] chooser = "none".',
            )
        place.mount_of(directory)
        return chosen
    if len(there) != 1:
        return None
    try:
        place.mount_of(directory)
    except Rejected:
        # A boot directory within the root goes and comes with the root; what chooses must stand outside of it.
        return None
    return there[0]


def found(directory: str) -> list[Chooser]:
    """All boot loaders that have their files in `directory`."""
    present: list[Chooser] = []
    if grub.grub_directory(directory):
        present.append(InPlace(directory, grub.Grub()))
    if extlinux.configuration(directory):
        present.append(InPlace(directory, extlinux.Extlinux()))
    if systemd_boot.is_used(directory):
        present.append(systemd_boot.SystemdBoot(directory))
    return present
