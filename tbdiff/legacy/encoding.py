"""Commands of the legacy format (TBDIFFv0) as bytes, in the form that the original deploy tool takes (pure)."""

from __future__ import annotations

import os
import stat
import struct

from tbdiff.legacy.commands import (
    TYPES,
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

END = bytes((Code.UPDATE,))
_STATED = struct.Struct("<HqIII")


def encode(command: Command) -> bytes:
    """A command as it stands in a stream, in the most likely dialect; a file's content is to follow it."""
    match command:
        case Enter(name):
            code, fields = Code.DIR_ENTER, _text(name)
        case Leave(seconds):
            code, fields = Code.DIR_LEAVE, struct.pack("<q", seconds)
        case Delete(name):
            code, fields = Code.ENTITY_DELETE, _text(name)
        case ChangeDirectory(name, mask, stated):
            code, fields = Code.DIR_DELTA, _change(mask, stated, stat.S_IFDIR) + _text(name or b".")
        case ChangeFile(name, mask, stated):
            code, fields = Code.FILE_METADATA_UPDATE, _change(mask, stated, stat.S_IFREG) + _text(name)
        case PatchFile(name, mask, stated, start, end, size):
            hunk = struct.pack("<III", start, end, size)
            code, fields = Code.FILE_DELTA, _text(name) + _change(mask, stated, stat.S_IFREG) + hunk
        case SetXattrs(name, xattrs):
            # The original deploy tool reads too much of a value that is shorter than one before it.
            ordered = sorted(xattrs, key=lambda pair: (len(pair[1]), pair[0]))
            values = (_text(key) + struct.pack("<Q", len(value)) + value for key, value in ordered)
            code, fields = Code.XATTRS_UPDATE, _text(name or b".") + struct.pack("<I", len(xattrs)) + b"".join(values)
        case _:
            code, fields = _making(command)
    return bytes((code,)) + fields


def _making(command: MakeDirectory | MakeFile | MakeSymlink | MakeSpecial) -> tuple[Code, bytes]:
    """The commands that make something: each has the same fields in another order."""
    match command:
        case MakeDirectory(name, stated):
            mode = stat.S_IFDIR | stated.mode
            return Code.DIR_CREATE, _text(name) + struct.pack("<qIII", stated.seconds, stated.uid, stated.gid, mode)
        case MakeFile(name, stated, size):
            rest = struct.pack("<qIIII", stated.seconds, stat.S_IFREG | stated.mode, stated.uid, stated.gid, size)
            return Code.FILE_CREATE, _text(name) + rest
        case MakeSymlink(name, target, uid, gid, seconds):
            return Code.SYMLINK_CREATE, struct.pack("<qII", seconds, uid, gid) + _text(name) + _text(target)
        case MakeSpecial(name, kind, stated, rdev):
            mode = stated.mode | (TYPES[kind] if kind else stat.S_IFSOCK)
            rest = struct.pack("<qIIII", stated.seconds, mode, stated.uid, stated.gid, os.makedev(*rdev))
            return Code.SPECIAL_CREATE, _text(name) + rest


def _text(text: bytes) -> bytes:
    return struct.pack("<H", len(text)) + text


def _change(mask: Mask, stated: Stated, kind: int) -> bytes:
    return _STATED.pack(mask, stated.seconds, stated.uid, stated.gid, kind | stated.mode)
