"""Tarballs that nobody should make: each one is either applied exactly, or refused with the tree as it was.

A case is good ("applied": it may look odd but means one thing) or bad ("rejected"); where the file system or the kernel
decides it is "either".
"""

from __future__ import annotations

import base64
import lzma
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from tbdiff.compression import zstd
from tests.tarballs import (
    BLOCK,
    END,
    Raw,
    archive,
    base256,
    directory,
    gzipped,
    long_name,
    padded,
    pax,
    record,
    xzipped,
    zstandard,
)

APPLIED, REJECTED, EITHER = "applied", "rejected", "either"
ROOT = directory()
SECRET = Raw(b"./secret", b"secret")


@dataclass(frozen=True)
class Case:
    """One tarball; `layers` says over what it is tried: nothing (False), the base (True)."""

    name: str
    data: bytes
    outcome: str = REJECTED
    layers: tuple[bool, ...] = (False, True)


def cases() -> list[Case]:
    """All of them."""
    found = [
        *names(),
        *links(),
        *types(),
        *duplicates(),
        *headers(),
        *extended_headers(),
        *attributes(),
        *sparse_files(),
        *ends(),
        *packings(),
        *whiteouts(),
    ]
    assert len({case.name for case in found}) == len(found)
    return found


def one(name: str, *members: Raw | bytes, outcome: str = REJECTED, layers: tuple[bool, ...] = (False, True)) -> Case:
    return Case(name, archive(ROOT, *members), outcome, layers)


def names() -> Iterator[Case]:
    for name in (
        *(b"../x", b"..", b"./..", b"./../x", b"a/../x", b"a/../../x", b"a/..", b"./a/../..", b"dir/../../outside/new"),
        *(b"/x", b"//x", b"/etc/passwd", b"/../x", b"/", b"", b"x" * 80 + b"/../x"),
        *(b".tbdiff-staging", b".tbdiff-staging/x", b"./.tbdiff-staging/x", b".//.tbdiff-staging"),
    ):
        yield one(f"name {name[:40]!r}", Raw(name, b"x"))
        if name:
            yield one(f"name {name[:40]!r} of a directory", directory(name))
            yield one(f"name {name[:40]!r} in an extended header", pax((b"path", name)), Raw(b"file", b"x"))
            yield one(f"long name {name[:40]!r}", long_name(name), Raw(b"file", b"x"))
    yield one("name with a prefix that leads out", Raw(b"x", b"x", prefix=b"../outside"))
    yield one("name with a prefix that is absolute", Raw(b"x", b"x", prefix=b"/tmp"))
    yield one("component of 256 bytes", pax((b"path", b"n" * 256)), Raw())
    yield one("component of 255 bytes", pax((b"path", b"n" * 255)), Raw(), outcome=APPLIED)
    yield one("path of 5000 bytes", pax((b"path", b"n/" * 2500 + b"x")), Raw())
    yield one("long name of 5000 bytes", long_name(b"n/" * 2500 + b"x"), Raw())
    yield one("long name of a gigabyte", Raw(b"././@LongLink", flag=b"L", size=1 << 30, magic=b"ustar  "), Raw())
    yield one("file with a slash behind its name", Raw(b"x/", b"content"))
    yield one("symbolic link with a slash behind its name", Raw(b"x/", flag=b"2", link=b"y"))
    yield one("directory as old archives have it", Raw(b"x/", flag=b"\0", magic=b"", mode=0o755), outcome=APPLIED)
    yield one("nested 1500 deep", *nested(1500), outcome=APPLIED)
    yield one("nested 2100 deep", *nested(2100))
    yield one("folded slashes", directory(b"a"), Raw(b".//a/././b", b"x"), outcome=APPLIED)
    odd = b"\x1b[2J\r\n\xff\xfe"
    yield one("name that would confuse a terminal", Raw(odd, b"x"), Raw(b"file2", b"y"), outcome=APPLIED)
    yield one("name that would confuse a terminal, refused", Raw(odd + b"/", b"x"))
    yield Case("root that is a file", archive(Raw(b".", b"x")))
    yield Case("root that is a link", archive(Raw(b"./", flag=b"2", link=b"../outside")))
    yield Case("no root", archive(Raw(b"new", b"x")), APPLIED)


def nested(depth: int) -> list[Raw]:
    found = []
    for n in range(1, depth + 1):
        name = b"/".join([b"n"] * n)
        found += [directory(name)] if len(name) <= 100 else [pax((b"path", name)), directory(b"n")]
    return found


def links() -> Iterator[Case]:
    out = Raw(b"link", flag=b"2", link=b"../outside")
    yield one("link to the outside", out, outcome=APPLIED)
    yield one("file through a link", out, Raw(b"link/x", b"x"))
    yield one("file through a link that comes later", Raw(b"link/x", b"x"), out)
    yield one("directory through a link", out, directory(b"link/x"))
    yield one("link through a link", out, Raw(b"link/x", flag=b"2", link=b"y"))
    yield one("hard link through a link", SECRET, out, Raw(b"link/x", flag=b"1", link=b"secret"))
    yield one("device through a link", out, Raw(b"link/x", flag=b"3", rdev=(1, 3)))
    two = Raw(b"one", flag=b"2", link=b"two"), Raw(b"two", flag=b"2", link=b"../outside")
    yield one("file through two links", *two, Raw(b"one/x", b"x"))
    yield one(
        "links in a circle", Raw(b"one", flag=b"2", link=b"two"), Raw(b"two", flag=b"2", link=b"one"), outcome=APPLIED
    )
    yield one("link to itself", Raw(b"one", flag=b"2", link=b"one"), outcome=APPLIED)
    yield one("link that becomes a directory", out, directory(b"link"), Raw(b"link/x", b"x"))
    yield one("directory that becomes a link", directory(b"link"), out, Raw(b"link/x", b"x"))
    yield one("link without a target", Raw(b"link", flag=b"2"))
    yield one("link with content", Raw(b"link", b"content", flag=b"2", link=b"x"))
    yield one("link to 4095 bytes", long_name(b"t" * 4095, b"K"), Raw(b"link", flag=b"2"), outcome=EITHER)
    yield one("link to 4096 bytes", long_name(b"t" * 4096, b"K"), Raw(b"link", flag=b"2"))
    yield one("link to NUL", pax((b"linkpath", b"a\0b")), Raw(b"link", flag=b"2", link=b"x"))
    yield one("link to nothing in an extended header", pax((b"linkpath", b"")), Raw(b"link", flag=b"2", link=b"x"))
    for target in (b"../outside/secret", b"/etc/passwd", b"..", b".", b"", b"a/../../outside/secret", b"missing"):
        yield one(f"hard link to {target!r}", Raw(b"hard", flag=b"1", link=target))
        if target:
            extended = pax((b"linkpath", target))
            yield one(f"hard link to {target!r}, extended", SECRET, extended, Raw(b"hard", flag=b"1", link=b"secret"))
    yield one("hard link to a directory", directory(b"d"), Raw(b"hard", flag=b"1", link=b"d"))
    yield one("hard link to the root", Raw(b"hard", flag=b"1", link=b"./"))
    yield one("hard link to itself", Raw(b"hard", flag=b"1", link=b"hard"))
    yield one("hard link to a later name", Raw(b"hard", flag=b"1", link=b"secret"), SECRET)
    yield one("hard link through a link that is there", out, Raw(b"hard", flag=b"1", link=b"link/secret"))
    yield one("hard link with content", SECRET, Raw(b"hard", b"other", flag=b"1", link=b"secret"))
    yield one("hard link over its target", SECRET, Raw(b"secret", flag=b"1", link=b"secret"))
    yield one("hard link to a link", out, Raw(b"hard", flag=b"1", link=b"link"), outcome=APPLIED)
    yield one("hard link to a FIFO", Raw(b"f", flag=b"6"), Raw(b"hard", flag=b"1", link=b"f"), outcome=APPLIED)
    chain = [Raw(b"hard%d" % n, flag=b"1", link=b"hard%d" % (n - 1) if n else b"secret") for n in range(20)]
    yield one("hard links in a chain", SECRET, *chain, outcome=APPLIED)
    yield one(
        "hard link that sorts before its target", Raw(b"z", b"z"), Raw(b"a", flag=b"1", link=b"z"), outcome=APPLIED
    )


def types() -> Iterator[Case]:
    for flag in b"VMDNXAEIsz8\x01\xff":
        yield one(f"entry of type {bytes([flag])!r}", Raw(b"odd", flag=bytes([flag])))
    yield one("contiguous file", Raw(b"contiguous", b"x", flag=b"7"), outcome=APPLIED)
    for flag in (b"3", b"4", b"5", b"6"):
        yield one(f"content for type {flag!r}", Raw(b"odd", b"content", flag=flag))
    for number in (4096, 2**20, 2**21 - 1, base256(-1, 8), base256(2**32, 8), b"zzz"):
        yield one(f"major number {number!r}", Raw(b"dev", flag=b"3", rdev=(number, 0)))
    for number in (2**20, 2**21 - 1, base256(-1, 8), base256(2**32 + 3, 8), b"zzz"):
        yield one(f"minor number {number!r}", Raw(b"dev", flag=b"4", rdev=(0, number)))
    yield one("device of an old archive", Raw(b"dev", flag=b"3", magic=b"", rdev=(1, 3)))
    huge = pax((b"SCHILY.devmajor", b"99999999999"))
    yield one("major number in an extended header", huge, Raw(b"dev", flag=b"3", rdev=(1, 3)))
    for name in (b"file", b"fifo", b"socket", b"link", b"hard1", b"dir/file"):
        for flag, rest in ((b"3", {"rdev": (1, 3)}), (b"6", {}), (b"0", {"data": b"new"}), (b"2", {"link": b"x"})):
            parents = [directory(b"dir")] if b"/" in name else []
            made = Raw(name, flag=flag, **rest)  # type: ignore[arg-type]
            yield one(f"type {flag!r} at {name!r}", *parents, made, outcome=APPLIED)
        if b"/" not in name:
            inside = directory(name), Raw(name + b"/inside", b"x")
            yield one(f"directory at {name!r}", *inside, outcome=APPLIED)


def duplicates() -> Iterator[Case]:
    file, link, fifo = Raw(b"same", b"x"), Raw(b"same", flag=b"2", link=b"file"), Raw(b"same", flag=b"6")
    folder, hard = directory(b"same"), Raw(b"same", flag=b"1", link=b"./secret")
    kinds = {"file": file, "link": link, "fifo": fifo, "directory": folder, "hard link": hard}
    for first, one_ in kinds.items():
        for second, other in kinds.items():
            twice = first == second == "directory"
            yield one(f"{first} and {second} of one name", SECRET, one_, other, outcome=APPLIED if twice else REJECTED)
    yield one("one name spelled twice", file, Raw(b"./same", b"y"))
    yield one("one name spelled twice, slashes", directory(b"d"), Raw(b"d/x", b"1"), Raw(b"./d//x", b"2"))
    yield one("root twice", directory(b".", mtime=5), outcome=APPLIED)
    yield one("file below a file", file, Raw(b"same/x", b"y"))
    yield one("file below a later file", Raw(b"same/x", b"y"), file)
    yield one("file below a FIFO", fifo, Raw(b"same/x", b"y"))
    yield one("file below a hard link", SECRET, hard, Raw(b"same/x", b"y"))
    yield one("file in no directory", Raw(b"missing/x", b"y"))
    yield one("file deep in no directory", Raw(b"missing/and/deep/x", b"y"))
    yield one("file before its directory", Raw(b"d/x", b"y"), directory(b"d"), outcome=APPLIED)


def headers() -> Iterator[Case]:
    def patched(at: int, data: bytes) -> Raw:
        return Raw(b"x", b"content", patches=((at, data),))

    for text in (b"\0" * 8, b" " * 8, b"000000\0 ", b"777777\0 ", b"-00001\0 ", b"zzzzzz\0 ", b"\x80" + b"\0" * 7):
        yield one(f"checksum {text!r}", Raw(checksum=text))
    for field, at, width in (("mode", 100, 8), ("uid", 108, 8), ("gid", 116, 8), ("size", 124, 12), ("mtime", 136, 12)):
        for text in (b"99999", b"-1", b"0x10", b"1 2", b"1\x002", b"+5", b"1.5", b"\xc3\xa9"):
            yield one(f"{field} {text!r}", patched(at, text.ljust(width, b"\0")))
    for value in (-1, -(2**31), 2**32 - 1, 2**32, 2**40):
        yield one(f"uid {value}", Raw(uid=base256(value, 8)))
        yield one(f"gid {value}", Raw(gid=base256(value, 8)))
    yield one("uid 2**32-2", Raw(uid=base256(2**32 - 2, 8)), outcome=APPLIED)
    for value in (-1, -512, -(2**62), 2**62, 2**63 - 1, 2**63, 2**80):
        yield one(f"size {value}", Raw(size=base256(value, 12)))
    for value in (-1, -(2**40)):
        yield one(f"mtime {value}", Raw(mtime=base256(value, 12)), outcome=APPLIED)
    for value in (2**62 + 1, -(2**62) - 1, 2**80):
        yield one(f"mtime {value}", Raw(mtime=base256(value, 12)))
    yield one("mode of more than its bits", Raw(mode=0o7777777))
    yield one("mode with the type's bits", Raw(mode=0o104755), outcome=APPLIED)
    for magic in (b"ustar\x01\x01\x01", b"ustar\0\0\0", b"USTAR\x0000", b"ustarx00", b"ustar  x"):
        known = magic in (b"ustar\0\0\0", b"USTAR\x0000")
        yield one(f"magic {magic!r}", Raw(magic=magic), outcome=APPLIED if known else REJECTED)
    yield Case("no header at all", b"\xff" * 10240)
    yield Case("text", b"#!/bin/sh\nrm -rf /\n" * 100)
    yield Case("content that looks like a header", archive(ROOT, Raw(b"x", Raw(b"../y", b"z").bytes())), APPLIED)
    yield one("size one block too small", Raw(b"x", size=BLOCK), padded(b"1") + padded(b"2"))
    yield one("size one block too large", Raw(b"x", b"1" * BLOCK, size=2 * BLOCK))


def extended_headers() -> Iterator[Case]:
    def body(data: bytes, flag: bytes = b"x") -> Raw:
        return Raw(b"PaxHeaders/x", data, flag)

    for data in (
        *(b"\n", b"x\n", b"5 a=\n" + b"x", b"4 a\n", b"0 a=b\n", b"-6 a=b\n", b"06 a=b\n", b"999 a=b\n", b" 6 a=b\n"),
        *(b"6 a=b ", b"6 =bc\n", b"7 a\0=b\n", b"99999999999999999999 a=b\n", b"6 a=b\n\0", b"6\ta=b\n", b"\xff" * 20),
    ):
        yield one(f"records {data[:24]!r}", body(data), Raw())
        yield one(f"records {data[:24]!r} for all", body(data, b"g"), Raw())
    yield one("no records", body(b"", b"x"), Raw())
    yield one("records of two megabytes", pax((b"comment", b"x" * (2 << 20))), Raw())
    yield one("records of a terabyte", Raw(b"PaxHeaders/x", flag=b"x", size=1 << 40), Raw())
    yield one("many comments", pax(*[(b"comment", b"x" * 100)] * 100), Raw(), outcome=APPLIED)
    for key in (b"path", b"size", b"uid", b"mtime", b"SCHILY.xattr.user.a", b"linkpath", b"GNU.sparse.map"):
        yield one(f"{key!r} twice", pax((key, b"1"), (key, b"2")), Raw())
    for key in (b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"GNU.sparse.name"):
        yield one(f"{key!r} empty", pax((key, b"")), Raw())
    for key in (b"size", b"uid", b"gid", b"SCHILY.devmajor"):
        for value in (b"-1", b"1.0", b"0x1", b"1e3", b" 1", b"99999999999999999999", b"9" * 5000, b"\xd9\xa1"):
            yield one(f"{key!r} of {value[:24]!r}", pax((key, value)), Raw(flag=b"3" if b"SCHILY" in key else b"0"))
    for value in (b"abc", b"1e10", b"nan", b"inf", b"--1", b"1.2.3", b"+1", b" 1", b"1,5", b"9" * 30, b"-" + b"9" * 20):
        yield one(f"time {value!r}", pax((b"mtime", value)), Raw())
    for value in (b"1.", b"-1.5", b"-0.000000001", b"1234567890.123456789999", b"0", b"4294967296.5"):
        yield one(f"time {value!r}", pax((b"mtime", value)), Raw(), outcome=APPLIED)
    yield one("path with NUL", pax((b"path", b"a\0/../../x")), Raw())
    yield one("long name with NUL", long_name(b"a\0/../../x"), Raw())
    yield one("long name of nothing", Raw(b"././@LongLink", b"\0" * 20, b"L", magic=b"ustar  "), Raw())
    yield one(
        "size that makes content of an entry",
        pax((b"size", b"1536")),
        Raw(b"x", b"123"),
        Raw(b"y", b"456"),
        outcome=APPLIED,
    )
    yield one("size that uncovers an entry", pax((b"size", b"0")), Raw(b"x", Raw(b"../y", b"z").bytes()))
    yield one("size in two ways that agree", pax((b"size", b"3")), Raw(b"x", b"123"), outcome=APPLIED)
    yield one("two extended headers", pax((b"path", b"a")), pax((b"path", b"b")), Raw())
    yield one("two long names", long_name(b"a"), long_name(b"b"), Raw())
    yield one("two long links", long_name(b"a", b"K"), long_name(b"b", b"K"), Raw(flag=b"2"))
    yield one("two ways of naming", long_name(b"a"), pax((b"path", b"b")), Raw())
    yield one("two ways of linking", long_name(b"a", b"K"), pax((b"linkpath", b"b")), Raw(flag=b"2", link=b"c"))
    yield one("extended header of nothing", pax((b"path", b"a")))
    yield one("long name of nobody", long_name(b"a"))
    yield one("header for all after one for one", pax((b"path", b"a")), pax((b"comment", b"x"), flag=b"g"), Raw())
    for key in (b"path", b"size", b"uid", b"mtime", b"linkpath", b"SCHILY.xattr.user.a", b"GNU.sparse.name"):
        yield one(f"{key!r} of all", pax((key, b"1"), flag=b"g"), Raw())
    yield one("comment of all", pax((b"comment", b"0123abc"), flag=b"g"), Raw(), outcome=APPLIED)
    yield one("names in another charset", pax((b"hdrcharset", b"ISO-IR 8859 1 1998"), (b"path", b"\xe9")), Raw())
    yield one("names as bytes", pax((b"hdrcharset", b"BINARY"), (b"path", b"\xe9")), Raw(), outcome=APPLIED)
    for key in (b"SCHILY.realsize", b"SCHILY.filetype", b"SCHILY.acl.ace", b"GNU.volume.label", b"GNU.dumpdir"):
        yield one(f"{key!r}", pax((key, b"1")), Raw())


def attributes() -> Iterator[Case]:
    def dressed(*pairs: tuple[bytes, bytes], on: Raw | None = None) -> tuple[Raw, Raw]:
        return pax(*((b"SCHILY.xattr." + name, value) for name, value in pairs)), on or Raw(b"x", b"y")

    link, fifo = Raw(b"x", flag=b"2", link=b"y"), Raw(b"x", flag=b"6")
    yield one("attribute without a name", *dressed((b"", b"v")))
    yield one("attribute with a name of 256 bytes", *dressed((b"user." + b"n" * 251, b"v")))
    yield one("attribute of 70,000 bytes", *dressed((b"user.large", b"v" * 70_000)))
    yield one("attribute of 60,000 bytes", *dressed((b"user.large", b"v" * 60_000)), outcome=EITHER)
    yield one(
        "attributes of 30,000 bytes together",
        *dressed(*((b"user.%d" % n, b"v" * 300) for n in range(100))),
        outcome=EITHER,
    )
    for name in (b"nonsense", b"nonsense.x", b"user", b"user.", b"system.nonsense", b"os2.x", b"security", b"user"):
        if name != b"user":
            yield one(f"attribute {name!r}", *dressed((name, b"v")), outcome=EITHER)
    yield one("attribute of users on a link", *dressed((b"user.a", b"v"), on=link))
    yield one("attribute of users on a FIFO", *dressed((b"user.a", b"v"), on=fifo))
    yield one("trusted attribute on a link", *dressed((b"trusted.a", b"v"), on=link), outcome=APPLIED)
    yield one("attribute of nothing", *dressed((b"user.a", b"")), outcome=APPLIED)
    yield one("capability of three bytes", *dressed((b"security.capability", b"abc")))
    yield one(
        "capability", *dressed((b"security.capability", struct.pack("<5I", 0x02000001, 1, 0, 0, 0))), outcome=APPLIED
    )
    namespaced = struct.pack("<6I", 0x03000001, 1, 0, 0, 0, 0)
    yield one("capability of a user namespace", *dressed((b"security.capability", namespaced)), outcome=EITHER)
    acl, default = b"system.posix_acl_access", b"system.posix_acl_default"
    valid = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *e) for e in ((1, 6, 2**32 - 1), (4, 4, 2**32 - 1), (32, 4, 2**32 - 1))
    )
    for name, value in (
        ("short", b"\2\0\0\0"),
        ("wrong version", b"\3\0\0\0" + valid[4:]),
        ("half", valid[:-4]),
        ("mad", valid[:6] + b"\xff" * 22),
    ):
        yield one(
            f"{name} access control list", *dressed((acl, value)), outcome=EITHER if name == "short" else REJECTED
        )
    yield one("access control list on a link", *dressed((acl, valid), on=link))
    yield one("default access control list on a file", *dressed((default, valid)))
    for text in (
        *(b"", b"user::rwx", b"user::rwx,group::r-x", b"user::rw,group::r--,other::r--", b"u::rwx,g::r-x,o::r-x"),
        *(b"user::rwx,user:1000:rwx,group::r-x,other::---", b"user::rwx,user:bob:rwx,group::r-x,mask::rwx,other::---"),
        *(
            b"user::rwx,user:4294967295:rwx,group::r-x,mask::rwx,other::---",
            b"user::rw-,user::rw-,group::r--,other::r--",
        ),
        *(
            b"user::rwx,user:1:rwx,user:1:r--,group::r-x,mask::rwx,other::---",
            b"\0",
            b":::",
            b"user::rwx\0,group::r-x,other::r-x",
        ),
    ):
        yield one(f"access control list {text!r}", pax((b"SCHILY.acl.access", text)), Raw())
    named = b"user::rw-,user:bob:r--:1000,group::r--,mask::r--,other::r--"
    yield one("access control list with names and numbers", pax((b"SCHILY.acl.access", named)), Raw(), outcome=APPLIED)
    against = b"user::rwx,user:1000:rwx,group::rwx,mask::rwx,other::rwx"
    yield one("access control list against the mode", pax((b"SCHILY.acl.access", against)), Raw(mode=0))
    other = b"LIBARCHIVE.xattr.user.a"
    yield one("attribute that cannot be decoded", pax((other, b"!!!")), Raw())
    yield one("attribute in two ways", pax((other, base64.b64encode(b"1")), (b"SCHILY.xattr.user.a", b"2")), Raw())
    yield one("attribute with NUL in its name", pax((b"LIBARCHIVE.xattr.user.a%00b", b"MQ")), Raw())
    yield one(
        "attributes of a hard link",
        SECRET,
        pax((b"SCHILY.xattr.user.a", b"1")),
        Raw(b"h", flag=b"1", link=b"secret"),
        outcome=APPLIED,
    )


def old_sparse(
    pairs: list[tuple[int, int]], realsize: int, data: bytes, *, more: bytes = b"", goes_on: bool = False
) -> bytes:
    text = b"".join(b"%011o\0%011o\0" % pair for pair in pairs)
    patches = (
        (386, text),
        (482, bytes([goes_on])),
        (483, b"%011o\0" % realsize if realsize >= 0 else base256(realsize, 12)),
    )
    return Raw(b"sparse", flag=b"S", size=len(data), magic=b"ustar  ", patches=patches).header() + more + padded(data)


def sparse_files() -> Iterator[Case]:
    block = b"x" * BLOCK
    yield one("sparse", old_sparse([(1024, 512), (4096, 0)], 4096, block), outcome=APPLIED)
    yield one("sparse, all hole", old_sparse([(4096, 0)], 4096, b""), outcome=APPLIED)
    yield one("sparse, parts overlap", old_sparse([(0, 512), (256, 512)], 4096, block * 2))
    yield one("sparse, parts go back", old_sparse([(2048, 512), (0, 512)], 4096, block * 2))
    yield one("sparse, part beyond the end", old_sparse([(4096, 512)], 4096, block))
    yield one("sparse, less than stored", old_sparse([(0, 256)], 4096, block))
    yield one("sparse, more than stored", old_sparse([(0, 1024)], 4096, block))
    yield one("sparse, size below zero", old_sparse([(0, 512)], -1, block))
    for offset in (2**33 - 1, 2**33):
        yield one(f"sparse, offset {offset}", old_sparse([(offset - 1, 512)], offset, block))
    yield one(
        "sparse, offset below zero",
        old_sparse([], 4096, block).replace(bytes(24), base256(-512, 12) + b"%011o\0" % 512, 1),
    )
    yield one("sparse, says more follows", old_sparse([(0, 512)], 4096, block, goes_on=True))
    endless = (b"%011o\0%011o\0" % (0, 0)).ljust(504, b"\0") + b"\1" + bytes(7)
    yield one("sparse, a thousand empty lists", old_sparse([(0, 512)], 4096, block, more=endless * 1000, goes_on=True))
    for size in (2**40, 2**60, 2**63 - 1):
        yield one(f"sparse bomb of {size}", bomb(size))

    def extended(*pairs: tuple[bytes, bytes], data: bytes = block) -> tuple[Raw, Raw]:
        return pax(*((b"GNU.sparse." + key, value) for key, value in pairs)), Raw(b"sparse", data)

    size, count, one_map = (b"size", b"4096"), (b"numblocks", b"1"), (b"map", b"0,512")
    yield one("sparse 0.1", *extended(size, count, one_map), outcome=APPLIED)
    yield one("sparse 0.1, odd", *extended(size, count, (b"map", b"0,512,4096")))
    yield one("sparse 0.1, other number", *extended(size, (b"numblocks", b"2"), one_map))
    yield one("sparse 0.1, no number", *extended(size, count, (b"map", b"0,x")))
    yield one("sparse 0.1, empty", *extended(size, count, (b"map", b"")))
    yield one("sparse 0.1, below zero", *extended(size, count, (b"map", b"-512,512")))
    yield one("sparse 0.1, too large", *extended(size, count, (b"map", b"99999999999999999999,512")))
    yield one("sparse 0.1, without a size", *extended(count, one_map))
    yield one("sparse 0.1, bomb", *extended((b"size", b"%d" % 2**62), count, one_map))
    yield one("sparse 0.1, two lists", *extended(size, count, one_map, (b"offset", b"0"), (b"numbytes", b"512")))
    offset, length = (b"offset", b"0"), (b"numbytes", b"512")
    yield one("sparse 0.0", *extended(size, count, offset, length), outcome=APPLIED)
    yield one("sparse 0.0, half a pair", *extended(size, count, offset))
    yield one("sparse 0.0, pairs turned round", *extended(size, count, length, offset))
    yield one("sparse 0.0, no number", *extended(size, count, offset, (b"numbytes", b"")))
    form = ((b"major", b"1"), (b"minor", b"0"))
    real = (b"realsize", b"4096")
    yield one("sparse 1.0", *extended(*form, real, data=padded(b"1\n0\n512\n") + block), outcome=APPLIED)
    parts = [(n * 1024, 512) for n in range(200)]
    long_map = padded(b"200\n" + b"".join(b"%d\n%d\n" % pair for pair in parts))
    yield one(
        "sparse 1.0, long", *extended(*form, (b"realsize", b"400000"), data=long_map + block * 200), outcome=APPLIED
    )
    for text in (
        b"x\n",
        b"1\n0\n",
        b"2\n0\n512\n",
        b"-1\n",
        b"99999999\n",
        b"999999999999999999999\n",
        b"1\n0\n-5\n",
        b"1\n\n512\n",
        b"\n",
    ):
        yield one(f"sparse 1.0 {text!r}", *extended(*form, real, data=padded(text) + block))
    yield one("sparse 1.0, list without an end", *extended(*form, real, data=b"1" * 5120))
    yield one("sparse 1.0, nothing stored", *extended(*form, real, data=b""))
    yield one("sparse 1.0, without a size", *extended(*form, data=padded(b"1\n0\n512\n") + block))
    yield one("sparse 2.0", *extended((b"major", b"2"), (b"minor", b"0"), real))
    yield one("sparse directory", pax((b"GNU.sparse.size", b"4096"), (b"GNU.sparse.numblocks", b"0")), directory(b"d"))
    yield one("sparse name that leads out", *extended(size, count, one_map, (b"name", b"../x")))
    yield one(
        "sparse name against the other", pax((b"GNU.sparse.name", b"real"), (b"path", b"../x")), Raw(), outcome=EITHER
    )


def bomb(size: int) -> bytes:
    patches = ((386, b"%011o\0%011o\0" % (0, 512)), (483, base256(size, 12)))
    return Raw(b"sparse", flag=b"S", size=512, magic=b"ustar  ", patches=patches).header() + b"x" * 512


def ends() -> Iterator[Case]:
    whole = archive(ROOT, Raw(b"a", b"1" * 700), directory(b"d"), Raw(b"d/b", b"2"))
    for at in range(0, len(whole), BLOCK):
        yield Case(f"cut after {at // BLOCK} blocks", whole[:at])
    for at in (1, 100, 511, 513, 1535, len(whole) - 1):
        yield Case(f"cut after {at} bytes", whole[:at])
    yield Case("half an end mark, then an entry", archive(ROOT, bytes(BLOCK), Raw()))
    yield Case("half an end mark", archive(ROOT, Raw(), end=bytes(BLOCK)))
    yield Case("an entry behind the end", archive(ROOT, Raw()) + Raw(b"behind").bytes() + END)
    yield Case("garbage behind the end", archive(ROOT, Raw()) + b"x")
    yield Case("garbage far behind the end", archive(ROOT, Raw()) + bytes(1 << 20) + b"x")
    yield Case("padding", archive(ROOT, Raw()) + bytes(9216), APPLIED)
    yield Case("odd padding", archive(ROOT, Raw()) + bytes(100), APPLIED)
    yield Case("five megabytes of padding", archive(ROOT, Raw()) + bytes(5 << 20))
    yield Case("nothing", b"")
    yield Case("an end mark and nothing else", END)


def packings() -> Iterator[Case]:
    tar = archive(ROOT, Raw(b"x", b"content" * 1000))
    for name, pack in (("gzip", gzipped), ("xz", xzipped), ("zstd", zstandard)):
        packed = pack(tar)
        yield Case(f"{name}", packed, APPLIED)
        for at in (1, 2, 3, 5, 10, 11, len(packed) // 2, len(packed) - 9, len(packed) - 4, len(packed) - 1):
            yield Case(f"{name} cut after {at} bytes", packed[:at])
        yield Case(f"{name}, then garbage", packed + b"garbage")
        yield Case(f"{name}, then one byte", packed + b"\0")
        yield Case(f"{name}, then the tar itself", packed + tar)
        yield Case(f"{name} in two parts", pack(tar[:1000]) + pack(tar[1000:]), APPLIED)
        yield Case(f"{name}, then another packing", packed + (xzipped if name != "xz" else gzipped)(b""))
        yield Case(f"{name} of {name}", pack(packed))
        yield Case(f"{name} of nothing", pack(b""))
        yield Case(f"{name} of text", pack(b"hello\n" * 500))
        yield Case(f"{name} of a cut tar", pack(tar[:1024]))
        yield Case(f"{name} of a good tar and a bad one", pack(tar) + pack(archive(Raw(b"../x"))))
        yield Case(f"{name} of 300 MiB of padding", pack(tar + bytes(300 << 20)))
        filled = pack(bytes(1 << 20)) * 5
        yield Case(f"{name} of padding in many parts", packed + filled)
    gz = gzipped(tar)
    yield Case("gzip with a wrong checksum", gz[:-8] + bytes(a ^ 1 for a in gz[-8:-4]) + gz[-4:])
    yield Case("gzip with a wrong length", gz[:-4] + bytes(a ^ 1 for a in gz[-4:]))
    yield Case("gzip of another method", gz[:2] + b"\7" + gz[3:])
    yield Case("gzip with a thousand empty members", gzipped(b"") * 1000 + gz, APPLIED)
    yield Case("zlib", zlib.compress(tar))
    yield Case("compress", b"\x1f\x9d\x90" + tar)
    yield Case("bzip2", b"BZh91AY&SY" + tar)
    yield Case("zip", b"PK\x03\x04" + tar)
    yield Case("cpio", b"070701" + b"0" * 104 + b"x\0" + bytes(600))
    yield Case("lzma without a container", lzma.compress(tar, format=lzma.FORMAT_ALONE))
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
    big = bytearray(lzma.compress(tar, filters=filters))
    yield Case("xz that wants a gigabyte", large_dictionary(bytes(big)))
    xz = bytearray(xzipped(tar))
    xz[len(xz) // 2] ^= 1
    yield Case("xz with a wrong bit", bytes(xz))
    zs = bytearray(zstd.compress(tar, options={zstd.CompressionParameter.checksum_flag: 1}))
    zs[-1] ^= 1
    yield Case("zstd with a wrong checksum", bytes(zs))
    # A frame header without a content size, and a window descriptor of 2**31 bytes and more.
    yield Case("zstd that wants two gigabytes", b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + zstandard(tar)[6:])
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    yield Case("zstd with a frame to be passed over", zstandard(tar) + skippable, APPLIED)
    yield Case("zstd that wants a dictionary", b"\x28\xb5\x2f\xfd\x01\x58\x07" + zstandard(tar)[6:])
    huge = Raw(b"huge", size=1 << 42).header()
    yield Case("gzip of a file of four terabytes", gzipped(ROOT.bytes() + huge + bytes(1 << 20)))
    yield Case("zstd of a file of four terabytes", zstandard(ROOT.bytes() + huge + bytes(1 << 20)))


def large_dictionary(packed: bytes) -> bytes:
    """An .xz whose block header asks for a dictionary of 1.5 GiB."""
    header = bytearray(packed[12 : 12 + 12])
    assert header[2] == 0x21
    header[4] = 37
    header[8:12] = struct.pack("<I", zlib.crc32(bytes(header[:8])))
    return packed[:12] + bytes(header) + packed[24:]


def whiteouts() -> Iterator[Case]:
    def mark(name: bytes, **rest: object) -> Raw:
        return Raw(name, **rest)  # type: ignore[arg-type]

    good: dict[str, tuple[Raw, ...]] = {
        "of a file": (mark(b".wh.file"),),
        "of a directory": (mark(b".wh.dir"),),
        "of a link, not of what it leads to": (mark(b".wh.out"),),
        "of nothing": (mark(b".wh.missing"),),
        "of a socket": (mark(b".wh.socket"),),
        "below a link": (mark(b"out/.wh.secret"),),
        "in no directory": (mark(b"missing/.wh.x"),),
        "of a first name": (mark(b".wh.hard1"),),
        "of what comes again": (mark(b".wh.dir"), directory(b"dir"), Raw(b"dir/new", b"x")),
        "of what came before": (directory(b"dir"), Raw(b"dir/new", b"x"), mark(b".wh.dir")),
        "opaque": (directory(b"dir"), mark(b"dir/.wh..wh..opq"), Raw(b"dir/new", b"x")),
        "opaque after": (directory(b"dir"), Raw(b"dir/new", b"x"), mark(b"dir/.wh..wh..opq")),
        "opaque root": (mark(b".wh..wh..opq"), Raw(b"only", b"x")),
        "opaque file": (mark(b"file/.wh..wh..opq"),),
        "twice": (mark(b".wh.file"), mark(b".wh.file")),
    }
    for name, members in good.items():
        yield one(f"whiteout {name}", *members, outcome=APPLIED, layers=(True,))
        yield one(f"whiteout {name}, as a full system", *members, layers=(False,))
    bad: dict[str, tuple[Raw, ...]] = {
        "of nobody": (mark(b".wh."),),
        "of here": (mark(b".wh.."),),
        "of above": (mark(b".wh..."),),
        "that leads out": (mark(b"../.wh.outside"),),
        "that is absolute": (mark(b"/.wh.etc"),),
        "that is a directory": (directory(b".wh.file"),),
        "that is a link": (mark(b".wh.file", flag=b"2", link=b"../outside"),),
        "that is a hard link": (SECRET, mark(b".wh.file", flag=b"1", link=b"secret")),
        "that is a device": (mark(b".wh.file", flag=b"3"),),
        "with content": (mark(b".wh.file", data=b"x"),),
        "of AUFS": (directory(b".wh..wh.plnk"),),
        "of AUFS, a file": (mark(b".wh..wh.aufs"),),
        "with something below": (mark(b".wh.dir"), Raw(b"dir/new", b"x")),
        "of the target of a hard link": (mark(b".wh.file"), Raw(b"new", flag=b"1", link=b"file")),
        "opaque, hiding the target of a hard link": (
            directory(b"dir"),
            mark(b"dir/.wh..wh..opq"),
            Raw(b"new", flag=b"1", link=b"dir/file"),
        ),
    }
    for name, members in bad.items():
        yield one(f"whiteout {name}", *members)
    yield one("layer over a directory that is a link", Raw(b"out/new", b"x"))
    yield one("layer with a hard link through a link", Raw(b"new", flag=b"1", link=b"out/secret"), layers=(True,))
    yield one("layer with a hard link to a socket", Raw(b"new", flag=b"1", link=b"socket"), layers=(True,))
    yield one(
        "layer with a hard link to the base", Raw(b"new", flag=b"1", link=b"file"), outcome=APPLIED, layers=(True,)
    )
    cut = Raw(b"dir", b"x"), Raw(b"new", flag=b"1", link=b"dir/file")
    yield one("layer with a hard link below what is no directory any more", *cut, layers=(True,))
    yield one("layer with a file in the place of a directory", Raw(b"dir", b"x"), outcome=APPLIED, layers=(True,))
    yield one("layer with a record of its own", record(b"a", b"b"))
