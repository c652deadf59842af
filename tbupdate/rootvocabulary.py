"""The vocabulary of plans, where a new system is made out of a root that was written to: taken in, run, read."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from tbupdate.boot.kernel import Overrides
from tbupdate.layout import SNAPSHOTS, saved

SAID_MAX = 500


@dataclass(frozen=True)
class EmptyTemporary:
    """What lies in /tmp is nothing that a system is made of."""

    name: str

    def __str__(self) -> str:
        return f"empty /tmp in {SNAPSHOTS}/{self.name}"


@dataclass(frozen=True)
class TakeInKernel:
    """A system that was installed has its kernel on the boot partition; as a deployment it holds its own."""

    name: str
    overrides: Overrides

    def __str__(self) -> str:
        return f"copy the installed kernel from /boot into {SNAPSHOTS}/{self.name}, if it has none"


@dataclass(frozen=True)
class TellHidden:
    """Say it where a new system brings files that its root will not show: something is mounted over them."""

    root: str

    def __str__(self) -> str:
        return f"look for files that what /etc/fstab in {SNAPSHOTS}/{self.root} mounts would hide"


@dataclass(frozen=True)
class Stand:
    """What a command finds at a mount point outside of the root: a subvolume's throw-away copy, memory, or a view.

    `copy` is the name in `snapshots/` of a writable snapshot, of the subvolume `subvolume`. A view (neither `copy` nor
    `memory`) is read-only: of what is mounted there in the running system (`live`), or of nothing.
    """

    point: str
    copy: str | None = None
    subvolume: str = ""
    memory: bool = False
    live: bool = False


@dataclass(frozen=True)
class RunCommand:
    """A command that is run in a tree, with mounts and processes of its own; a shell where it is empty."""

    name: str
    command: tuple[str, ...]
    stands: tuple[Stand, ...] = ()

    @property
    def called(self) -> str:
        """The command as a person types it, as much of it as tells which one it is; empty for a shell."""
        said = shlex.join(self.command)
        return said if len(said) <= SAID_MAX else f"{said[:SAID_MAX]}…"

    def __str__(self) -> str:
        return f"run in {SNAPSHOTS}/{self.name}: {self.called or 'a shell'}"


@dataclass(frozen=True)
class ReadChanges:
    """Read what differs in a tree from the deployment `base`.

    Refuse it where nothing does; with `before` (a snapshot), where nothing differs from that.
    """

    name: str
    base: str
    before: str | None = None

    def __str__(self) -> str:
        return f"read what differs in {SNAPSHOTS}/{self.name} from {self.base}, to know its every file later"


@dataclass(frozen=True)
class ProveSaved:
    """From here on a saved copy counts, which is durable before."""

    deployment: str
    number: int

    def __str__(self) -> str:
        return f"prove {SNAPSHOTS}/{saved(self.deployment, self.number)} by a digest"


@dataclass(frozen=True)
class KeepCarried:
    """What a new root holds beyond its deployment counts as saved, if that root is one that is thrown away."""

    deployment: str
    root: str
    number: int

    def __str__(self) -> str:
        return f"save the local changes in {SNAPSHOTS}/{self.root}, if that is made anew at each boot"


@dataclass(frozen=True)
class KeepSwitch:
    """Where a saved copy alone says that the root is made anew, another is made of which nothing but that is saved."""

    deployment: str
    copy: str
    number: int

    def __str__(self) -> str:
        return f"save that the root of {self.deployment} is made anew at each boot, if it does not say so itself"


@dataclass(frozen=True)
class ForgetSaved:
    """A saved copy counts no longer."""

    deployment: str
    number: int

    def __str__(self) -> str:
        return f"forget {SNAPSHOTS}/{saved(self.deployment, self.number)}"


SavedStep = ProveSaved | KeepCarried | KeepSwitch | ForgetSaved
RootStep = EmptyTemporary | TakeInKernel | TellHidden | RunCommand | ReadChanges | SavedStep
