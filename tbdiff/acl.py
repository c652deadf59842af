"""POSIX access control lists: from the text that archivers write to the bytes that the kernel takes (pure)."""

from __future__ import annotations

import re
import struct

from tbdiff.entry import ID_MAX, printable
from tbdiff.errors import Malformed, Rejected

VERSION = 2
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY = 0xFFFFFFFF
ENTRIES_MAX = 8192
MINIMAL = [USER_OBJ, GROUP_OBJ, OTHER]

_HEAD = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_TAGS = {
    (b"user", False): USER_OBJ,
    (b"user", True): USER,
    (b"group", False): GROUP_OBJ,
    (b"group", True): GROUP,
    (b"mask", False): MASK,
    (b"other", False): OTHER,
}
_PERMISSIONS = re.compile(rb"([r-])([w-])([x-])")


def from_text(text: bytes) -> bytes:
    """The attribute's value of a list in text form: `user::rwx,user:1000:r--,group::r-x,mask::r-x,other::---`."""
    items = (item.partition(b"#")[0].strip() for item in re.split(rb"[,\n]", text))
    entries = sorted(_entry(item) for item in items if item)
    tags = [tag for tag, _, _ in entries]
    named = USER in tags or GROUP in tags
    single = all(tags.count(tag) == 1 for tag in MINIMAL) and tags.count(MASK) <= 1
    if not single or (named and MASK not in tags) or len({(t, i) for t, i, _ in entries}) != len(entries):
        raise Malformed(f"the tarball has an access control list that is not valid: {_shown(text)}")
    if len(entries) > ENTRIES_MAX:
        raise Malformed("the tarball has an access control list that is too long")
    return _HEAD.pack(VERSION) + b"".join(_ENTRY.pack(tag, permissions, who) for tag, who, permissions in entries)


def _entry(item: bytes) -> tuple[int, int, int]:
    """Tag, id and permissions."""
    fields = [field.strip() for field in item.split(b":")]
    if not 3 <= len(fields) <= 4:
        raise Malformed(f"the tarball has an access control list that is not valid: {_shown(item)}")
    kind, name, permissions = fields[:3]
    tag = _TAGS.get((kind, bool(name)))
    bits = _PERMISSIONS.fullmatch(permissions)
    if tag is None or bits is None:
        raise Malformed(f"the tarball has an access control list that is not valid: {_shown(item)}")
    who = NOBODY
    if name:
        # star and libarchive put the number behind the permissions where they know a name.
        digits = fields[3] if len(fields) > 3 and fields[3] else name
        if not re.fullmatch(rb"\d{1,10}", digits):
            raise Rejected(
                f"the tarball has an access control list that names {_shown(name)} without a number",
                "Pack it with --xattrs --xattrs-include='*'; then tar keeps the lists as they are.",
            )
        who = int(digits)
        if who > ID_MAX:
            raise Malformed(f"the tarball has an access control list for the number {who}, which nobody can have")
    return tag, who, sum(bit for bit, set_ in zip((4, 2, 1), bits.groups(), strict=True) if set_ != b"-")


def _shown(text: bytes) -> str:
    return repr(printable(text[:80]))


def is_minimal(value: bytes) -> bool:
    """Whether a list in binary form says no more than a mode does."""
    return [_ENTRY.unpack_from(value, at)[0] for at in range(_HEAD.size, len(value), _ENTRY.size)] == MINIMAL


def to_text(value: bytes) -> bytes | None:
    """A list in text form, with numbers for names; None where the value is no list that the kernel would have made."""
    names = {tag: kind for (kind, _), tag in _TAGS.items()}
    if len(value) < _HEAD.size or (len(value) - _HEAD.size) % _ENTRY.size or _HEAD.unpack_from(value) != (VERSION,):
        return None
    items = []
    for at in range(_HEAD.size, len(value), _ENTRY.size):
        tag, permissions, who = _ENTRY.unpack_from(value, at)
        if tag not in names:
            return None
        letters = bytes(c if permissions & bit else ord("-") for c, bit in zip(b"rwx", (4, 2, 1), strict=True))
        items.append(names[tag] + (b":%d:" % who if tag in (USER, GROUP) else b"::") + letters)
    return b",".join(items)
