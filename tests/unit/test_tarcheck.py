"""The strict reading of tar headers: numbers, records, lists, and that it does not matter how a stream is cut up."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tbdiff import acl
from tbdiff.entry import Kind
from tbdiff.errors import Rejected
from tbdiff.tar import header as tarheader
from tbdiff.tar.check import Member, Scan
from tbdiff.tar.pax import Pax, records
from tests.tarballs import Raw, archive, base256, directory, long_name, number, padded, pax, record

BLOCK = 512
SPARSE_MAP = padded(b"2\n0\n512\n4096\n512\n")
STREAM = archive(
    pax((b"comment", b"of all"), flag=b"g"),
    directory(),
    pax((b"path", b"dir/caf\xc3\xa9"), (b"mtime", b"-1.5"), (b"SCHILY.xattr.user.a", b"\0\n=")),
    Raw(b"short", b"1" * 1300),
    directory(b"dir"),
    long_name(b"n" * 200),
    Raw(b"n", flag=b"2", link=b"x"),
    pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"8192")),
    Raw(b"sparse", SPARSE_MAP + b"d" * 1024),
    Raw(b"hard", flag=b"1", link=b"./dir//caf\xc3\xa9"),
    Raw(b"null", flag=b"3", rdev=(1, 3)),
)


def scanned(pieces: list[bytes]) -> list[Member]:
    scan = Scan()
    for piece in pieces:
        scan.feed(piece)
    scan.finish()
    return list(scan.members)


def test_what_is_read() -> None:
    entries = {member.entry.path: member.entry for member in scanned([STREAM])}
    cafe = entries[b"dir/caf\xc3\xa9"]
    assert (cafe.kind, cafe.size, cafe.mtime, cafe.xattrs) == (
        Kind.FILE,
        1300,
        -1_500_000_000,
        ((b"user.a", b"\0\n="),),
    )
    assert entries[b"n" * 200].link == b"x"
    assert (entries[b"sparse"].size, entries[b"sparse"].extents) == (8192, ((0, 512), (4096, 512)))
    assert entries[b"hard"].link == cafe.path
    assert entries[b"null"].rdev == (1, 3)
    assert set(entries) == {b"", b"dir", b"dir/caf\xc3\xa9", b"n" * 200, b"sparse", b"hard", b"null"}


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
@example(list(range(len(STREAM))))
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    assert scanned([STREAM[a:b] for a, b in pairwise(places)]) == scanned([STREAM])


@given(st.binary(max_size=3000), st.integers(0, len(STREAM)), st.integers(0, 3000))
def test_nothing_but_refusal(junk: bytes, at: int, over: int) -> None:
    for stream in (junk, STREAM[:at] + junk + STREAM[at + over :], STREAM[:at] + STREAM[at + over :]):
        try:
            scanned([stream])
        except Rejected as error:
            assert str(error).isprintable()


@given(st.integers(-(2**94), 2**94 - 1))
def test_numbers(value: int) -> None:
    assert tarheader.number(base256(value, 12)) == value
    if 0 <= value < 8**11:
        assert tarheader.number(number(value, 12)) == value


@pytest.mark.parametrize("text", [b"7 ", b"   7\0", b"0000007\0", b"7\0\0 ", b"7" + b" " * 11])
def test_ways_to_write_seven(text: bytes) -> None:
    assert tarheader.number(text) == 7


def test_no_number_is_zero() -> None:
    assert tarheader.number(bytes(12)) == tarheader.number(b" " * 12) == 0


@given(st.lists(st.tuples(st.binary(min_size=1).filter(lambda k: not {0, 61} & set(k)), st.binary())))
def test_records(pairs: list[tuple[bytes, bytes]]) -> None:
    assert list(records(b"".join(record(key, value) for key, value in pairs))) == pairs


@given(st.integers(-(10**28), 10**28))
def test_times(nanoseconds: int) -> None:
    sign, (seconds, rest) = "-" * (nanoseconds < 0), divmod(abs(nanoseconds), 10**9)
    text = f"{sign}{seconds}.{rest:09}".encode()
    assert Pax(record(b"mtime", text)).time(b"mtime") == nanoseconds


def test_attributes_of_two_makers() -> None:
    both = Pax(record(b"SCHILY.xattr.user.a%20b", b"1") + record(b"LIBARCHIVE.xattr.user.a%20b", b"MQ"))
    assert both.xattrs() == ((b"user.a b", b"1"),)
    gnu = Pax(record(b"SCHILY.xattr.user.a%20b%3Dc%25", b"1") + record(b"RHT.security.selinux", b"u:r:t"))
    assert gnu.xattrs() == ((b"security.selinux", b"u:r:t\0"), (b"user.a%20b=c%", b"1"))


def test_access_control_lists() -> None:
    nobody = 2**32 - 1
    value = acl.from_text(b"user::rwx\nuser:7:r--\t#effective:r--\nuser:bob:-w-:5\ngroup::r-x,mask::rwx,other::---\n")
    entries = [(1, 7, nobody), (2, 2, 5), (2, 4, 7), (4, 5, nobody), (16, 7, nobody), (32, 0, nobody)]
    assert value == struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    assert not acl.is_minimal(value)
    minimal = b"user::rwx,group::r-x,other::---"
    assert acl.is_minimal(acl.from_text(minimal))
    assert Pax(record(b"SCHILY.acl.access", minimal)).xattrs() == ()
    assert [name for name, _ in Pax(record(b"SCHILY.acl.default", minimal)).xattrs()] == [b"system.posix_acl_default"]
    exact = Pax(record(b"SCHILY.acl.access", minimal) + record(b"SCHILY.xattr.system.posix_acl_access", value))
    assert exact.xattrs() == ((b"system.posix_acl_access", value),)
