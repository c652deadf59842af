"""A finding: one thing that is not as it should be, and its remedy."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tbupdate.boot.place import read_file

_FILE_MAX = 1 << 20


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be. A notice is worth knowing, but no problem."""

    name: str
    problem: str
    remedy: str
    notice: bool = False


def read_lines(root: str, name: str) -> list[str]:
    """The lines of a file below `root`; a link in the tree of another system could lead anywhere: none is followed."""
    path = os.path.join(root, name)
    if os.path.realpath(path) != os.path.join(os.path.realpath(root), name):
        return []
    try:
        return read_file(path, _FILE_MAX).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
