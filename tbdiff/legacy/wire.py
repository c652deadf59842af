"""Commands of the legacy format (TBDIFFv0) read from a stream, with limits on every field; nothing else is touched."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

from tbdiff.entry import ID_MAX, LINK_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX, Kind, Xattrs, check_name, printable
from tbdiff.errors import Malformed, Rejected
from tbdiff.legacy.commands import (
    START,
    ChangeDirectory,
    ChangeFile,
    Code,
    Command,
    Delete,
    Enter,
    Leave,
    MakeDirectory,
    MakeFile,
    MakeSpecial,
    MakeSymlink,
    Mask,
    PatchFile,
    SetXattrs,
    Stated,
)
from tbdiff.payload import Readable

STEP = 1 << 17
# All attributes of one thing; no file system that a system lives on takes more.
XATTRS_MAX = 1 << 20
MTIME_SECONDS_MAX = 2**62
# Within so much of the stream it has to show how long a length is, at so many places at most.
WINDOW = 1 << 18
PROBES_MAX = 16
SPECIAL = {
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFSOCK: None,
}
ALL_MASKS = sum(Mask)


class CutOffError(Rejected):
    """The stream ends in the middle."""

    def __init__(self) -> None:
        super().__init__("the image is cut off; nothing was changed", "Fetch it again.")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a writer's machine stored the length of an attribute's value: nothing in a stream says so."""

    width: int
    order: Literal["little", "big"]


# The most likely first.
DIALECTS = (Dialect(8, "little"), Dialect(4, "little"), Dialect(8, "big"), Dialect(4, "big"))


class Fields:
    """A stream, field by field, and the digest of what was read of it."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._held = b""
        self._at = 0
        self._before = 0
        self._hash = hashlib.sha256()

    @property
    def done(self) -> int:
        """How many bytes were read."""
        return self._before + self._at

    def digest(self) -> str:
        """The SHA-256 of what was read."""
        found = self._hash.copy()
        found.update(self._held[: self._at])
        return found.hexdigest()

    def _more(self, size: int) -> bool:
        """Hold more, but no more than needed; False at the end."""
        part = self._source.read(max(STEP, size))
        self._hash.update(self._held[: self._at])
        self._before += self._at
        self._held = self._held[self._at :] + part
        self._at = 0
        return bool(part)

    def look(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end; they stay to be read."""
        while len(self._held) - self._at < size and self._more(size):
            pass
        return self._held[self._at : self._at + size]

    def take(self, size: int) -> bytes:
        """The next `size` bytes; only for small sizes."""
        while len(self._held) - self._at < size:
            if not self._more(0):
                raise CutOffError
        self._at += size
        return self._held[self._at - size : self._at]

    def pieces(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes, however many, in pieces."""
        while size:
            if self._at == len(self._held) and not self._more(0):
                raise CutOffError
            piece = self._held[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    def number(self, size: int) -> int:
        """A number of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def seconds(self) -> int:
        """A time."""
        found = int.from_bytes(self.take(8), "little", signed=True)
        if abs(found) > MTIME_SECONDS_MAX:
            raise Malformed("the image holds a time that no clock shows")
        return found

    def text(self) -> bytes:
        """A string; only its length is limited."""
        return self.take(self.number(2))

    def name(self) -> bytes:
        """A name that is in the current directory."""
        return check_name(self.text())

    def name_or_here(self) -> bytes:
        """A name that is in the current directory; empty for that directory."""
        name = self.text()
        return b"" if name == b"." else check_name(name)


def commands(fields: Fields) -> Iterator[Command]:
    """All commands up to the end of the stream; the first, which names the format, is checked and left out."""
    if fields.take(len(START)) != START:
        raise Malformed("the image is not one of the legacy format")
    yield from _Decoder(fields, DIALECTS).commands()


class _Decoder:
    """A stream behind its first command."""

    def __init__(self, fields: Fields, dialects: tuple[Dialect, ...]) -> None:
        self._fields = fields
        self._dialects = dialects
        self._probes = 0
        self._readers: dict[int, Callable[[], Command]] = {
            Code.DIR_CREATE: self._make_directory,
            Code.DIR_ENTER: lambda: Enter(fields.name()),
            Code.DIR_LEAVE: lambda: Leave(fields.seconds()),
            Code.DIR_DELTA: self._change_directory,
            Code.FILE_CREATE: self._make_file,
            Code.FILE_DELTA: self._patch_file,
            Code.FILE_METADATA_UPDATE: self._change_file,
            Code.ENTITY_DELETE: lambda: Delete(fields.name()),
            Code.SYMLINK_CREATE: self._make_symlink,
            Code.SPECIAL_CREATE: self._make_special,
            Code.XATTRS_UPDATE: self._set_xattrs,
        }

    def commands(self) -> Iterator[Command]:
        while (code := self._fields.number(1)) != Code.UPDATE:
            reader = self._readers.get(code)
            if reader is None:
                where = self._fields.done - 1
                raise Rejected(
                    f"the image is damaged: {code:#04x} at byte {where} is no command; nothing was changed",
                    "Fetch it again, or make it again from its two trees.",
                )
            command = reader()
            yield command
            if isinstance(command, MakeFile | PatchFile):
                for _ in command.pieces:  # whoever does not need a content does not read it
                    pass

    def _make_directory(self) -> Command:
        name, seconds, uid, gid = self._fields.name(), self._fields.seconds(), self._id(), self._id()
        return MakeDirectory(name, Stated(self._mode(stat.S_IFDIR), uid, gid, seconds))

    def _change_directory(self) -> Command:
        mask, stated = self._change(stat.S_IFDIR)
        return ChangeDirectory(self._fields.name_or_here(), mask, stated)

    def _make_file(self) -> Command:
        name, seconds = self._fields.name(), self._fields.seconds()
        stated = Stated(self._mode(stat.S_IFREG), self._id(), self._id(), seconds)
        size = self._fields.number(4)
        return MakeFile(name, stated, size, self._fields.pieces(size))

    def _patch_file(self) -> Command:
        name = self._fields.name()
        mask, stated = self._change(stat.S_IFREG)
        start, end, size = self._fields.number(4), self._fields.number(4), self._fields.number(4)
        if start > end:
            raise Malformed(f"the image replaces a part of {printable(name)!r} that ends before it begins")
        return PatchFile(name, mask, stated, start, end, size, self._fields.pieces(size))

    def _change_file(self) -> Command:
        mask, stated = self._change(stat.S_IFREG)
        return ChangeFile(self._fields.name(), mask, stated)

    def _make_symlink(self) -> Command:
        seconds, uid, gid = self._fields.seconds(), self._id(), self._id()
        name, target = self._fields.name(), self._fields.text()
        if not 0 < len(target) <= LINK_MAX or b"\0" in target:
            raise Malformed(f"the image makes {printable(name)!r} a symlink to what no symlink can lead to")
        return MakeSymlink(name, target, uid, gid, seconds)

    def _make_special(self) -> Command:
        name, seconds, mode = self._fields.name(), self._fields.seconds(), self._fields.number(4)
        stated = Stated(stat.S_IMODE(mode), self._id(), self._id(), seconds)
        device = self._fields.number(4)
        if stat.S_IFMT(mode) not in SPECIAL or mode >= 1 << 16:
            raise Malformed(f"the image makes {printable(name)!r} a special file of no known kind")
        kind = SPECIAL[stat.S_IFMT(mode)]
        rdev = (os.major(device), os.minor(device)) if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0)
        return MakeSpecial(name, kind, stated, rdev)

    def _change(self, kind: int) -> tuple[Mask, Stated]:
        mask, seconds, uid, gid = self._fields.number(2), self._fields.seconds(), self._id(), self._id()
        if mask & ~ALL_MASKS:
            raise Malformed("the image changes metadata of a sort that is not known")
        return Mask(mask), Stated(self._mode(kind), uid, gid, seconds)

    def _mode(self, kind: int) -> int:
        mode = self._fields.number(4)
        if mode >= 1 << 16 or stat.S_IFMT(mode) not in (kind, 0):
            raise Malformed(f"the image states the mode {mode:#o} for a thing of another kind")
        return stat.S_IMODE(mode)

    def _id(self) -> int:
        found = self._fields.number(4)
        if found > ID_MAX:
            raise Malformed(f"the image states {found} as an owner, which nobody can be")
        return found

    # --- attributes, and how long a length is

    def _set_xattrs(self) -> Command:
        name, count = self._fields.name_or_here(), self._fields.number(4)
        if count and len(self._dialects) > 1 and self._probes < PROBES_MAX:
            self._probes += 1
            window = self._fields.look(WINDOW)
            sense = {dialect: _sense(window, count, dialect) for dialect in self._dialects}
            self._dialects = tuple(dialect for dialect in sense if sense[dialect] == max(sense.values()))
        return SetXattrs(name, self.xattrs(count))

    def xattrs(self, count: int) -> Xattrs:
        """`count` attributes, by name."""
        dialect = self._dialects[0]
        found: dict[bytes, bytes] = {}
        total = 0
        for _ in range(count):
            name = self._fields.text()
            size = int.from_bytes(self._fields.take(dialect.width), dialect.order)
            if not 0 < len(name) <= XATTR_NAME_MAX or b"\0" in name or name in found:
                raise Malformed("the image sets an extended attribute of a name that none can have, or sets one twice")
            if size > XATTR_VALUE_MAX:
                raise Malformed(f"the image sets an extended attribute of {size} bytes; {XATTR_VALUE_MAX} is the limit")
            total += len(name) + size
            if total > XATTRS_MAX:
                raise Malformed("the image sets more extended attributes than one thing can have")
            found[name] = self._fields.take(size)
        return tuple(sorted(found.items()))


def _sense(window: bytes, count: int, dialect: Dialect) -> int:
    """How well a stream goes on with attributes of this dialect, and with commands behind them: 2 well, 0 not."""
    fields = Fields(BytesIO(window))
    decoder = _Decoder(fields, (dialect,))
    try:
        decoder.xattrs(count)
        for _ in decoder.commands():
            pass
    except CutOffError:
        # Of a stream that is longer than the window; a whole one has its last command in there.
        return 2 if len(window) == WINDOW else 0
    except Rejected:
        return 0
    # Something may follow the last command, but nobody writes such streams.
    return 2 if fields.done == len(window) else 1
