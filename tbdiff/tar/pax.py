"""An extended header of a tar archive: its records, and what they say of the entry that follows (pure)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from tbdiff import acl
from tbdiff.entry import XATTR_NAME_MAX, XATTR_VALUE_MAX, Xattrs, printable
from tbdiff.errors import Malformed, Rejected
from tbdiff.tar.header import within

SCHILY_XATTR = b"SCHILY.xattr."
LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."
SPARSE = b"GNU.sparse."
ACLS = {
    b"SCHILY.acl.access": b"system.posix_acl_access",
    b"SCHILY.acl.default": b"system.posix_acl_default",
}
SELINUX = b"RHT.security.selinux"
# Their values are the names' bytes as they are; what else there may be would have to be converted.
CHARSETS = frozenset({b"BINARY", b"ISO-IR 10646 2000 UTF-8"})
# What other archivers keep in ways of their own and what would be lost if it were passed over.
UNKNOWN = (b"SCHILY.acl.ace", b"SCHILY.realsize", b"SCHILY.filetype", b"GNU.volume.", b"GNU.dumpdir")
# What a record for all entries would change in each of them.
OF_AN_ENTRY = (b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"SCHILY.", b"LIBARCHIVE.", b"GNU.", b"RHT.")
REPEATED = frozenset({b"comment", b"GNU.sparse.offset", b"GNU.sparse.numbytes"})

_DIGITS = re.compile(rb"\d{1,20}")
_TIME = re.compile(rb"(-?)(\d{1,20})(?:\.(\d{0,40}))?")
_LENGTH = re.compile(rb"([1-9]\d{0,8}) ")


def records(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of an extended header."""
    at = 0
    while at < len(body):
        head = _LENGTH.match(body, at)
        end = at + int(head[1]) if head else 0
        if head is None or not head.end() < end <= len(body) or body[end - 1 : end] != b"\n":
            raise Malformed("the tarball has an extended header that is not well formed")
        key, equals, value = body[head.end() : end - 1].partition(b"=")
        if not key or not equals or b"\0" in key:
            raise Malformed("the tarball has an extended header that is not well formed")
        yield key, value
        at = end


class Pax:
    """What one extended header says of the next entry; empty where there is none."""

    def __init__(self, body: bytes = b"") -> None:
        self.fields: dict[bytes, bytes] = {}
        self.sparse: list[tuple[bytes, bytes]] = []
        for key, value in records(body):
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                self.sparse.append((key, value))
            elif key in self.fields and key not in REPEATED:
                raise Malformed(f"the tarball says {printable(key)!r} of one entry twice")
            elif key.startswith(UNKNOWN):
                raise Rejected(
                    f"the tarball keeps {printable(key)!r} in a form that tbdiff does not know",
                    "Pack it with GNU tar or bsdtar.",
                )
            else:
                self.fields[key] = value
        check_charset(self.fields)

    def text(self, key: bytes) -> bytes | None:
        """A path, or None where the header says nothing of it."""
        value = self.fields.get(key)
        if value is not None and (not value or b"\0" in value):
            raise Malformed(f"the tarball has an entry whose {printable(key)} is empty or holds a NUL byte")
        return value

    def number(self, key: bytes, limit: int) -> int | None:
        """A number up to `limit`."""
        value = self.fields.get(key)
        if value is None:
            return None
        if not _DIGITS.fullmatch(value):
            raise Malformed(f"the tarball says that {printable(key)} is {printable(value[:40])!r}, which is no number")
        return within(int(value), limit, printable(key))

    def time(self, key: bytes) -> int | None:
        """A time in nanoseconds; finer fractions are cut off."""
        value = self.fields.get(key)
        if value is None:
            return None
        parts = _TIME.fullmatch(value)
        if parts is None:
            raise Malformed(f"the tarball says that {printable(key)} is {printable(value[:40])!r}, which is no time")
        nanoseconds = int(parts[2]) * 1_000_000_000 + int((parts[3] or b"")[:9].ljust(9, b"0"))
        return -nanoseconds if parts[1] else nanoseconds

    @property
    def is_sparse(self) -> bool:
        """Whether it says where the entry's holes are."""
        return bool(self.sparse) or any(key.startswith(SPARSE) for key in self.fields)

    def xattrs(self) -> Xattrs:
        """All extended attributes, ACLs among them, sorted by name."""
        found: dict[bytes, bytes] = {}
        for key, value in self.fields.items():
            if key.startswith(SCHILY_XATTR):
                name = key[len(SCHILY_XATTR) :]
                # libarchive writes each attribute in both ways, and both under the escaped name.
                escaped = LIBARCHIVE_XATTR + name in self.fields
                _put(found, unquote_to_bytes(name) if escaped else _unescaped(name), value)
            elif key.startswith(LIBARCHIVE_XATTR):
                _put(found, unquote_to_bytes(key[len(LIBARCHIVE_XATTR) :]), _base64(value))
        if SELINUX in self.fields:
            found.setdefault(b"security.selinux", self.fields[SELINUX].rstrip(b"\0") + b"\0")
        for key, name in ACLS.items():
            # Where the attribute itself is there as well, it is the more exact of the two.
            if key in self.fields and name not in found:
                value = acl.from_text(self.fields[key])
                # One that says no more than the mode is none to the kernel.
                if name == ACLS[b"SCHILY.acl.default"] or not acl.is_minimal(value):
                    found[name] = value
        return tuple(sorted(found.items()))


def _put(found: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    if not 0 < len(name) <= XATTR_NAME_MAX or b"\0" in name or len(value) > XATTR_VALUE_MAX:
        raise Malformed(f"the tarball has an attribute {printable(name[:300])!r} that no file can have")
    if found.setdefault(name, value) != value:
        raise Malformed(f"the tarball gives one entry two values of the attribute {printable(name)!r}")


def _unescaped(name: bytes) -> bytes:
    """GNU tar escapes what would end the keyword."""
    return name.replace(b"%3D", b"=").replace(b"%25", b"%")


def _base64(value: bytes) -> bytes:
    try:
        return base64.b64decode(value.rstrip(b"=") + b"=" * (-len(value.rstrip(b"=")) % 4), validate=True)
    except binascii.Error:
        raise Malformed("the tarball has an attribute whose value cannot be decoded") from None


def check_charset(fields: dict[bytes, bytes]) -> None:
    """Refuse names that would have to be converted."""
    charset = fields.get(b"hdrcharset")
    if charset is not None and charset not in CHARSETS:
        raise Malformed(f"the tarball's names are in the character set {printable(charset[:80])!r}, not in UTF-8")


def check_global(body: bytes) -> None:
    """Refuse a header for all entries that would change any; comments and the like are passed over."""
    fields = dict(records(body))
    check_charset(fields)
    for key in fields:
        if key.startswith(OF_AN_ENTRY):
            raise Malformed(
                f"the tarball says {printable(key)!r} of all its entries at once, which tbdiff does not read"
            )
