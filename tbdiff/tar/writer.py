"""A tree written as a tarball with all that it has, in a form that GNU tar, bsdtar and tbdiff read; always the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from tbdiff import acl
from tbdiff.descent import Descent
from tbdiff.entry import Entry, Extents, Kind, Listing, printable
from tbdiff.errors import Failed
from tbdiff.tar.filter import Packing
from tbdiff.tar.header import BLOCK
from tbdiff.tar.pax import ACLS, SCHILY_XATTR
from tbdiff.tree import Progress, quiet

FLAGS = {
    Kind.FILE: b"0",
    Kind.HARDLINK: b"1",
    Kind.SYMLINK: b"2",
    Kind.CHAR: b"3",
    Kind.BLOCK: b"4",
    Kind.DIRECTORY: b"5",
    Kind.FIFO: b"6",
}
STEP = 1 << 18
NAME_FIELD = 100
# What the fields of a header hold in octal digits; more goes into the extended header.
ID_FIELD_MAX, LONG_FIELD_MAX = 0o7777777, 0o77777777777


class Packer(Protocol):
    """A compressor on the way to a file."""

    def compress(self, data: bytes, /) -> bytes:
        """What comes out for the next bytes."""

    def flush(self) -> bytes:
        """What comes out at the end."""


def packing_of_name(name: str) -> Packing | None:
    """How a file of this name is to be packed; None if it is not named like a tarball."""
    return next((packing for packing in Packing if name.endswith("." + packing.value)), None)


def packer(packing: Packing) -> Packer:
    """What packs a tarball; nothing of the time or the machine goes in."""
    if packing is Packing.GZIP:
        import zlib  # noqa: PLC0415 - each of them is needed at most once

        return zlib.compressobj(9, wbits=31)
    if packing is Packing.ZSTD:
        from tbdiff.compression import zstd  # noqa: PLC0415

        return zstd.ZstdCompressor(12)
    if packing is Packing.XZ:
        import lzma  # noqa: PLC0415

        return lzma.LZMACompressor(preset=6)
    return _Plain()


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        """The bytes as they are."""
        return data

    def flush(self) -> bytes:
        """Nothing was held back."""
        return b""


def write_tar(tree: Path, listing: Listing, write: Callable[[bytes], object], progress: Progress = quiet) -> None:
    """Write the tree, whose listing is known, as a tar stream."""
    total, done = listing.content_size, 0
    with Descent(tree) as descent:
        for entry in listing:
            inode = listing.get(entry.link) if entry.kind is Kind.HARDLINK else entry
            if inode is None:
                raise AssertionError("a hard link leads to what is not there")
            write(b"".join(headers(entry, inode)))
            if entry.kind is Kind.FILE:
                for part in _content(descent, entry):
                    write(part)
                done += entry.size
                progress("pack", done, total)
    write(bytes(2 * BLOCK))


def headers(entry: Entry, inode: Entry) -> Iterator[bytes]:
    """All blocks before an entry's content. A further name of an inode tells its metadata again, as tar does."""
    name = b"./" + entry.path + b"/" * (entry.kind is Kind.DIRECTORY and bool(entry.path))
    link = b"./" + entry.link if entry.kind is Kind.HARDLINK else entry.link
    stored, sparse_map = entry.size, b""
    records: dict[bytes, bytes] = {}
    seconds, nanoseconds = divmod(inode.mtime, 1_000_000_000)
    if entry.extents is not None:
        sparse_map = _sparse_map(entry.extents, entry.size)
        stored = len(sparse_map) + sum(length for _, length in entry.extents)
        records |= {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": name}
        records[b"GNU.sparse.realsize"] = b"%d" % entry.size
    elif not _plain(name):
        records[b"path"] = name
    if not _plain(link):
        records[b"linkpath"] = link
    for key, value, limit in (
        (b"uid", inode.uid, ID_FIELD_MAX),
        (b"gid", inode.gid, ID_FIELD_MAX),
        (b"size", stored, LONG_FIELD_MAX),
    ):
        if value > limit:
            records[key] = b"%d" % value
    if nanoseconds or not 0 <= seconds <= LONG_FIELD_MAX:
        records[b"mtime"] = _time(inode.mtime)
    if entry.kind is not Kind.HARDLINK:
        records |= _attributes(entry)
    if any(_not_utf8(records[key]) for key in (b"path", b"linkpath", b"GNU.sparse.name") if key in records):
        records = {b"hdrcharset": b"BINARY"} | records
    if records:
        body = b"".join(_record(key, value) for key, value in records.items())
        yield _header(b"./PaxHeaders/" + entry.name[:64], b"x", 0o644, size=len(body))
        yield _padded(body)
    yield _header(
        name,
        FLAGS[entry.kind],
        0o777 if inode.kind is Kind.SYMLINK else inode.mode,
        owner=(inode.uid if inode.uid <= ID_FIELD_MAX else 0, inode.gid if inode.gid <= ID_FIELD_MAX else 0),
        size=stored if stored <= LONG_FIELD_MAX else 0,
        mtime=min(max(seconds, 0), LONG_FIELD_MAX),
        link=link,
        rdev=entry.rdev,
    )
    yield sparse_map


def _header(
    name: bytes,
    flag: bytes,
    mode: int,
    *,
    owner: tuple[int, int] = (0, 0),
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    rdev: tuple[int, int] = (0, 0),
) -> bytes:
    """One header block of the form that POSIX calls ustar."""
    block = b"".join(
        (
            name[:NAME_FIELD].ljust(NAME_FIELD, b"\0"),
            b"%07o\0%07o\0%07o\0" % (mode, *owner),
            b"%011o\0%011o\0" % (size, mtime),
            b" " * 8,
            flag,
            link[:NAME_FIELD].ljust(NAME_FIELD, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0%07o\0" % rdev,
        )
    ).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _plain(name: bytes) -> bool:
    """Whether a name can stand in a header itself."""
    return name.isascii() and len(name) <= NAME_FIELD


def _not_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return True
    return False


def _record(key: bytes, value: bytes) -> bytes:
    """One record of an extended header, with its own length in front."""
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest)
    while len(b"%d" % size) + len(rest) != size:
        size = len(b"%d" % size) + len(rest)
    return b"%d" % size + rest


def _time(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    return sign + b"%d.%09d" % divmod(abs(nanoseconds), 1_000_000_000)


def _attributes(entry: Entry) -> dict[bytes, bytes]:
    """All extended attributes; ACLs as text too, which is what most programs read."""
    records = {}
    texts = {name: key for key, name in ACLS.items()}
    for name, value in entry.xattrs:
        text = acl.to_text(value) if name in texts else None
        if text:
            records[texts[name]] = text
        # `=` would end the keyword.
        records[SCHILY_XATTR + name.replace(b"%", b"%25").replace(b"=", b"%3D")] = value
    return records


def _sparse_map(extents: Extents, size: int) -> bytes:
    """Where the data is, in GNU tar's form 1.0; what ends in a hole has an empty part at its end."""
    parts = list(extents)
    if not parts or sum(parts[-1]) < size:
        parts.append((size, 0))
    return _padded(b"%d\n" % len(parts) + b"".join(b"%d\n%d\n" % part for part in parts))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def _content(tree: Descent, entry: Entry) -> Iterator[bytes]:
    """What is stored of a file, filled up to whole blocks."""
    runs = ((0, entry.size),) if entry.extents is None else entry.extents
    with tree.file(entry.path) as fd:
        for start, length in runs:
            at, end = start, start + length
            while at < end:
                part = os.pread(fd, min(STEP, end - at), at)
                if not part:
                    raise Failed(f"{printable(entry.path)!r} became shorter while it was packed")
                at += len(part)
                yield part
    yield bytes(-sum(length for _, length in runs) % BLOCK)
