"""Mounts: where the top level is to be found, and how it is mounted so that nobody else sees it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tbdiff.errors import Failed, Rejected
from tbupdate import space, subvolumes, syscalls

PLACE = "/run/tb-update/top"


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo."""

    point: str
    kind: str
    source: str
    options: str
    device: str = ""


def read_mounts(text: str) -> list[Mount]:
    """The mounts that /proc/self/mountinfo lists, a later one above an earlier."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if len(fields) > 4 and len(rest) > 2:
            found.append(Mount(_plain(fields[4]), rest[0], _plain(rest[1]), rest[2], fields[2]))
    return found


def _plain(field: str) -> str:
    """Blanks and the like are written as three octal digits."""
    parts = field.split("\\")
    return parts[0] + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts[1:])


def subvolumes_of(top: str) -> frozenset[int]:
    """The numbers of all subvolumes that are mounted from the Btrfs whose top level is mounted at `top`."""
    with open("/proc/self/mountinfo") as file:
        mounted = [one for one in read_mounts(file.read()) if one.kind == "btrfs"]
    here = {one.device for one in mounted if one.point == os.path.abspath(top)}
    numbers = (re.search(r"(?:^|,)subvolid=(\d+)", one.options) for one in mounted if one.device in here)
    return frozenset(int(number[1]) for number in numbers if number is not None)


@contextmanager
def top_level(given: str | None) -> Iterator[str]:
    """The mounted top level: the given directory, else that of the running system, mounted for this process alone."""
    if os.geteuid() != 0:
        raise Failed("only root can look at the subvolumes of a Btrfs", "Run it as root.")
    if given is None:
        yield _mount_privately()
    elif not os.path.isdir(given):
        raise Rejected(f"{given} is not a directory; nothing was changed", "Name the mounted top level with --top DIR.")
    elif not subvolumes.is_top_level(given):
        raise Rejected(
            f"{given} is not the top level of a Btrfs; nothing was changed",
            "Mount it with: mount -o subvolid=5 DEVICE DIRECTORY",
        )
    else:
        yield os.path.abspath(given)


def _mount_privately() -> str:
    root = space.identify("/")
    if root is None:
        raise Rejected(
            "the running system is not on Btrfs; nothing was changed",
            "For an image of another system, name its mounted top level with --top DIR.",
        )
    try:
        os.makedirs(PLACE, mode=0o700, exist_ok=True)
        # A command that comes here a second time has it already; the kernel would call that busy.
        there = space.identify(PLACE) if subvolumes.is_top_level(PLACE) else None
        if there is not None and there.fsid == root.fsid:
            return PLACE
        syscalls.leave_mount_namespace()
        # The top level of the running system stays unseen by all other processes, and is gone when this one ends.
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOATIME
        syscalls.mount(_device(root), PLACE, "btrfs", flags, f"subvolid={subvolumes.TOP_LEVEL_ID}")
    except OSError as error:
        raise Failed(
            f"the top level of the running system could not be mounted: {error.strerror}",
            "Mount it yourself (mount -o subvolid=5 DEVICE DIRECTORY) and name it with --top DIRECTORY.",
        ) from None
    return PLACE


def _device(root: space.FileSystem) -> str:
    """The device of /, as it is mounted, or as Btrfs itself knows it where that name is not there (/dev/root)."""
    with open("/proc/self/mountinfo") as file:
        mounted = [one.source for one in read_mounts(file.read()) if one.point == "/" and one.kind == "btrfs"]
    return next((source for source in reversed(mounted) if os.path.exists(source)), root.device)
