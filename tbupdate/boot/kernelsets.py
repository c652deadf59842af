"""Kernel sets on /boot: `tb-update/k-<digest>/`, named by what they hold, shared by deployments, never changed.

A set that no entry names yet may have been cut while it was written, and is written again. It is not made under another
name first: on FAT a cut in the middle of a rename may leave two names of one directory, and who removes one of them
removes what is in the other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping

from tbdiff.errors import Rejected
from tbdiff.show import size
from tbupdate.boot import place
from tbupdate.boot.chooser import OURS
from tbupdate.boot.kernel import opened, read
from tbupdate.boot.listed import File

PREFIX = "k-"
RESERVE = 1 << 20
_CHUNK = 1 << 20


# A tree, and a path in it that does not lead out of it.
Place = tuple[str, str]


def put(boot: str, files: Mapping[str, Place], used: Iterable[str]) -> str:
    """Bring files (name in the set -> where it is) to /boot as one set; return its name.

    Sets that are not in `used`, as no entry names them, make room for it. Nothing is written unless all of it fits.
    """
    name, total = digest(files)
    final = os.path.join(boot, OURS, name)
    kept = set(used)
    if name in kept and holds(boot, name, files):
        return name
    # Somebody took files out of it, or a cut came between: what it boots is lost already, if there is anything.
    shutil.rmtree(final, ignore_errors=True)
    collect(boot, kept)
    _refuse_without_space(boot, total, len(files))
    os.makedirs(os.path.dirname(final), exist_ok=True)
    place.make_room(boot, os.path.dirname(final))
    for each, where in sorted(files.items()):
        _copy(where, os.path.join(final, each))
    place.flush(boot)
    return name


def holds(boot: str, name: str, files: Iterable[str]) -> bool:
    """Whether a set has these files, and something is in them."""
    paths = (os.path.join(boot, OURS, name, each) for each in files)
    return all(os.path.isfile(path) and os.path.getsize(path) > 0 for path in paths)


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


def require_room(boot: str, files: Mapping[str, File], used: Iterable[str]) -> None:
    """Refuse files that will not fit, before there are any; a set that is there needs no room."""
    kept = set(used)
    there = os.path.join(boot, OURS, name_of({name: file.digest for name, file in files.items()}))
    if all(_size_of(os.path.join(there, name)) == file.size for name, file in files.items()):
        return
    gone = sum(_size(os.path.join(boot, OURS, name)) for name in loose(boot, kept))
    _refuse_without_space(boot, sum(file.size for file in files.values()) - gone, len(files))


def _size(directory: str) -> int:
    """What removing a set gives back, at least."""
    files = (os.path.join(where, name) for where, _, names in os.walk(directory) for name in names)
    return sum(os.stat(path, follow_symlinks=False).st_size for path in files)


def _size_of(path: str) -> int | None:
    return os.path.getsize(path) if os.path.isfile(path) else None


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


def digest(files: Mapping[str, Place]) -> tuple[str, int]:
    """The name of the set that the files make, and their size."""
    contents, total = {}, 0
    for each, (tree, path) in files.items():
        content = hashlib.sha256()
        with opened(tree) as root, read(root, path) as file:
            while part := file.read(_CHUNK):
                content.update(part)
                total += len(part)
        contents[each] = content.hexdigest()
    return name_of(contents), total


def name_of(contents: Mapping[str, str]) -> str:
    """The name of the set with these files, by the digests of their contents."""
    whole = hashlib.sha256()
    for each, content in sorted(contents.items()):
        whole.update(f"{each}\0{content}\n".encode())
    return PREFIX + whole.hexdigest()[:32]


def _copy(where: Place, to: str) -> None:
    tree, path = where
    os.makedirs(os.path.dirname(to), exist_ok=True)
    with opened(tree) as root, read(root, path) as source, open(to, "wb") as target:
        shutil.copyfileobj(source, target, _CHUNK)
        target.flush()
        os.fsync(target.fileno())


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
