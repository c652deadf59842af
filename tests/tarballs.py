"""Tarballs for tests: trees packed by GNU tar and by Python, whole; and archives put together header by header."""

from __future__ import annotations

import gzip
import lzma
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from tbdiff.compression import zstd

BLOCK = 512
END = bytes(2 * BLOCK)
GNU_XATTRS = ("--xattrs", "--xattrs-include=*", "--acls", "--selinux")
# What each form of GNU tar keeps: `exact` is all, down to the nanosecond and the hole.
GNU_TARS = {
    "pax": ("--format=posix", *GNU_XATTRS),
    "pax-sparse-1.0": ("--format=posix", "--sparse", "--sparse-version=1.0", *GNU_XATTRS),
    "pax-sparse-0.1": ("--format=posix", "--sparse", "--sparse-version=0.1", *GNU_XATTRS),
    "pax-sparse-0.0": ("--format=posix", "--sparse", "--sparse-version=0.0", *GNU_XATTRS),
    "pax-sparse-raw": ("--format=posix", "--sparse", "--hole-detection=raw", *GNU_XATTRS),
    "pax-acls-as-text": ("--format=posix", "--acls", "--numeric-owner", "--xattrs-include=user.*"),
    "gnu": ("--format=gnu",),
    "gnu-sparse": ("--format=gnu", "--sparse"),
    "oldgnu-sparse": ("--format=oldgnu", "--sparse"),
    "ustar": ("--format=ustar",),
    "v7": ("--format=v7",),
}


def gnu_tar(tree: Path, out: Path, *options: str, members: tuple[str, ...] = (".",)) -> Path:
    """Pack what is in `tree` by GNU tar."""
    subprocess.run(
        ["tar", "--create", "--sort=name", *options, "-f", out, "-C", tree, *members], check=True, capture_output=True
    )
    return out


def python_tar(tree: Path, out: Path, form: int) -> Path:
    """Pack what is in `tree` by Python's tarfile."""
    with tarfile.open(out, "w", format=form, errors="surrogateescape") as archive:
        archive.add(tree, arcname=".")
    return out


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def xzipped(data: bytes) -> bytes:
    return lzma.compress(data, preset=1)


def zstandard(data: bytes) -> bytes:
    return zstd.compress(data, 3)


PACKINGS = {"tar": bytes, "tar.gz": gzipped, "tar.zst": zstandard, "tar.xz": xzipped}


# --- header by header


@dataclass(frozen=True)
class Raw:
    """One header with its content. What is None gets a plain value; numbers may be bytes that go in as they are."""

    name: bytes = b"file"
    data: bytes = b""
    flag: bytes = b"0"
    mode: int | bytes = 0o644
    uid: int | bytes = 0
    gid: int | bytes = 0
    size: int | bytes | None = None
    mtime: int | bytes = 1_700_000_000
    link: bytes = b""
    magic: bytes = b"ustar\x0000"
    rdev: tuple[int | bytes, int | bytes] = (0, 0)
    prefix: bytes = b""
    checksum: bytes | None = None
    patches: tuple[tuple[int, bytes], ...] = field(default=())

    def header(self) -> bytes:
        size = len(self.data) if self.size is None else self.size
        parts = [
            self.name.ljust(100, b"\0")[:100],
            number(self.mode, 8),
            number(self.uid, 8),
            number(self.gid, 8),
            number(size, 12),
            number(self.mtime, 12),
            b" " * 8,
            self.flag,
            self.link.ljust(100, b"\0")[:100],
            self.magic.ljust(8, b"\0"),
            b"root".ljust(32, b"\0") * 2,
            number(self.rdev[0], 8),
            number(self.rdev[1], 8),
            self.prefix.ljust(155, b"\0"),
        ]
        block = bytearray(b"".join(parts).ljust(BLOCK, b"\0"))
        for at, data in self.patches:
            block[at : at + len(data)] = data
        block[148:156] = b"%06o\0 " % sum(block) if self.checksum is None else self.checksum
        assert len(block) == BLOCK
        return bytes(block)

    def bytes(self) -> bytes:
        return self.header() + padded(self.data)


def number(value: int | bytes, width: int) -> bytes:
    if isinstance(value, bytes):
        return value.ljust(width, b"\0")
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return base256(value, width)


def base256(value: int, width: int) -> bytes:
    return (value % (1 << 8 * width) | (0x80 << 8 * (width - 1))).to_bytes(width, "big")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    """One record of an extended header, with its own length in front."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def pax(*pairs: tuple[bytes, bytes], flag: bytes = b"x") -> Raw:
    return Raw(b"PaxHeaders/x", b"".join(record(key, value) for key, value in pairs), flag)


def long_name(name: bytes, flag: bytes = b"L") -> Raw:
    return Raw(b"././@LongLink", name + b"\0", flag, magic=b"ustar  ")


def directory(name: bytes = b"./", **rest: object) -> Raw:
    return Raw(name, flag=b"5", mode=0o755, **rest)  # type: ignore[arg-type]


def archive(*members: Raw | bytes, end: bytes = END) -> bytes:
    return b"".join(m if isinstance(m, bytes) else m.bytes() for m in members) + end


if __name__ == "__main__":
    sys.stdout.buffer.write(archive(directory(), Raw()))
