"""The vocabulary of the legacy format (TBDIFFv0): commands that change the tree around a current directory."""

from __future__ import annotations

import enum
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from tbdiff.entry import Entry, Kind, Xattrs

MAGIC = b"Codethink:TBDIFFv0"
# How every stream begins: the first command, which names the format.
START = b"\x00\x12\x00" + MAGIC
SIZE_MAX = 2**32 - 1
SECOND = 1_000_000_000

TYPES = {
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.FILE: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}


class Code(enum.IntEnum):
    """The first byte of a command."""

    IDENTIFY = 0x00
    UPDATE = 0x01
    DIR_CREATE = 0x10
    DIR_ENTER = 0x11
    DIR_LEAVE = 0x12
    DIR_DELTA = 0x13
    FILE_CREATE = 0x20
    FILE_DELTA = 0x21
    FILE_METADATA_UPDATE = 0x22
    ENTITY_DELETE = 0x32
    SYMLINK_CREATE = 0x40
    SPECIAL_CREATE = 0x50
    XATTRS_UPDATE = 0x60


class Mask(enum.IntFlag):
    """What a change of metadata says is different; the values are all there whatever it says."""

    MTIME = 1
    MODE = 2
    UID = 4
    GID = 8
    RDEV = 16


EVERYTHING = Mask.MTIME | Mask.MODE | Mask.UID | Mask.GID


@dataclass(frozen=True, slots=True)
class Stated:
    """The metadata that a command states: the permission bits, and the time in whole seconds."""

    mode: int
    uid: int
    gid: int
    seconds: int

    @classmethod
    def of(cls, entry: Entry) -> Stated:
        """What the format can say of an entry."""
        return cls(entry.mode, entry.uid, entry.gid, entry.mtime // SECOND)


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """A new, empty directory."""

    name: bytes
    stated: Stated


@dataclass(frozen=True, slots=True)
class Enter:
    """Go into a directory."""

    name: bytes


@dataclass(frozen=True, slots=True)
class Leave:
    """Give the current directory its time and go up."""

    seconds: int


@dataclass(frozen=True, slots=True)
class ChangeDirectory:
    """Other metadata for a directory; an empty name is the current one."""

    name: bytes
    mask: Mask
    stated: Stated


@dataclass(frozen=True, slots=True)
class MakeFile:
    """A new file, with its content: `size` bytes, to be read before the next command."""

    name: bytes
    stated: Stated
    size: int
    pieces: Iterator[bytes] = field(default_factory=lambda: iter(()), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class PatchFile:
    """A file anew: of the old content what is before `start`, then `size` bytes, then the old from `end` on."""

    name: bytes
    mask: Mask
    stated: Stated
    start: int
    end: int
    size: int
    pieces: Iterator[bytes] = field(default_factory=lambda: iter(()), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ChangeFile:
    """Other metadata for a file."""

    name: bytes
    mask: Mask
    stated: Stated


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove something, with all that it holds."""

    name: bytes


@dataclass(frozen=True, slots=True)
class MakeSymlink:
    """A new symbolic link."""

    name: bytes
    target: bytes
    uid: int
    gid: int
    seconds: int


@dataclass(frozen=True, slots=True)
class MakeSpecial:
    """A new FIFO or device; `kind` is None for a socket."""

    name: bytes
    kind: Kind | None
    stated: Stated
    rdev: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class SetXattrs:
    """All extended attributes of something; an empty name is the current directory."""

    name: bytes
    xattrs: Xattrs


Command = (
    MakeDirectory
    | Enter
    | Leave
    | ChangeDirectory
    | MakeFile
    | PatchFile
    | ChangeFile
    | Delete
    | MakeSymlink
    | MakeSpecial
    | SetXattrs
)
