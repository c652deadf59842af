"""What makes the root of a deployment a throw-away copy: one line of its config.toml, as the hook reads it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

CONFIG = "etc/tb-update/config.toml"
# The hook has no reader of TOML: `volatile = true` is seen in a line of its own below a line [local] (boot-hooks/boot).
_LINE = re.compile(rb"^\[local\][^\n]*\n(?:(?!\[)[^\n]*\n)*?[ \t]*volatile[ \t]*=[ \t]*true[^\n]*$", re.MULTILINE)
_CONFIG_MAX = 1 << 20
# What the hook says of this boot: what it made the root of, and which saved copies it found damaged.
MADE_OF = "/run/tb-update/made-of"
DAMAGED = "/run/tb-update/damaged"


@dataclass(frozen=True)
class Made:
    """What the hook has said of this boot: the name in `snapshots/` that it made the root of; None if of nothing."""

    of: str | None = None
    damaged: frozenset[str] = frozenset()


def is_set(tree: str) -> bool:
    """Whether what runs of the system in `tree` is to be thrown away at each boot."""
    path = os.path.join(tree, CONFIG)
    # A link in a tree of another system could lead anywhere.
    if os.path.realpath(path) != os.path.join(os.path.realpath(tree), CONFIG):
        return False
    try:
        with open(path, "rb") as file:
            return is_said(file.read(_CONFIG_MAX))
    except OSError:
        return False


def is_said(config: bytes) -> bool:
    """Whether the text of a config.toml says so."""
    return _LINE.search(config) is not None


def read_made() -> Made:
    """What the hook has said of the boot of the running system."""
    said = _lines(MADE_OF)
    return Made(said[0] if said else None, frozenset(_lines(DAMAGED)))


def _lines(path: str) -> list[str]:
    try:
        with open(path, errors="replace") as file:
            return file.read(_CONFIG_MAX).splitlines()
    except OSError:
        return []
