"""The vocabulary of plans: each step is one act, and says in a line what it does."""

from __future__ import annotations

from dataclasses import dataclass

from tbupdate.boot.kernel import Overrides
from tbupdate.bootvocabulary import (
    AddEntry,
    Choose,
    ClearNote,
    CollectKernels,
    DropTries,
    ForgetEntry,
    MakeTries,
    PutKernel,
    RequireBootable,
    SetUpBoot,
    TakeDownBoot,
)
from tbupdate.datavocabulary import MoveStep, ResetStep
from tbupdate.history import Event
from tbupdate.layout import SNAPSHOTS
from tbupdate.record import Record
from tbupdate.rootvocabulary import RootStep


@dataclass(frozen=True)
class MakeDirectories:
    """The two directories of ours in the top level."""

    def __str__(self) -> str:
        return "create the directories snapshots and tb-update"


@dataclass(frozen=True)
class MakeSubvolume:
    """An empty subvolume, for a full image."""

    name: str

    def __str__(self) -> str:
        return f"create the empty subvolume {SNAPSHOTS}/{self.name}"


@dataclass(frozen=True)
class MakeSnapshot:
    """A snapshot within `snapshots/`."""

    source: str
    name: str
    read_only: bool = False

    def __str__(self) -> str:
        kind = "read-only snapshot" if self.read_only else "snapshot"
        return f"{kind} of {SNAPSHOTS}/{self.source} as {SNAPSHOTS}/{self.name}"


@dataclass(frozen=True)
class TakeSnapshot:
    """A snapshot of a subvolume elsewhere (its path from the top level; empty: the top level itself)."""

    path: str
    name: str
    read_only: bool = False

    def __str__(self) -> str:
        kind = "read-only snapshot" if self.read_only else "snapshot"
        return f"{kind} of {self.path or 'the top level'} as {SNAPSHOTS}/{self.name}"


@dataclass(frozen=True)
class TidySnapshot:
    """In the snapshot of an installed root: our own directories go, stubs of nested subvolumes become mount points."""

    name: str
    source: str
    own: tuple[str, ...]
    stubs: tuple[str, ...]

    def __str__(self) -> str:
        return f"leave the traces of other subvolumes out of {SNAPSHOTS}/{self.name}"


@dataclass(frozen=True)
class FreeFstab:
    """In a snapshot of an installed root: /etc/fstab names no subvolume for / any more."""

    name: str

    def __str__(self) -> str:
        return f"let /etc/fstab in {SNAPSHOTS}/{self.name} mount the default subvolume as /, if it names another"


@dataclass(frozen=True)
class SetDefaultPath:
    """Make a subvolume elsewhere the default one (its path from the top level; empty: the top level itself)."""

    path: str

    def __str__(self) -> str:
        return f"THE SWITCH: boot {self.path or 'the top level'} next"


@dataclass(frozen=True)
class RemoveDirectories:
    """Our two directories in the top level, and the history in them."""

    def __str__(self) -> str:
        return "remove the directories snapshots and tb-update"


@dataclass(frozen=True)
class ApplyImage:
    """Turn a snapshot of `base` (an empty subvolume without) into the image's target.

    `kernel`: where the boot files are that go to /boot later, so that room for them is looked for before all else.
    """

    name: str
    base: str | None
    kernel: Overrides | None = None

    def __str__(self) -> str:
        return f"apply the image to {SNAPSHOTS}/{self.name} and check every file of it"


@dataclass(frozen=True)
class ReadTree:
    """Read a tree that came by no image."""

    name: str

    def __str__(self) -> str:
        return f"read {SNAPSHOTS}/{self.name}, to know its every file later"


@dataclass(frozen=True)
class WriteRecord:
    """Write down what the deployment is; what only the tree itself tells is filled in then."""

    record: Record

    def __str__(self) -> str:
        return f"write the record of {self.record.id}"


@dataclass(frozen=True)
class SyncFileSystem:
    """Make everything before it durable before anything behind it."""

    def __str__(self) -> str:
        return "make it all durable on the disk"


@dataclass(frozen=True)
class MakeReadOnly:
    """Close a subvolume to changes."""

    name: str

    def __str__(self) -> str:
        return f"make {SNAPSHOTS}/{self.name} read-only"


@dataclass(frozen=True)
class Rename:
    """Give a subvolume a name that is free."""

    old: str
    new: str

    def __str__(self) -> str:
        return f"rename {SNAPSHOTS}/{self.old} to {SNAPSHOTS}/{self.new}"


@dataclass(frozen=True)
class Exchange:
    """Let two subvolumes change their names, in one act."""

    one: str
    other: str

    def __str__(self) -> str:
        return f"exchange {SNAPSHOTS}/{self.one} and {SNAPSHOTS}/{self.other}"


@dataclass(frozen=True)
class SetDefault:
    """Make a root the default subvolume: THE SWITCH, where no boot chooser decides what boots next."""

    name: str
    follows: bool = False

    def __str__(self) -> str:
        if self.follows:
            return f"make {SNAPSHOTS}/{self.name} the default subvolume"
        return f"THE SWITCH: boot {SNAPSHOTS}/{self.name} next"


@dataclass(frozen=True)
class DeleteSubvolume:
    """Delete a subvolume that nothing needs."""

    name: str

    def __str__(self) -> str:
        return f"delete {SNAPSHOTS}/{self.name}"


@dataclass(frozen=True)
class DeleteRecord:
    """Forget what was written down about a deployment."""

    deployment: str

    def __str__(self) -> str:
        return f"delete the record of {self.deployment}"


@dataclass(frozen=True)
class SetMark:
    """Set one of the marks (see `marks`)."""

    mark: str
    value: str

    def __str__(self) -> str:
        return f"mark {self.mark} = {self.value}"


@dataclass(frozen=True)
class ClearMark:
    """Take a mark away."""

    mark: str

    def __str__(self) -> str:
        return f"clear the mark {self.mark}"


@dataclass(frozen=True)
class CarryLocal:
    """Bring local changes of a root of `base` into the root `to` of another deployment.

    `source` is a read-only snapshot of the former; with `since`, an earlier one, only what changed since then is
    brought. `back`: only what goes both ways, and what fails then holds nobody back from an earlier deployment.
    `own`: the new deployment knows nothing of `base`, so what is this machine's own is brought as a whole.
    """

    base: str
    source: str
    to: str
    deployment: str
    since: str | None = None
    back: bool = False
    only: str = ""
    own: bool = False

    def __str__(self) -> str:
        if self.own:
            return f"bring local changes, and what is this machine's own, of {self.base} to {SNAPSHOTS}/{self.to}"
        if self.back:
            return f"bring the local changes that go both ways from {self.base} to {SNAPSHOTS}/{self.to}"
        since = " that were made since the deploy" if self.since else ""
        return f"bring local changes{since} of {self.base} to {SNAPSHOTS}/{self.to}"


@dataclass(frozen=True)
class ForgetOwnKeys:
    """Trust no key any more that the device's owner enrolled."""

    def __str__(self) -> str:
        return "forget the owner's own keys"


@dataclass(frozen=True)
class AppendHistory:
    """A line in the history."""

    event: Event

    def __str__(self) -> str:
        return f"write to the history: {self.event.event} {self.event.deployment or ''}".rstrip()


Step = (
    MakeDirectories
    | MakeSubvolume
    | MakeSnapshot
    | TakeSnapshot
    | TidySnapshot
    | FreeFstab
    | SetDefaultPath
    | RemoveDirectories
    | TakeDownBoot
    | ApplyImage
    | ReadTree
    | WriteRecord
    | SyncFileSystem
    | MakeReadOnly
    | Rename
    | Exchange
    | SetDefault
    | DeleteSubvolume
    | DeleteRecord
    | SetMark
    | ClearMark
    | CarryLocal
    | ForgetOwnKeys
    | AppendHistory
    | RequireBootable
    | PutKernel
    | AddEntry
    | SetUpBoot
    | Choose
    | ForgetEntry
    | CollectKernels
    | MakeTries
    | DropTries
    | ClearNote
    | RootStep
    | MoveStep
    | ResetStep
)


@dataclass(frozen=True)
class Plan:
    """What to do, in order.

    `steps` must all be done, or what was begun is cleared again. `afterwards` follows when they are: names that mirror
    what `steps` settled, and the history. A file system too full for these holds nobody back; the next command does
    them.
    `notes` are for the person who asked; so is `done`, which is said when it is.
    """

    deployment: str | None
    steps: tuple[Step, ...]
    afterwards: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    done: tuple[str, ...] = ()

    @property
    def every_step(self) -> tuple[Step, ...]:
        """All steps, in order."""
        return self.steps + self.afterwards
