"""Kernel sets on /boot: `tb-update/k-<digest>/`, named by what they hold, shared by deployments, never changed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping

from tbdiff.errors import Rejected
from tbdiff.show import size
from tbupdate import syscalls
from tbupdate.boot import place
from tbupdate.boot.chooser import OURS
from tbupdate.boot.kernel import opened

PREFIX = "k-"
PARTIAL = ".partial"
RESERVE = 1 << 20
_CHUNK = 1 << 20


def put(boot: str, tree: str, files: Mapping[str, str], used: Iterable[str]) -> str:
    """Bring files of a tree (name in the set -> path in the tree) to /boot as one set; return its name.

    Sets that are not in `used` make room for it. Nothing is written unless all of it fits.
    """
    ours = os.path.join(boot, OURS)
    with opened(tree) as root:
        name, total = _digest(root, files)
        final = os.path.join(ours, name)
        if os.path.isdir(final):
            return name
        collect(boot, used)
        _refuse_without_space(boot, total, len(files))
        unfinished = final + PARTIAL
        for each, path in sorted(files.items()):
            _copy(root, path, os.path.join(unfinished, each))
    os.rename(unfinished, final)
    place.flush(boot)
    return name


def collect(boot: str, used: Iterable[str]) -> None:
    """Remove the sets that no entry names, and what an interrupted run left of one."""
    gone = loose(boot, used)
    for name in gone:
        shutil.rmtree(os.path.join(boot, OURS, name))
    if gone:
        place.flush(boot)


def loose(boot: str, used: Iterable[str]) -> list[str]:
    """The sets that are not in `used`."""
    kept = set(used)
    return [name for name in _names(os.path.join(boot, OURS)) if name.startswith(PREFIX) and name not in kept]


def _refuse_without_space(boot: str, total: int, count: int) -> None:
    state = os.statvfs(boot)
    # Each file may end in the middle of a block; directories take some as well.
    needed = total + (2 * count + 8) * state.f_frsize + RESERVE
    free = state.f_bavail * state.f_frsize
    if needed > free:
        raise Rejected(
            f"not enough space on {boot}: {size(needed)} needed for the kernel, {size(free)} free; nothing was changed",
            "Remove old deployments (tb-update list, tb-update remove ID), or old kernels of the distribution there.",
        )


def _digest(root: int, files: Mapping[str, str]) -> tuple[str, int]:
    """The name of the set that the files make, and their size."""
    whole, total = hashlib.sha256(), 0
    for each, path in sorted(files.items()):
        content = hashlib.sha256()
        with open(syscalls.open_inside(root, path), "rb", buffering=0) as file:
            while part := file.read(_CHUNK):
                content.update(part)
                total += len(part)
        whole.update(f"{each}\0{content.hexdigest()}\n".encode())
    return PREFIX + whole.hexdigest()[:32], total


def _copy(root: int, path: str, to: str) -> None:
    os.makedirs(os.path.dirname(to), exist_ok=True)
    with open(syscalls.open_inside(root, path), "rb") as source, open(to, "wb") as target:
        shutil.copyfileobj(source, target, _CHUNK)
        target.flush()
        os.fsync(target.fileno())


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
