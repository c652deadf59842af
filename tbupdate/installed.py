"""An installed system before `init`: where on the Btrfs it is, what it calls itself, who else looks after it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tbdiff.entry import printable
from tbupdate import fstab, places
from tbupdate.finding import Finding, read_lines
from tbupdate.system import System


def systems(top: str, system: System) -> list[str]:
    """The subvolumes that hold what looks like an installed system; "" is the top level itself."""
    found = ["", *(place.path for place in system.elsewhere)]
    return [place for place in found if holds_system(os.path.join(top, place))]


def holds_system(tree: str) -> bool:
    """Whether what is in a tree looks like an installed system."""
    return any(os.path.lexists(os.path.join(tree, name)) for name in ("etc", "usr", "bin", "sbin"))


def name_of(tree: str) -> str:
    """What an installed system calls itself."""
    for place in ("usr/lib/os-release", "etc/os-release"):
        path = Path(tree, place)
        if path.is_file() and not path.is_symlink():
            for line in path.read_text(errors="replace")[:65536].splitlines():
                if line.startswith("PRETTY_NAME="):
                    name = line.partition("=")[2].strip("\"'")
                    return "".join(c for c in name if c.isprintable())[:100] or "system"
    return "system"


def left_out(tree: str, nested: Iterable[str]) -> tuple[str, ...]:
    """Of the subvolumes within a tree those with something in them that /etc/fstab does not mount.

    An update leaves them behind. Empty ones are those that systemd makes anew in any root that has none.
    """
    table = fstab.read(tree)
    return tuple(place for place in nested if not places.is_outside(table, place) and _holds(os.path.join(tree, place)))


def left_behind(place: str, where: str = "") -> Finding:
    """What is found of one of them."""
    return Finding(
        "nested",
        f"/{printable(os.fsencode(place))}{where} is a subvolume of its own: no update or rollback carries it along",
        "Move it to beside snapshots/ in the top level, and mount it from /etc/fstab.",
    )


def _holds(directory: str) -> bool:
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def rivals(tree: str) -> list[Finding]:
    """Other programs that make a subvolume of their own choice the default one."""
    folder = os.path.join(tree, "etc/snapper/configs")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) and not os.path.islink(folder) else []
    if not any(line.strip() == 'SUBVOLUME="/"' for name in names for line in read_lines(folder, name)):
        return []
    return [
        Finding(
            "rival",
            "snapper keeps snapshots of /, too: `snapper rollback` and transactional-update set the default subvolume "
            "to one of theirs",
            "Go back by `tb-update rollback`, and switch off what does it by itself: systemctl disable --now "
            "snapper-timeline.timer transactional-update.timer",
            notice=True,
        )
    ]
