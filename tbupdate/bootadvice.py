"""Advice on what boots: what keeps a boot loader from booting what is deployed. It looks and changes nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from tbdiff.entry import printable
from tbdiff.errors import Rejected
from tbupdate import booting
from tbupdate.boot import finder, grub
from tbupdate.boot.chooser import Chooser
from tbupdate.boot.place import mount_of
from tbupdate.config import Config
from tbupdate.finding import Finding, read_lines
from tbupdate.system import System

_ROOT_FLAGS = re.compile(r"\brootflags=(\S*)")
_SUBVOLUME = re.compile(r"subvol(?:id)?=[^,\s\"']*")
_FILES = ("extlinux/extlinux.conf", "syslinux/syslinux.cfg", "cmdline.txt")
_GRUB_FILES = ("grub/grub.cfg", "grub2/grub.cfg")
_ENTRIES = "loader/entries"


def examine(system: System, chooser: Chooser | None, root: str, boot: str | None, config: Config) -> Iterator[Finding]:
    """What is found of the boot loader of a system.

    `root` is the tree whose own /boot counts where the system does not run; `boot` is where somebody says it is.
    """
    where = boot or (finder.USUAL if system.booted_id is not None else None) or _within(root)
    yield from _options(system, where)
    if chooser is None:
        yield _without(system, where, config)
    elif system.choice is None:
        yield Finding(
            "chooser",
            f"{chooser.name} boots this system but does not know of tb-update: nothing goes back by itself",
            "Set it up with: tb-update init",
            notice=True,
        )
    else:
        yield from _chosen(system, chooser)


def _within(root: str) -> str | None:
    """The boot directory of a tree; a link could lead anywhere."""
    path = os.path.join(root, "boot")
    return path if os.path.isdir(path) and not os.path.islink(path) else None


def _options(system: System, directory: str | None) -> Iterator[Finding]:
    """`subvol=` for the root silently defeats the default subvolume, and with it every update and rollback."""
    led = system.choice is not None and system.boot is not None and system.boot.leads
    if system.booted_id is not None:
        option = _subvolume_in(read_lines("/proc", "cmdline"))
        remedy = "Reboot into tb-update's own entry" if led else "Take rootflags=subvol… out of the boot configuration"
        if option:
            yield Finding(
                "boot-options",
                f"the command line of the running kernel mounts / with {option}",
                f"{remedy}: the default subvolume says what is /.",
            )
    for name in _configurations(directory) if directory is not None else ():
        option = _subvolume_in(read_lines(str(directory), name))
        if option and led:
            yield Finding(
                "boot-options",
                f"{directory}/{name} has an entry that mounts / with {option}: whoever picks it in the menu gets that",
                "Nothing to do: by themselves tb-update's own entries boot.",
                notice=True,
            )
        elif option:
            yield Finding("boot-options", f"{directory}/{name} mounts / with {option}", _remedy(name, option))


def _configurations(directory: str) -> tuple[str, ...]:
    entries = os.path.join(directory, _ENTRIES)
    listed = sorted(os.listdir(entries)) if os.path.isdir(entries) else []
    return (*_GRUB_FILES, *_FILES, *(f"{_ENTRIES}/{name}" for name in listed if name.endswith(".conf")))


def _subvolume_in(lines: list[str]) -> str | None:
    """Which subvolume a line names; of several rootflags= in a line the last one counts."""
    for line in lines:
        flags = _ROOT_FLAGS.findall(line.split("#")[0])
        option = _SUBVOLUME.search(flags[-1]) if flags else None
        if option:
            return printable(option[0].encode())
    return None


def _remedy(name: str, option: str) -> str:
    if name in _GRUB_FILES:
        return (
            "GRUB's scripts write that each time they run. Give /boot a partition of its own and run `tb-update init`; "
            'or set GRUB_CMDLINE_LINUX="rootflags=noatime" in /etc/default/grub, which counts instead, and run '
            "update-grub."
        )
    if name.startswith(_ENTRIES):
        return (
            f"Take rootflags={option} out of it and out of /etc/kernel/cmdline, which new entries are made from (with "
            f"grubby: grubby --update-kernel=ALL --remove-args=rootflags={option})."
        )
    return "Take rootflags=subvol… out of it: the default subvolume says what is /."


def _without(system: System, directory: str | None, config: Config) -> Finding:
    """No boot loader is told of anything."""
    there = finder.found(directory, None) if directory is not None else []
    names = ", ".join(one.name for one in there)
    if there and directory is not None and config.boot.chooser == finder.AUTO and not _is_mounted(directory):
        if grub.follows_default(directory):
            return Finding(
                "chooser",
                "GRUB takes its menu and the kernel from the default subvolume: they come with each deployment that "
                "has them, but no tries are counted, and nothing goes back by itself",
                "Nothing to do, if the images hold /boot with GRUB's menu. For tries, give /boot a partition of its "
                "own, then run: tb-update init",
                notice=True,
            )
        return Finding(
            "kernel",
            f"/boot is a directory of the root and no file system of its own: {names} goes on booting the kernel of "
            "the system as it was installed, whatever is deployed",
            f"Give /boot a partition of its own (ext4) with {names} on it, then run `tb-update init`. Or, if every "
            'deployment works with that kernel: [boot] chooser = "none".',
        )
    return Finding(
        "chooser",
        "the kernel is managed elsewhere: an update brings no kernel to /boot, and nothing goes back by itself"
        + (f" (there is {names})" if there else ""),
        'Set [boot] chooser to your boot loader, if it is one that is known; else "none", and see to it that the '
        "kernel that boots fits every deployment.",
        notice=True,
    )


def _is_mounted(directory: str) -> bool:
    try:
        mount_of(directory)
    except Rejected:
        return False
    return True


def _chosen(system: System, chooser: Chooser) -> Iterator[Finding]:
    yield Finding(
        "coverage",
        chooser.coverage.sentence,
        "Nothing to do."
        if chooser.coverage.counts
        else "A hardware watchdog does not help against that; a person does.",
        notice=True,
    )
    if system.boot is not None and not system.boot.leads:
        yield Finding(
            "leads",
            f"something has written {chooser.name}'s own files anew: they lead to tb-update's choice no longer",
            "Run: tb-update init. Keep the program from it that did (such as u-boot-update).",
        )
    if system.default is None:
        yield Finding(
            "entry",
            "what the boot loader boots next is no deployment that is kept",
            "Go to one that is: tb-update rollback ID",
        )
    yield from _boot_partition(system, chooser)
    if system.default_root is None or system.default_root.id != system.default_id:
        yield Finding(
            "default",
            "the default subvolume is not what the boot loader boots next",
            "Any changing command repairs it, such as: tb-update prune; so does the next boot.",
        )


def _boot_partition(system: System, chooser: Chooser) -> Iterator[Finding]:
    entries = system.boot.entries if system.boot is not None else frozenset()
    for deployment, why in booting.needed(system).items():
        if system.get(deployment) is not None and deployment not in entries:
            yield Finding(
                "entry",
                f"the boot entry of {deployment}, which {why}, or its kernel is gone from {chooser.directory}",
                "Any changing command brings them back, such as: tb-update prune",
            )
    state = os.statvfs(chooser.directory)
    if state.f_flag & os.ST_RDONLY:
        yield Finding(
            "boot-read-only",
            f"{chooser.directory} is read-only: no deploy, commit or rollback can tell the boot loader",
            f"See `dmesg` for why; then: mount -o remount,rw {chooser.directory}",
        )
