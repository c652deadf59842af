"""The keys that this device trusts: read only where nobody but root, or whoever runs this, can put one there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tbdiff.errors import Rejected, Stop
from tbdiff.signature import KeyRing, load_public_key

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def load(directory: Path) -> KeyRing:
    """The trusted keys; Rejected where one of them cannot be."""
    for fault in _faults(directory):
        raise fault
    return KeyRing.load(directory)


def faults(directory: Path) -> tuple[Stop, ...]:
    """Everything that keeps keys from being trusted, for `doctor`."""
    return tuple(_faults(directory))


def count(directory: Path) -> int:
    """How many keys can answer for an image, whatever is wrong with others."""
    return sum(not isinstance(_fault_of_key(path), Stop) for path in _keys(directory))


def _keys(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.pub"))


def _faults(directory: Path) -> Iterator[Stop]:
    for place in (directory, directory / "delivery"):
        if place.is_dir():
            loose = fault_of_owner(place)
            if loose is not None:
                yield loose
            yield from filter(None, map(_fault_of_key, _keys(place)))


def _fault_of_key(path: Path) -> Stop | None:
    try:
        load_public_key(path)
    except Stop as stop:
        return type(stop)(f"{str(stop).partition(';')[0]}; nothing was changed", stop.remedy or f"Remove {path}.")
    return fault_of_owner(path)


def fault_of_owner(path: Path) -> Stop | None:
    """Why nobody should go by what is there: others could have put it there."""
    found = path.stat()
    owner, mode = found.st_uid, stat.S_IMODE(found.st_mode)
    if owner in (0, os.geteuid()) and not mode & _OTHERS:
        return None
    return Rejected(
        f"{path} can be changed by others than root (owner {owner}, mode {mode:04o}), so no key there is trusted; "
        "nothing was changed",
        f"Make sure that the keys are yours, then: chown root {path} && chmod go-w {path}",
    )
