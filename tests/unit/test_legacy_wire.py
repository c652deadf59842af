"""Streams of the legacy format field by field: all that is right is read, in all dialects; nothing else is."""

from __future__ import annotations

import os
import random
import struct
import time
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbdiff.entry import Entry, Kind, Listing
from tbdiff.errors import NothingToDo, Rejected, Stop
from tbdiff.image import open_image
from tbdiff.legacy.commands import (
    EVERYTHING,
    START,
    ChangeDirectory,
    ChangeFile,
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
from tbdiff.legacy.encoding import END, encode
from tbdiff.legacy.plan import Send, steps
from tbdiff.legacy.wire import WINDOW, Dialect, Fields, commands
from tests.honest import differences
from tests.trees import NOON, Tree, acl, build, capability, device, directory, fifo, file, sparse, symlink

PLAIN = Stated(0o644, 1, 2, 1_600_000_000)
WITH_CONTENT = (MakeFile, PatchFile)


def stream(*parts: Command | bytes, end: bytes = END) -> bytes:
    """A stream of commands; bytes go in as they are."""
    return START + b"".join(part if isinstance(part, bytes) else encode(part) for part in parts) + end


def parsed(data: bytes) -> list[Command | bytes]:
    """The commands of a stream, contents behind their commands."""
    found: list[Command | bytes] = []
    for command in commands(Fields(BytesIO(data))):
        found.append(command)
        if isinstance(command, WITH_CONTENT):
            found.append(b"".join(command.pieces))
    return found


ALL: list[Command | bytes] = [
    MakeDirectory(b"d", PLAIN),
    Enter(b"d"),
    MakeFile(b"f", PLAIN, 3),
    b"abc",
    PatchFile(b"f", EVERYTHING, PLAIN, 1, 2, 4),
    b"wxyz",
    ChangeFile(b"f", Mask.MODE, PLAIN),
    SetXattrs(b"f", ((b"security.capability", capability(5)[1]), (b"user.a", b""), (b"user.z", b"123"))),
    MakeSymlink(b"l", b"../x", 3, 4, -5),
    SetXattrs(b"l", ()),
    MakeSpecial(b"fifo", Kind.FIFO, PLAIN),
    MakeSpecial(b"tty", Kind.CHAR, PLAIN, (4095, (1 << 20) - 1)),
    MakeSpecial(b"sda", Kind.BLOCK, PLAIN, (8, 300)),
    MakeSpecial(b"sock", None, PLAIN),
    SetXattrs(b"", ((b"user.here", b"h"),)),
    Leave(1 << 40),
    ChangeDirectory(b"d", EVERYTHING, PLAIN),
    ChangeDirectory(b"", Mask.MTIME, PLAIN),
    Delete(b"gone"),
]


def test_every_command_comes_back() -> None:
    assert parsed(stream(*ALL)) == ALL


def test_the_bytes_of_every_command() -> None:
    """By hand, from the description of the format."""
    stated = struct.pack("<qII", 7, 1, 2)
    change = struct.pack("<HqIII", 15, 7, 1, 2, 0o100644)
    seven = Stated(0o644, 1, 2, 7)
    by_hand = {
        MakeDirectory(b"n", seven): b"\x10\x01\x00n" + stated + struct.pack("<I", 0o40644),
        Enter(b"n"): b"\x11\x01\x00n",
        Leave(-1): b"\x12" + b"\xff" * 8,
        ChangeDirectory(b"n", EVERYTHING, seven): b"\x13" + change[:18] + struct.pack("<I", 0o40644) + b"\x01\x00n",
        MakeFile(b"n", seven, 9): b"\x20\x01\x00n" + struct.pack("<qIIII", 7, 0o100644, 1, 2, 9),
        PatchFile(b"n", EVERYTHING, seven, 3, 4, 5): b"\x21\x01\x00n" + change + struct.pack("<III", 3, 4, 5),
        ChangeFile(b"n", EVERYTHING, seven): b"\x22" + change + b"\x01\x00n",
        Delete(b"n"): b"\x32\x01\x00n",
        MakeSymlink(b"n", b"to", 1, 2, 7): b"\x40" + stated + b"\x01\x00n\x02\x00to",
        MakeSpecial(b"n", Kind.CHAR, seven, (5, 1)): b"\x50\x01\x00n" + struct.pack("<qIIII", 7, 0o20644, 1, 2, 0x501),
        SetXattrs(b"n", ((b"a", b"long"), (b"b", b"1"))): b"\x60\x01\x00n\x02\0\0\0"
        + (b"\x01\x00b" + struct.pack("<Q", 1) + b"1" + b"\x01\x00a" + struct.pack("<Q", 4) + b"long"),
    }
    for command, wanted in by_hand.items():
        assert encode(command) == wanted


def test_what_follows_the_end_is_ignored_and_not_named() -> None:
    fields = Fields(BytesIO(stream(*ALL) + b"anything"))
    assert len(list(commands(fields))) == len(ALL) - 2
    alone = Fields(BytesIO(stream(*ALL)))
    list(commands(alone))
    assert fields.digest() == alone.digest()


def test_short_reads() -> None:
    """The original could not read from a pipe."""

    class Dripping:
        def __init__(self) -> None:
            self.rest = BytesIO(stream(*ALL))

        def read(self, size: int, /) -> bytes:
            return self.rest.read(min(size, 1))

    assert list(map(type, commands(Fields(Dripping())))) == [type(c) for c in ALL if not isinstance(c, bytes)]


# --- dialects

VALUES: dict[str, list[tuple[bytes, bytes]]] = {
    "a capability": [(b"security.capability", b"\1\0\0\2" + bytes(16))],
    "empty": [(b"user.empty", b"")],
    "zeros": [(b"user.zeros", bytes(12))],
    "zeros first, then more": [(b"user.zeros", bytes(4)), (b"user.b", b"x" * 300), (b"user.c", b"")],
    "long": [(b"user.long", bytes(range(256)) * 200)],
}


def in_dialect(dialect: Dialect, name: bytes, pairs: list[tuple[bytes, bytes]]) -> bytes:
    parts = [b"\x60", struct.pack("<H", len(name)), name, struct.pack("<I", len(pairs))]
    for key, value in pairs:
        parts += [struct.pack("<H", len(key)), key, len(value).to_bytes(dialect.width, dialect.order), value]
    return b"".join(parts)


@pytest.mark.parametrize("what", VALUES)
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("width", [8, 4])
@pytest.mark.parametrize("rest", [0, 1, WINDOW * 2])
def test_lengths_of_all_machines(width: int, order: str, what: str, rest: int) -> None:
    dialect = Dialect(width, order)  # type: ignore[arg-type]
    pairs = VALUES[what]
    behind: list[Command | bytes] = [MakeFile(b"g", PLAIN, rest), bytes(rest), Delete(b"x")] if rest else []
    data = stream(
        MakeFile(b"f", PLAIN, 0), in_dialect(dialect, b"f", pairs), *behind, in_dialect(dialect, b"f", VALUES["long"])
    )
    found = [command for command in parsed(data) if isinstance(command, SetXattrs)]
    assert found == [SetXattrs(b"f", tuple(sorted(pairs))), SetXattrs(b"f", tuple(VALUES["long"]))]


@given(
    st.sampled_from([(8, "little"), (4, "little"), (8, "big"), (4, "big")]),
    st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), st.binary(max_size=20)), min_size=1, max_size=4),
)
def test_random_attributes_in_all_dialects(machine: tuple[int, str], drawn: list[tuple[str, bytes]]) -> None:
    pairs = {b"user." + key.encode(): value for key, value in drawn}
    # Only what cannot be anything else: of four zeros nobody can say whether they are a length.
    pairs = {key: b"v" + value for key, value in pairs.items()}
    dialect = Dialect(*machine)  # type: ignore[arg-type]
    data = stream(in_dialect(dialect, b"f", sorted(pairs.items())), Leave(5), Delete(b"a name"))
    assert parsed(data) == [SetXattrs(b"f", tuple(sorted(pairs.items()))), Leave(5), Delete(b"a name")]


def test_finding_the_dialect_takes_no_time() -> None:
    """Attributes that mean something in every dialect, again and again."""
    data = stream(*[SetXattrs(b"f", ((b"user.e", b""),))] * 60_000)
    began = time.process_time()
    assert len(parsed(data)) == 60_000
    assert time.process_time() - began < 20


# --- what is refused

BAD_NAMES = (b"", b".", b"..", b"/", b"a/b", b"/etc", b"../x", b"a\0b", b"\0", b"n" * 256)


def naming(name: bytes) -> list[Command]:
    return [
        MakeDirectory(name, PLAIN),
        Enter(name),
        ChangeDirectory(name, EVERYTHING, PLAIN),
        MakeFile(name, PLAIN, 0),
        PatchFile(name, EVERYTHING, PLAIN, 0, 0, 0),
        ChangeFile(name, EVERYTHING, PLAIN),
        Delete(name),
        MakeSymlink(name, b"x", 0, 0, 0),
        MakeSpecial(name, Kind.FIFO, PLAIN),
        SetXattrs(name, ()),
    ]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_elsewhere(name: bytes) -> None:
    here = (ChangeDirectory, SetXattrs)
    for command in naming(name):
        data = stream(command)
        if isinstance(command, here) and name in (b"", b"."):
            data = data.replace(b"\x01\x00.", b"\x00\x00")  # the encoder writes "." for the current directory
        with pytest.raises(Rejected):
            parsed(data)


def number(command: Command, old: int, new: int) -> bytes:
    """A command with one number replaced."""
    data = encode(command)
    assert data.count(struct.pack("<I", old)) == 1
    return data.replace(struct.pack("<I", old), struct.pack("<I", new))


MARK = Stated(0o644, 77_777, 88_888, 0)
BAD: dict[str, bytes] = {
    "no command": b"\x02",
    "a command of the future": b"\x30\x01\x00a",
    "named twice": START,
    "nobody as owner": number(MakeFile(b"f", MARK, 0), 77_777, 2**32 - 1),
    "nobody as group": number(ChangeDirectory(b"", EVERYTHING, MARK), 88_888, 2**32 - 1),
    "a directory's mode for a file": number(MakeFile(b"f", MARK, 0), 0o100644, 0o40644),
    "a file's mode for a directory": number(MakeDirectory(b"f", MARK), 0o40644, 0o100644),
    "a mode with more bits": number(MakeFile(b"f", MARK, 0), 0o100644, 0o100644 | 1 << 20),
    "a special file that is none": number(MakeSpecial(b"f", Kind.FIFO, MARK), 0o10644, 0o100644),
    "a special symlink": number(MakeSpecial(b"f", Kind.FIFO, MARK), 0o10644, 0o120644),
    "an unknown mask": encode(ChangeFile(b"f", Mask(0), PLAIN)).replace(b"\x22\0\0", b"\x22\0\x80"),
    "a patch backwards": encode(PatchFile(b"f", EVERYTHING, PLAIN, 5, 4, 0)),
    "an empty link": encode(MakeSymlink(b"l", b"", 0, 0, 0)),
    "a link with a NUL": encode(MakeSymlink(b"l", b"a\0b", 0, 0, 0)),
    "a link that is too long": encode(MakeSymlink(b"l", b"x" * 4096, 0, 0, 0)),
    "a time that no clock shows": encode(Leave(2**63 - 1)),
    "an attribute of no name": encode(SetXattrs(b"f", ((b"", b"v"),))),
    "an attribute with a NUL": encode(SetXattrs(b"f", ((b"user.\0", b"v"),))),
    "an attribute of a long name": encode(SetXattrs(b"f", ((b"user." + b"n" * 251, b"v"),))),
    "an attribute twice": encode(SetXattrs(b"f", ((b"user.a", b"v"), (b"user.a", b"w")))),
    "an attribute that is too long": encode(SetXattrs(b"f", ((b"user.a", bytes(65537)),))),
    "a terabyte of attribute": b"\x60\x01\0f\x01\0\0\0\x06\0user.a" + struct.pack("<Q", 1 << 40) + b"x",
    "too many attributes": encode(SetXattrs(b"f", tuple((b"user.%d" % n, bytes(60_000)) for n in range(18)))),
    "attributes without end": b"\x60\x01\0f\xff\xff\xff\xff",
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_refused(what: str) -> None:
    with pytest.raises(Rejected):
        parsed(stream(BAD[what]))


@pytest.mark.parametrize(
    "start", [b"", b"\0", START[:-1], b"\0\x12\0" + b"CodeThink:TBDIFFv0", b"\0\x12\0" + b"x" * 18]
)
def test_other_beginnings(start: bytes) -> None:
    with pytest.raises(Rejected):
        parsed(start)


def test_every_truncation() -> None:
    data = stream(*ALL)
    for size in range(len(data)):
        with pytest.raises(Rejected):
            parsed(data[:size])


# --- applied to a tree: exactly, or not at all

BASE: Tree = {
    b"": directory(),
    b"d/inside": file(b"in"),
    b"f": file(b"0123456789", xattrs=(("user.old", b"1"),)),
    b"cap": file(b"x", xattrs=(capability(1), ("user.u", b"1"))),
    b"listed": file(b"x", mode=0o640, xattrs=(acl(0o640, (1000, 6)),)),
    b"hard-1": file(b"one inode", group="g"),
    b"hard-2": file(b"one inode", group="g"),
    b"link": symlink(b"d"),
    b"out": symlink(b"../outside"),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    build(BASE, tmp_path / "tree")
    build(BASE, tmp_path / "pristine")
    build({b"secret": file(b"secret")}, tmp_path / "outside")
    build({b"secret": file(b"secret")}, tmp_path / "outside-pristine")
    return tmp_path


def apply(data: bytes, place: Path) -> None:
    (place / "image").write_bytes(data)
    with open_image(str(place / "image")) as image:
        image.apply(place / "tree")


def assert_rejected(data: bytes, place: Path) -> None:
    with pytest.raises(Rejected):
        apply(data, place)
    assert differences(place / "pristine", place / "tree") == []
    assert differences(place / "outside-pristine", place / "outside") == []


MISFITS: dict[str, list[Command | bytes]] = {
    "leaves the root": [Leave(0)],
    "leaves once too often": [Enter(b"d"), Leave(0), Leave(0), MakeFile(b"escaped", PLAIN, 0)],
    "enters a link": [Enter(b"link"), MakeFile(b"x", PLAIN, 0)],
    "enters a link to the outside": [Enter(b"out"), Delete(b"secret")],
    "enters a link of its own": [MakeSymlink(b"l", b"/", 0, 0, 0), Enter(b"l"), MakeFile(b"x", PLAIN, 0)],
    "enters a file": [Enter(b"f")],
    "enters nothing": [Enter(b"nothing")],
    "makes what is there": [MakeFile(b"f", PLAIN, 0)],
    "makes a directory that is there": [MakeDirectory(b"d", PLAIN)],
    "makes a link that is there": [MakeSymlink(b"link", b"x", 0, 0, 0)],
    "makes a device that is there": [MakeSpecial(b"f", Kind.CHAR, PLAIN, (1, 3))],
    "makes one thing twice": [MakeFile(b"n", PLAIN, 0), MakeFile(b"n", PLAIN, 0)],
    "changes a link": [ChangeFile(b"out", EVERYTHING, PLAIN)],
    "changes a directory as a file": [ChangeFile(b"d", EVERYTHING, PLAIN)],
    "changes a file as a directory": [ChangeDirectory(b"f", EVERYTHING, PLAIN)],
    "changes a link as a directory": [ChangeDirectory(b"out", EVERYTHING, PLAIN)],
    "changes nothing": [ChangeFile(b"nothing", EVERYTHING, PLAIN)],
    "patches a link": [PatchFile(b"out", EVERYTHING, PLAIN, 0, 0, 0)],
    "patches behind the end": [PatchFile(b"f", EVERYTHING, PLAIN, 0, 11, 0)],
    "removes nothing": [Delete(b"nothing")],
    "removes twice": [Delete(b"f"), Delete(b"f")],
    "removes much, then fails": [Delete(b"d"), Delete(b"f"), Delete(b"cap"), b"\x77"],
    "sets attributes of nothing": [SetXattrs(b"nothing", ())],
    "sets an attribute that none can have": [SetXattrs(b"f", ((b"nonsense", b"1"),))],
    "sets an attribute that a link cannot have": [SetXattrs(b"link", ((b"user.a", b"1"),))],
    "sets a damaged capability": [SetXattrs(b"f", ((b"security.capability", b"damaged"),))],
    "takes our own name": [MakeDirectory(b".tbdiff-staging", PLAIN)],
    "goes too deep": [part for _ in range(30) for part in (MakeDirectory(b"n" * 200, PLAIN), Enter(b"n" * 200))],
}


@pytest.mark.parametrize("what", MISFITS)
def test_streams_that_do_not_fit(what: str, place: Path) -> None:
    assert_rejected(stream(*MISFITS[what]), place)


def test_promised_content_that_does_not_come(place: Path) -> None:
    assert_rejected(stream(MakeFile(b"n", PLAIN, 2**32 - 1), b"short", end=b""), place)


def test_patches_that_cost_more_than_they_are(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of sixty bytes makes a device copy a whole file."""
    monkeypatch.setattr("tbdiff.legacy.content.COPIED_MAX", 1 << 24)
    for tree in ("tree", "pristine"):
        build({b"large": sparse(8 << 20)}, place / tree / "more")
    patch = PatchFile(b"large", EVERYTHING, PLAIN, 8 << 20, 8 << 20, 0)
    apply(stream(Enter(b"more"), *[patch] * 3), place)
    build({b"large": sparse(8 << 20, uid=1, gid=2, mtime=1_600_000_000 * 10**9)}, place / "once")
    assert differences(place / "once", place / "tree/more") == []
    with pytest.raises(Rejected, match="copies more"):
        apply(stream(Enter(b"more"), *[patch] * 4), place)


def test_everything_at_once(tmp_path: Path) -> None:
    dress = {"uid": 1, "gid": 2, "mtime": 1_600_000_000 * 10**9}
    build({b"gone/with/all": file(b"x"), b"stays": file()}, tmp_path / "tree")
    apply(stream(*ALL), tmp_path)
    target: Tree = {
        b"": directory(0o644, mtime=dress["mtime"]),
        b"d": directory(0o644, xattrs=(("user.here", b"h"),), **dress),
        b"d/f": file(b"awxyzc", xattrs=(capability(5), ("user.a", b""), ("user.z", b"123")), **dress),
        b"d/l": symlink(b"../x", uid=3, gid=4, mtime=-5 * 10**9),
        b"d/fifo": fifo(**dress),
        b"d/tty": device("char", 4095, (1 << 20) - 1, **dress),
        b"d/sda": device("block", 8, 300, **dress),
        b"stays": file(),
    }
    build(target, tmp_path / "target")
    assert differences(tmp_path / "target", tmp_path / "tree") == []


def test_the_modes_and_owners_of_special_cases(place: Path) -> None:
    """What the kernel does to attributes when the original changes mode and owner."""
    owner, mode = Stated(0o600, 9, 9, 5), Stated(0o604, 0, 0, 5)
    apply(
        stream(
            ChangeFile(b"cap", Mask.UID, owner),
            ChangeFile(b"listed", Mask.MODE, mode),
            ChangeFile(b"hard-1", Mask.MTIME, mode),
            PatchFile(b"f", EVERYTHING, PLAIN, 2, 4, 3),
            b"...",
        ),
        place,
    )
    target = dict(BASE)
    target[b"cap"] = file(b"x", mode=0o600, uid=9, gid=9, xattrs=(("user.u", b"1"),))
    for name in (b"hard-1", b"hard-2"):
        target[name] = file(b"one inode", mode=0o604, mtime=5 * 10**9, group="g")
    target[b"f"] = file(b"01...456789", uid=1, gid=2, mtime=1_600_000_000 * 10**9)
    build(target, place / "target")
    (place / "target/listed").chmod(0o604)  # the kernel's own way with access control lists
    os.utime(place / "target/listed", ns=(NOON, NOON))
    assert differences(place / "target", place / "tree") == []


SMALL = stream(
    MakeDirectory(b"n", PLAIN),
    Enter(b"n"),
    MakeFile(b"f", PLAIN, 3),
    b"abc",
    SetXattrs(b"f", ((b"user.a", b"1"), (b"user.b", b"22"))),
    MakeSymlink(b"l", b"..", 0, 0, 0),
    MakeSpecial(b"p", Kind.FIFO, PLAIN),
    Leave(1),
    PatchFile(b"f", EVERYTHING, PLAIN, 2, 4, 1),
    b"X",
    ChangeFile(b"cap", EVERYTHING, PLAIN),
    ChangeDirectory(b"", EVERYTHING, PLAIN),
    Delete(b"link"),
)


def test_every_truncation_leaves_the_tree(place: Path) -> None:
    for size in range(0, len(SMALL)):
        with pytest.raises(Stop) as stopped:
            apply(SMALL[:size], place)
        assert isinstance(stopped.value, Rejected), size
    assert differences(place / "pristine", place / "tree") == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [0x01, 0x80, 0xFF, 0x20])
def test_every_byte_flipped(how: int, place: Path) -> None:
    """Without a signature damage cannot always be seen; but nothing is outside, and no way out is a surprise."""
    for at in range(len(SMALL)):
        damaged = bytearray(SMALL)
        damaged[at] ^= how
        try:
            apply(bytes(damaged), place)
        except NothingToDo:
            pass
        except Rejected:
            assert differences(place / "pristine", place / "tree") == [], at
        else:
            os.rename(place / "tree", place / f"done-{at}")
            build(BASE, place / "tree")
    assert differences(place / "outside-pristine", place / "outside") == []


@given(st.randoms(use_true_random=False))
def test_random_bytes_in_the_place_of_commands(chance: random.Random) -> None:
    data = bytearray(stream(*ALL))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(START), len(data))
        data[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(5))
    try:
        parsed(bytes(data))
    except Rejected:
        pass


# --- plans


def listing(*entries: Entry) -> Listing:
    return Listing((Entry(b"", Kind.DIRECTORY, 0o755), *entries))


def test_a_plan_of_equal_trees_is_empty() -> None:
    tree = listing(Entry(b"f", Kind.FILE, 0o644, mtime=1, digest=b"d" * 32), Entry(b"d", Kind.DIRECTORY, 0o755))
    later = listing(Entry(b"f", Kind.FILE, 0o644, mtime=2, digest=b"d" * 32), Entry(b"d", Kind.DIRECTORY, 0o755))
    assert list(steps(tree, tree)) == []
    assert list(steps(tree, later)) == []  # nanoseconds are nothing that the format can say


def test_a_plan_enters_only_what_changed() -> None:
    one, two = Entry(b"a", Kind.DIRECTORY, 0o755), Entry(b"b", Kind.DIRECTORY, 0o755)
    old, new = Entry(b"b/f", Kind.FILE, size=1, digest=b"1" * 32), Entry(b"b/f", Kind.FILE, size=1, digest=b"2" * 32)
    found = list(steps(listing(one, two, old), listing(one, two, new)))
    root = ChangeDirectory(b"", EVERYTHING, Stated(0o755, 0, 0, 0))
    assert found == [Enter(b"b"), Send(b"f", b"b/f", new, old), Leave(0), root]


def test_links_that_part_are_not_changed_in_place() -> None:
    inode = Entry(b"a", Kind.FILE, 0o644, size=1, digest=b"1" * 32)
    other = Entry(b"b", Kind.FILE, 0o600, size=1, digest=b"1" * 32)
    found = list(steps(listing(inode, Entry(b"b", Kind.HARDLINK, link=b"a")), listing(inode, other)))
    assert found[:2] == [Send(b"a", b"a", inode, inode), Send(b"b", b"b", other, inode)]
