"""Places in a root where data lies that is not the system's: an update leaves it behind, unless it is outside."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

from tbupdate import fstab

# Who writes there, in words that a place follows.
USUAL: Mapping[str, str] = {
    "home": "people write to",
    "root": "people write to",
    "srv": "services write to",
    "var/log": "programs write their logs to",
    "var/lib/docker": "containers write to",
    "var/lib/containers": "containers write to",
    "var/lib/libvirt/images": "virtual machines write to",
    "var/lib/postgresql": "a database writes to",
    "var/lib/mysql": "a database writes to",
}

LOOK_MAX = 20_000


def in_root(tree: str) -> tuple[str, ...]:
    """Those of the usual places that are directories of the root in `tree`, and not mounted from elsewhere."""
    table = fstab.read(tree)
    return tuple(place for place in USUAL if is_directory(tree, place) and not is_outside(table, place))


def is_outside(table: Iterable[fstab.Line], place: str) -> bool:
    """Whether a table mounts something on a place, or on a directory above it."""
    above = f"/{place}".split("/")
    return bool({line.point for line in fstab.outside(table)} & {"/".join(above[:n]) for n in range(2, len(above) + 1)})


def is_directory(tree: str, place: str) -> bool:
    """Whether a place is a directory of the tree: neither it nor what is above it is a link, or a subvolume."""
    here, device = tree, os.lstat(tree).st_dev
    for name in place.split("/"):
        here = os.path.join(here, name)
        try:
            status = os.lstat(here)
        except OSError:
            return False
        if not stat.S_ISDIR(status.st_mode) or status.st_dev != device:
            return False
    return True


def holds_something(tree: str, place: str) -> bool:
    """Whether anything but empty directories is in a place."""
    return any(files for _, _, files in os.walk(os.path.join(tree, place)))


def written(directory: str, deployed: str) -> bool:
    """Whether a file in a directory is not the one that was deployed; as far as a look into it may take.

    What nobody has touched since is the same in both snapshots, to the time of its last change.
    """
    left = LOOK_MAX
    for above, directories, files in os.walk(directory):
        directories[:] = [name for name in directories if not os.path.ismount(os.path.join(above, name))]
        was = os.path.join(deployed, os.path.relpath(above, directory))
        for name in files:
            left -= 1
            if left < 0:
                return False
            now = _changed(os.path.join(above, name))
            if now is not None and now != _changed(os.path.join(was, name)):
                return True
    return False


def _changed(path: str) -> int | None:
    """When a file was changed last; None if it is not there (any more)."""
    try:
        return os.lstat(path).st_ctime_ns
    except OSError:
        return None
