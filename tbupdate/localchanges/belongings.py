"""What a merge must not take from a system: its disks and its people, and the table of accounts itself."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tbdiff.descent import Descent
from tbdiff.errors import Failed, Rejected
from tbupdate import fstab
from tbupdate.localchanges.accounts import People
from tbupdate.localchanges.contents import LARGEST
from tbupdate.localchanges.policy import Policy

FSTAB, PASSWD, GROUP = b"etc/fstab", b"etc/passwd", b"etc/group"


def people_of(tree: Descent) -> People:
    """The people that a system knows."""
    return People.of(content(tree, PASSWD), content(tree, GROUP))


def content(tree: Descent, path: bytes) -> bytes:
    """The content of a file of a tree; nothing where there is none."""
    try:
        with tree.file(path) as fd, open(os.dup(fd), "rb") as file:
            return file.read(LARGEST)
    except (Failed, OSError):
        return b""


def refuse_ruin(image: Descent, new: Descent) -> None:
    """Refuse a root that local changes have left without a table of accounts: no system comes up so.

    A directory that was emptied by accident is a change like others, but nobody means this one.
    """
    if _has(image, PASSWD) and not _has(new, PASSWD):
        raise Rejected(
            f"local changes would leave the new system without /{PASSWD.decode()}; nothing was changed",
            "Bring back what is gone (as it was deployed, it is in snapshots/current), or: tb-update reset",
        )


def _has(tree: Descent, path: bytes) -> bool:
    """Whether there is anything at a path, be it a link to where somebody keeps it."""
    try:
        directory, name = tree.parent(path)
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except (Failed, OSError):
        return False
    return True


def refuse_loss(installed: Descent, new: Descent, policy: Policy) -> None:
    """Refuse a root that mounts less than the installed one did, or knows nobody where that knew people."""
    lost = list(_lost(installed, new, policy))
    if lost:
        raise Rejected(
            f"[local] own in config.toml leaves out what makes this machine itself: {' and '.join(lost)}; "
            "nothing was changed",
            "Leave `own` as it is by default, or add these paths to it; or, if this is meant, add them to `drop`.",
        )


def _lost(installed: Descent, new: Descent, policy: Policy) -> Iterator[str]:
    if not policy.gives_up(FSTAB):
        points = sorted(_points(installed) - _points(new))
        if points:
            yield f"/{FSTAB.decode()} of the image does not mount {', '.join(points)}"
    if not policy.gives_up(PASSWD):
        people = sorted(name.decode("utf-8", "backslashreplace") for name in people_of(installed).users)
        if people and not people_of(new).users:
            yield f"/{PASSWD.decode()} of the image has nobody in the place of {', '.join(people)}"


def _points(tree: Descent) -> set[str]:
    return fstab.points(fstab.lines(content(tree, FSTAB).decode("utf-8", "surrogateescape")))
