"""Marks: what is known of deployments beyond Btrfs itself, as extended attributes of the `snapshots` directory.

On a file system whose metadata is full, attributes can still be set where no file can be created or renamed: a commit
and a rollback must work there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

_PREFIX = "user.tb-update."
_VALUE_MAX = 200

GOOD = "good"
DEPLOYING = "deploying"
COMMITTED = "committed"
BAD = "bad"
PIN = "pin"
FAILED = "failed"
EPOCH = "epoch"
LATE = "late"
READY = "ready"
MOVED = "moved"
INSTALLED = "installed"
EMPTYING = "emptying"


@dataclass(frozen=True)
class Marks:
    """All marks.

    `good` is the deployment that was committed last, `deploying` the one that a run is about to make, `failed` the tree
    that failed last, even when its deployment is gone, `epoch` the highest one that was ever committed,
    `ready` the deployment that is complete and waits to be switched to, and the keys that were trusted for it,
    `late` what could not be written to the history yet, `moved` the subvolumes in the top level that `init` made: how
    each was then (`subvolumes.seal`), and of which directory it is, `installed` the root that `init` was run in (by its
    path), as long as what is written to that is awaited, `emptying` the user data that a reset is about to empty: its
    UUID, that of the root which then boots next, and the name of what takes its place.
    """

    good: str | None = None
    deploying: str | None = None
    failed: str | None = None
    epoch: int = 0
    ready: str | None = None
    committed: Mapping[str, str] = field(default_factory=dict)
    bad: Mapping[str, str] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()
    late: Mapping[str, str] = field(default_factory=dict)
    moved: Mapping[str, str] = field(default_factory=dict)
    installed: str | None = None
    emptying: Mapping[str, str] = field(default_factory=dict)

    def names_of(self, deployment: str) -> tuple[str, ...]:
        """The marks that a deployment has of its own."""
        held = ((COMMITTED, self.committed), (BAD, self.bad), (PIN, self.pinned))
        return tuple(f"{kind}.{deployment}" for kind, marked in held if deployment in marked)

    @property
    def marked(self) -> frozenset[str]:
        """All deployments that have marks of their own."""
        return frozenset(self.committed) | frozenset(self.bad) | self.pinned


def moved(subvolume: str) -> str:
    """The mark of a subvolume that `init` made for data."""
    return f"{MOVED}.{subvolume}"


def emptying(subvolume: str) -> str:
    """The mark of a subvolume with user data that is about to be emptied."""
    return f"{EMPTYING}.{subvolume}"


def read(directory: str) -> Marks:
    """The marks on `directory`."""
    single: dict[str, str] = {}
    each: dict[str, dict[str, str]] = {COMMITTED: {}, BAD: {}, PIN: {}, LATE: {}, MOVED: {}, EMPTYING: {}}
    for name in os.listxattr(directory):
        if name.startswith(_PREFIX):
            value = os.getxattr(directory, name).decode("utf-8", "replace")
            kind, _, deployment = name.removeprefix(_PREFIX).partition(".")
            if deployment:
                each.setdefault(kind, {})[deployment] = value
            else:
                single[kind] = value
    return Marks(
        good=single.get(GOOD),
        deploying=single.get(DEPLOYING),
        failed=single.get(FAILED),
        epoch=int(epoch) if (epoch := single.get(EPOCH, "")).isdecimal() else 0,
        ready=single.get(READY),
        committed=each[COMMITTED],
        bad=each[BAD],
        pinned=frozenset(each[PIN]),
        late=each[LATE],
        moved=each[MOVED],
        installed=single.get(INSTALLED),
        emptying=each[EMPTYING],
    )


def put(directory: str, name: str, value: str) -> None:
    """Set a mark, or replace it."""
    # Cut by bytes: it must fit beside the others into one leaf of the tree, and be valid text again.
    text = value.encode("utf-8", "backslashreplace")[:_VALUE_MAX].decode("utf-8", "ignore")
    os.setxattr(directory, _PREFIX + name, text.encode())


def remove(directory: str, name: str) -> None:
    """Remove a mark; one that is not there is no error."""
    try:
        os.removexattr(directory, _PREFIX + name)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
