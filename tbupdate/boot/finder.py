"""Find the boot loader that is in use."""

from __future__ import annotations

from tbdiff.errors import Failed, Rejected
from tbupdate.boot import extlinux, flash_kernel, grub, place, systemd_boot, uboot
from tbupdate.boot.chooser import OURS, Chooser
from tbupdate.boot.inplace import InPlace

AUTO, NONE = "auto", "none"
USUAL = "/boot"


def find_chooser(wanted: str, boot: str | None, *, running: bool, environment: str | None = None) -> Chooser | None:
    """The wanted boot loader, or with "auto" the only one that is there or was told; None for "none", or for none.

    `boot` is the mounted boot partition, `environment` says where U-Boot's environment is (fw_env.config); those of the
    running system are known.
    """
    directory = boot or (USUAL if running else None)
    if wanted == NONE:
        return None
    if directory is None:
        if wanted == AUTO:
            return None
        raise Rejected(f"nobody said where {wanted} has its files; nothing was changed", "Name the place: --boot DIR")
    there = found(directory, environment or (uboot.CONFIG if running else None))
    if wanted == extlinux.Extlinux.name:
        # Without U-Boot's environment, because somebody says so.
        there = found(directory, None)
    if wanted != AUTO:
        chosen = next((one for one in there if one.name == wanted), None)
        if chosen is None:
            raise Rejected(
                f"{directory} has no files of {wanted}; nothing was changed",
                'Install it first, mount the boot partition there, or set [boot] chooser = "none".',
            )
        place.mount_of(directory)
        place.require_directory(directory, OURS)
        return chosen
    if len(there) > 1:
        # Files of another one do not make it boot; who was told by `init` is known.
        there = _told(there)
    if len(there) != 1:
        return None
    try:
        place.mount_of(directory)
    except Rejected:
        # A boot directory within the root goes and comes with the root; what chooses must stand outside of it.
        return None
    place.require_directory(directory, OURS)
    return there[0]


def _told(there: list[Chooser]) -> list[Chooser]:
    """Those that know of tb-update; if there are none, one that may have known it."""
    told, damaged = [], []
    for one in there:
        try:
            if one.choice() is not None:
                told.append(one)
        except Failed:
            damaged.append(one)
    if len(told) > 1:
        raise Rejected(
            f"{' and '.join(one.name for one in told)} both know of tb-update; nothing was changed",
            "Say which of them boots this system: set [boot] chooser.",
        )
    return told or damaged[:1]


def found(directory: str, environment: str | None) -> list[Chooser]:
    """All boot loaders that have their files in `directory`."""
    present: list[Chooser] = []
    if grub.grub_directory(directory):
        present.append(InPlace(directory, grub.Grub()))
    counter = uboot.Environment(environment) if environment is not None else None
    # One that was told must be told also that it is over: without its environment it goes on counting.
    counts = counter is not None and (uboot.was_told(directory) or counter.read() is not None)
    if extlinux.configuration(directory):
        if counter is not None and counts:
            present.append(uboot.UBoot(directory, uboot.Words(), counter))
        else:
            present.append(InPlace(directory, extlinux.Extlinux()))
    elif flash_kernel.is_used(directory):
        # U-Boot looks for extlinux.conf first.
        script = flash_kernel.FlashKernel()
        if counter is not None and counts:
            present.append(uboot.UBoot(directory, script, counter))
        else:
            present.append(InPlace(directory, script))
    if systemd_boot.is_used(directory):
        present.append(systemd_boot.SystemdBoot(directory))
    return present
