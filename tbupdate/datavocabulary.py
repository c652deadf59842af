"""The vocabulary of plans, where data that is not the system's gets a subvolume of its own, or a fresh one."""

from __future__ import annotations

from dataclasses import dataclass

from tbupdate.layout import SNAPSHOTS


@dataclass(frozen=True)
class Move:
    """A directory of the root (its path, without a leading /), and the subvolume that is mounted there instead."""

    place: str
    subvolume: str


@dataclass(frozen=True)
class Isolate:
    """Of a snapshot of a root only what is in one directory stays, and is then the top of it, with its metadata."""

    name: str
    place: str

    def __str__(self) -> str:
        return f"leave nothing in {SNAPSHOTS}/{self.name} but what is in /{self.place}"


@dataclass(frozen=True)
class LeaveEmpty:
    """In a snapshot of an installed root, a directory becomes the mount point of what was in it."""

    name: str
    place: str

    def __str__(self) -> str:
        return f"leave /{self.place} in {SNAPSHOTS}/{self.name} empty"


@dataclass(frozen=True)
class AddMounts:
    """In a snapshot of an installed root, /etc/fstab mounts what was moved out."""

    name: str
    moves: tuple[Move, ...]

    def __str__(self) -> str:
        said = ", ".join(f"{one.subvolume} on /{one.place}" for one in self.moves)
        return f"let /etc/fstab in {SNAPSHOTS}/{self.name} mount {said}"


@dataclass(frozen=True)
class PutOutside:
    """What was moved out gets its name in the top level; a mark remembers that it is ours, and how it was."""

    name: str
    move: Move

    def __str__(self) -> str:
        return f"rename {SNAPSHOTS}/{self.name} to {self.move.subvolume} in the top level"


@dataclass(frozen=True)
class RenewOutside:
    """What was moved out before the first boot is replaced by what was written in its old place since then."""

    name: str
    move: Move

    def __str__(self) -> str:
        return f"exchange {self.move.subvolume} in the top level and {SNAPSHOTS}/{self.name}"


@dataclass(frozen=True)
class DeleteOutside:
    """Delete a subvolume in the top level that `init` made, while it is as that left it."""

    subvolume: str

    def __str__(self) -> str:
        return f"delete {self.subvolume} in the top level, which is as init made it"


@dataclass(frozen=True)
class Dress:
    """A fresh subvolume for user data: owner, mode and attributes of the old one, and homes for the people."""

    name: str
    subvolume: str
    deployment: str
    place: str

    def __str__(self) -> str:
        return f"give {SNAPSHOTS}/{self.name} the owner and mode of {self.subvolume}, and homes to those who live there"


@dataclass(frozen=True)
class AwaitEmptying:
    """User data is to be exchanged for `name` as soon as the root named `root` boots next."""

    name: str
    subvolume: str
    root: str

    def __str__(self) -> str:
        return f"mark that {self.subvolume} is emptied when {SNAPSHOTS}/{self.root} boots next"


@dataclass(frozen=True)
class EmptyData:
    """User data is given up: a fresh subvolume takes its place."""

    name: str
    subvolume: str

    def __str__(self) -> str:
        return f"exchange {self.subvolume}, WITH ALL DATA in it, for {SNAPSHOTS}/{self.name}"


@dataclass(frozen=True)
class KeepMounts:
    """A root that is made anew finds its disks as the old one does: where that says more of them."""

    source: str
    name: str

    def __str__(self) -> str:
        return f"bring /etc/fstab and /etc/crypttab of {SNAPSHOTS}/{self.source} to {SNAPSHOTS}/{self.name}"


@dataclass(frozen=True)
class TellLate:
    """Say it where something was written to the old place of what was moved out, and nothing has brought it along."""

    then: str
    now: str
    source: str
    moves: tuple[Move, ...]

    def __str__(self) -> str:
        return f"look for what was written to {', '.join(f'/{one.place}' for one in self.moves)} after it was moved out"


MoveStep = Isolate | LeaveEmpty | AddMounts | PutOutside | RenewOutside | DeleteOutside | TellLate
ResetStep = Dress | AwaitEmptying | EmptyData | KeepMounts
