"""docs/format.md, the golden images and the second reader agree with tbdiff; every damaged bit is noticed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tbdiff import encoders, labels, wire
from tbdiff.compare import compare
from tbdiff.entry import EMPTY, LISTING_MAGIC, Entry, Kind, Listing, check_path, in_order, serialise
from tbdiff.errors import Rejected
from tbdiff.head import DETACHED_MAGIC, MAGIC, Head, read_head
from tbdiff.image import open_image
from tbdiff.manifest import Target, Way, parse_target
from tbdiff.operation import RELEVANT, Add, Edit, Field, Ref, TreeDelta
from tbdiff.rebuild import rebuild
from tbdiff.signature import KeyRing, PublicKey, sign
from tbdiff.varint import Column
from tests import secondreader
from tests.golden.make import KEYS, PLACE
from tests.golden.scenes import SCENES
from tests.honest import differences
from tests.secondreader.contents import available, sample
from tests.secondreader.head import TARGET_FIELDS, statement
from tests.trees import NOON, SECOND, build

DOCUMENT = (Path(__file__).parents[2] / "docs/format.md").read_text()
VECTORS = DOCUMENT.partition("\n## Test vectors\n")[2]
EXPECTED = json.loads((PLACE / "expected.json").read_text())
ROOT_TIME = NOON + 1
MINUS = "\u2212"


def raw(name: str) -> bytes:
    return KEYS[name].public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


RING = KeyRing(
    (PublicKey("release", raw("release"), KEYS["release"].public_key()),),
    (PublicKey("delivery", raw("delivery"), KEYS["delivery"].public_key()),),
)


def golden(name: str) -> bytes:
    return (PLACE / f"{name}.tbdiff").read_bytes()


def missing_encoder(name: str) -> str | None:
    """An encoder that an image needs and that is not here: another zlib makes other bytes."""
    wanted = (each.partition("=") for each in EXPECTED[name]["encoders"])
    return next((encoder for encoder, _, mark in wanted if mark not in encoders.available(encoder)), None)


@pytest.fixture(params=SCENES)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The name of a golden image; `base` and `target` are built in the temporary directory."""
    name = str(request.param)
    if encoder := missing_encoder(name):
        pytest.skip(f"there is no {encoder} of that version here")
    for tree, place in ((SCENES[name].base or {}, "base"), (SCENES[name].target, "target")):
        build(tree, tmp_path / place)
    return name


# --- golden images


def test_golden_images_are_small_and_as_they_were() -> None:
    files = list(PLACE.glob("*.tbdiff"))
    assert {path.stem for path in files} == set(EXPECTED) == set(SCENES)
    assert sum(path.stat().st_size for path in files) < 200_000
    for path in files:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == EXPECTED[path.stem]["sha256"]


def test_golden_images_apply(scene: str, tmp_path: Path) -> None:
    keys = RING if SCENES[scene].target_key else None
    with open_image(str(PLACE / f"{scene}.tbdiff"), keys) as image:
        listing = image.apply(tmp_path / "base")
    assert listing.digest.hex() == EXPECTED[scene]["target"]
    assert differences(tmp_path / "target", tmp_path / "base", holes=False) == []


def test_the_second_reader_agrees(scene: str, tmp_path: Path) -> None:
    signed = SCENES[scene].target_key is not None
    root = tmp_path / "base" if SCENES[scene].base is not None else None
    result = secondreader.read(golden(scene), root, [raw("release")] if signed else None, [raw("delivery")])
    assert secondreader.tree_digest(result.target) == EXPECTED[scene]["target"]
    assert len(result.target) == EXPECTED[scene]["entries"]
    on_disk = secondreader.read_tree(tmp_path / "target")
    assert secondreader.tree_digest(on_disk) == EXPECTED[scene]["target"]
    for entry in result.target:
        if entry.digest in result.contents:
            assert (tmp_path / "target" / os.fsdecode(entry.path)).read_bytes() == result.contents[entry.digest]


def test_golden_images_hold_what_they_are_for(tmp_path: Path) -> None:
    """The images exercise differences, sources of each kind, and packed members."""
    seen = set()
    for name in ("patch", "archive", "repacked"):
        if missing_encoder(name):
            continue
        build(SCENES[name].base or {}, tmp_path / name)
        result = secondreader.read(golden(name), tmp_path / name)
        seen |= result.used
    wanted = {"source 0", "source 1", "exact cover", "inexact cover"}
    assert seen >= (wanted if missing_encoder("repacked") else wanted | {"source 2", "member"})


# --- damage


def refused_by_tbdiff(image: bytes, place: Path) -> bool:
    path = place / "damaged.tbdiff"
    # A new file: some file systems flush a file that is cut and written anew.
    path.unlink(missing_ok=True)
    path.write_bytes(image)
    try:
        with open_image(str(path), RING) as opened:
            opened.check()
    except Rejected:
        return True
    return False


def refused_by_second_reader(image: bytes, place: Path) -> bool:
    try:
        secondreader.read(image, place / "base", [raw("release")], [raw("delivery")])
    except secondreader.RefusedError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("refused", [refused_by_tbdiff, refused_by_second_reader])
def test_every_flipped_bit_is_refused(refused: Callable[[bytes, Path], bool], tmp_path: Path) -> None:
    image = golden("delivered")
    build(SCENES["delivered"].base or {}, tmp_path / "base")
    assert not refused(image, tmp_path)
    accepted = []
    for bit in range(8 * len(image)):
        damaged = bytearray(image)
        damaged[bit // 8] ^= 1 << bit % 8
        if not refused(bytes(damaged), tmp_path):
            accepted.append(bit)
    assert accepted == []


@pytest.mark.parametrize("refused", [refused_by_tbdiff, refused_by_second_reader])
def test_every_truncation_is_refused(refused: Callable[[bytes, Path], bool], tmp_path: Path) -> None:
    image = golden("delivered")
    build(SCENES["delivered"].base or {}, tmp_path / "base")
    assert [size for size in range(len(image)) if not refused(image[:size], tmp_path)] == []
    assert refused(image + b"\0", tmp_path)


# --- what is refused

ROOT = Entry(b"", Kind.DIRECTORY, 0o755, mtime=NOON)
FOUR = in_order(
    {
        entry.path: entry
        for entry in (
            ROOT,
            Entry(b"f", Kind.FILE, 0o644, size=5, digest=b"f" * 32),
            Entry(b"h", Kind.HARDLINK, link=b"f"),
            Entry(b"d", Kind.DIRECTORY, 0o755),
            Entry(b"d/e", Kind.DIRECTORY, 0o755),
        )
    }
)
F, H, D, DE = 1, 2, 3, 4
PLAIN = RELEVANT[Kind.DIRECTORY]


def folder(parent: Ref, name: bytes, source: int | None = None) -> Add:
    return Add(parent, Entry(name, Kind.DIRECTORY), PLAIN if source is None else Field(0), source)


def mode_of(number: int, kind: Kind) -> Edit:
    return Edit(number, Field.MODE, Entry(b"", kind, 0o700))


IMPOSSIBLE: dict[str, TreeDelta] = {
    "it removes the root": TreeDelta((0,)),
    "it removes what is not there": TreeDelta((5,)),
    "it edits what is not there": TreeDelta((), (mode_of(5, Kind.FILE),)),
    "it edits what it removes": TreeDelta((H,), (Edit(H, Field.CONTENT, Entry(b"", Kind.HARDLINK), Ref(F)),)),
    "it edits what goes with its directory": TreeDelta((D,), (mode_of(DE, Kind.DIRECTORY),)),
    "it edits what it moves": TreeDelta((), (mode_of(DE, Kind.DIRECTORY),), (folder(Ref(0), b"m", DE),)),
    "it edits nothing": TreeDelta((), (Edit(F, Field(0), Entry(b"", Kind.FILE)),)),
    "it edits another kind": TreeDelta((), (mode_of(F, Kind.DIRECTORY),)),
    "it moves what it removes": TreeDelta((DE,), (), (folder(Ref(0), b"m", DE),)),
    "it moves one directory twice": TreeDelta((), (), (folder(Ref(0), b"m", DE), folder(Ref(0), b"n", DE))),
    "it moves a directory into itself": TreeDelta((), (), (folder(Ref(DE), b"m", D),)),
    "it moves the root": TreeDelta((), (), (folder(Ref(D), b"m", 0),)),
    "it adds to a file": TreeDelta((), (), (folder(Ref(F), b"m"),)),
    "it adds to what it removes": TreeDelta((D,), (), (folder(Ref(D), b"m"),)),
    "it adds to nothing": TreeDelta((), (), (folder(Ref(7), b"m"),)),
    "it adds in a circle": TreeDelta((), (), (folder(Ref(1, True), b"m"), folder(Ref(0, True), b"n"))),
    "it adds out of order": TreeDelta((), (), (folder(Ref(1, True), b"m"), folder(Ref(0), b"n"))),
    "it calls a moved directory an added one": TreeDelta(
        (), (), (folder(Ref(0), b"m", DE), folder(Ref(0, True), b"n"))
    ),
    "it makes two of one name": TreeDelta((), (), (folder(Ref(0), b"f"),)),
    "it makes a name that leads elsewhere": TreeDelta((), (), (folder(Ref(0), b".."),)),
    "it makes a name of two": TreeDelta((), (), (folder(Ref(0), b"a/b"),)),
    "it makes a name of none": TreeDelta((), (), (folder(Ref(0), b""),)),
    "it takes over from another kind": TreeDelta((), (), (folder(Ref(0), b"m", F),)),
    "it leaves out fields": TreeDelta((), (), (Add(Ref(0), Entry(b"m", Kind.FIFO), Field.MODE),)),
    "it removes a first name": TreeDelta((F,)),
    "it links to a directory": TreeDelta(
        (), (), (Add(Ref(0), Entry(b"m", Kind.HARDLINK), Field.CONTENT, None, Ref(D)),)
    ),
    "it links to what comes later": TreeDelta(
        (), (), (Add(Ref(0), Entry(b"e", Kind.HARDLINK), Field.CONTENT, None, Ref(F)),)
    ),
    "its data ends behind the file's end": TreeDelta(
        (), (Edit(F, Field.EXTENTS, Entry(b"", Kind.FILE, extents=((4, 2),))),)
    ),
    "its runs touch": TreeDelta((), (Edit(F, Field.EXTENTS, Entry(b"", Kind.FILE, extents=((0, 1), (1, 1)))),)),
    "its device has too large a number": TreeDelta(
        (), (), (Add(Ref(0), Entry(b"m", Kind.CHAR, rdev=(4096, 0)), RELEVANT[Kind.CHAR]),)
    ),
    "its time is no time": TreeDelta((), (Edit(F, Field.MTIME, Entry(b"", Kind.FILE, mtime=10**9 * (2**62 + 1))),)),
}


def as_second_reader_sees(listing: Listing) -> list[secondreader.Entry]:
    return [
        secondreader.Entry(e.path, int(e.kind), e.mode, e.uid, e.gid, size=e.size, digest=e.digest, link=e.link)
        for e in listing
    ]


def refused_by_both(metadata: bytes) -> bool:
    with pytest.raises(Rejected):
        rebuild(FOUR, wire.decode(metadata))
    with pytest.raises(secondreader.RefusedError):
        secondreader.rebuild(as_second_reader_sees(FOUR), secondreader.Delta(secondreader.Bytes(metadata)))
    return True


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_is_refused_before_anything_changes(name: str) -> None:
    assert refused_by_both(wire.encode(IMPOSSIBLE[name]))


def test_metadata_is_exact() -> None:
    good = wire.encode(TreeDelta((), (mode_of(F, Kind.FILE),)))
    assert len(rebuild(FOUR, wire.decode(good)).target) == 5
    assert refused_by_both(good + b"\0")
    assert refused_by_both(good + b"\1\0")
    assert all(refused_by_both(good[:size]) for size in range(len(good)))
    # The field, as a bit that there is not; the number, longer than it need be; a mode that nobody has stated.
    assert good[:7] == bytes((0, 1, F, 1, Kind.FILE, 1, Field.MODE))
    assert refused_by_both(good[:6] + bytes((Field.MODE | 0x80,)) + good[7:])
    assert refused_by_both(bytes((0, 2, 0x80 | F, 0)) + good[3:])
    assert refused_by_both(good[:6] + bytes((Field.UID,)) + good[7:])


TREE = "0" * 64
STATEMENTS: dict[str, str] = {
    "another type": '{"type":"tbdiff-way","format":1}',
    "no type": '{"format":1}',
    "no format": '{"type":"tbdiff-target"}',
    "a format to come": '{"type": "tbdiff-target", "format": 2}',
    "format 0": '{"type":"tbdiff-target","format":0}',
    "a part to come": '{"type":"tbdiff-target","format":1,"requires":["teleport"]}',
    "a number that is text": '{"type":"tbdiff-target","format":1,"epoch":"1"}',
    "a number with a fraction": '{"type":"tbdiff-target","format":1,"epoch":1.0}',
    "a number that is true": '{"type":"tbdiff-target","format":1,"epoch":true}',
    "a number below 0": '{"type":"tbdiff-target","format":1,"epoch":-1}',
    "a number too large": '{"type":"tbdiff-target","format":1,"epoch":9223372036854775808}',
    "a digest in capitals": '{"type":"tbdiff-target","format":1,"tree":"' + "A" * 64 + '"}',
    "a digest with a newline": '{"type":"tbdiff-target","format":1,"tree":"' + TREE + '\\n"}',
    "a release with a space": '{"type":"tbdiff-target","format":1,"release":"1 0"}',
    "a name with a newline": '{"type":"tbdiff-target","format":1,"name":"a\\nb"}',
    "a kernel outside": '{"type":"tbdiff-target","format":1,"kernel":"boot/../../vmlinuz"}',
    "a kernel at the root": '{"type":"tbdiff-target","format":1,"kernel":"/vmlinuz"}',
    "a kernel with an escape": '{"type":"tbdiff-target","format":1,"kernel":"boot/\\u001b[2J"}',
    "a byte order mark": '\ufeff{"type":"tbdiff-target","format":1}',
    "a list": "[]",
    "half of one": '{"type":"tbdiff-target","format":1',
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_are_refused(name: str) -> None:
    with pytest.raises(Rejected):
        parse_target(STATEMENTS[name].encode())
    with pytest.raises(secondreader.RefusedError):
        statement(STATEMENTS[name].encode(), "tbdiff-target", TARGET_FIELDS)


WAYS: dict[str, dict[str, object]] = {
    "a stream that is not there": {"lzma": [0, 1, 2, 3, 99]},
    "one twice": {"lzma": [0, 1, 2, 3, 3, 6]},
    "out of order": {"lzma": [1, 0, 2, 3, 6]},
    "one that is packed otherwise": {"lzma": [0, 1, 2, 6]},
    "too many streams": {"streams": [0] * 4000},
    "nothing required": {"requires": []},
}


@pytest.mark.parametrize("name", WAYS)
def test_what_a_way_says_of_its_streams_is_refused_unless_it_is_so(name: str, tmp_path: Path) -> None:
    image = io.BytesIO(golden("best")[len(MAGIC) :])
    head = read_head(image)
    wrong = json.dumps(json.loads(head.way) | WAYS[name]).encode()
    path = tmp_path / "wrong.tbdiff"
    path.write_bytes(Head(head.target, wrong).to_bytes() + image.read())
    build(SCENES["best"].base or {}, tmp_path / "base")
    with pytest.raises(secondreader.RefusedError):
        secondreader.read(path.read_bytes(), tmp_path / "base")
    with pytest.raises(Rejected), open_image(str(path)) as opened:
        opened.apply(tmp_path / "base")
    with pytest.raises(Rejected), open_image(str(path)) as opened:
        opened.costs()


def test_what_is_new_in_a_statement_is_passed_over() -> None:
    raw_statement = b'{ "later": {"format": 9}, "format": 1, "type": "tbdiff-target", "kernel": "boot/vmlinuz 6.1" }'
    assert parse_target(raw_statement).kernel == "boot/vmlinuz 6.1"
    assert statement(raw_statement, "tbdiff-target", TARGET_FIELDS)["kernel"] == "boot/vmlinuz 6.1"


def test_signatures_of_other_sorts_are_passed_over(tmp_path: Path) -> None:
    """A later algorithm or role beside a signature that is known; the same signature alone does not do."""
    image = golden("signed")
    count = 8 + 4 + int.from_bytes(image[8:12], "little")
    count += 4 + int.from_bytes(image[count : count + 4], "little")
    assert image[count] == 2
    others = b"".join(
        bytes((role, sort)) + bytes(8) + struct.pack("<H", 3000) + bytes(3000) for role, sort in ((0, 2), (7, 1))
    )
    more = image[:count] + b"\x04" + others + image[count + 1 :]
    build(SCENES["signed"].base or {}, tmp_path / "base")
    assert not refused_by_tbdiff(more, tmp_path)
    assert not refused_by_second_reader(more, tmp_path)
    alone = image[:count] + b"\x02" + others + image[count + 1 + 2 * 76 :]
    assert refused_by_tbdiff(alone, tmp_path)
    assert refused_by_second_reader(alone, tmp_path)


def test_a_delivery_key_has_no_say_where_no_tree_is_named(tmp_path: Path) -> None:
    """Else whoever holds one could put any tarball behind a target that a release key has signed."""
    target = Target(name="a layer").to_bytes()
    tarball = tmp_path / "layer.tar"
    with tarfile.open(tarball, "w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    data = tarball.read_bytes()
    table = hashlib.sha256(data).digest()
    way = Way(
        target=hashlib.sha256(target).hexdigest(),
        container="tar-delta",
        payload=len(data),
        chunks=hashlib.sha256(table).hexdigest(),
    ).to_bytes()
    of_target = sign(KEYS["release"], target, of_target=True)
    for name in ("delivery", "release"):
        head = Head(target, way, (of_target, sign(KEYS[name], way, of_target=False)))
        tarball.with_name("layer.tar.sig").write_bytes(head.to_bytes(DETACHED_MAGIC) + table)
        if name == "delivery":
            with pytest.raises(Rejected):
                open_image(str(tarball), RING)
        else:
            with open_image(str(tarball), RING) as image:
                assert image.signers == ("release",)


# --- what the document says


def hexadecimal(text: str) -> str:
    return re.sub(r"\s", "", text)


def dumps(title: str) -> str:
    """All that is hexadecimal in the dumps below a title, without spaces."""
    chapter = VECTORS.partition(f"\n### {title}\n")[2].partition("\n### ")[0]
    return hexadecimal("".join(re.findall(r"^    ([0-9a-f ]+)$", chapter, re.MULTILINE)))


def value(text: str) -> int:
    """A number as the document writes it."""
    total = 0
    for mark, base, power in re.findall(r"([\u2212+]?) ?(\d+)(?:\^(\d+))?", text):
        total += (-1 if mark == MINUS else 1) * int(base) ** int(power or 1)
    return total


def test_a_path_that_is_too_long_is_named_whoever_has_it() -> None:
    # Not images alone have paths: such a file may be somebody's in /etc.
    with pytest.raises(Rejected, match="a path of 5009 bytes is too long; 4095 is the limit; it begins with 'etc/deep"):
        check_path(b"etc/deep/" + b"d/" * 2500)


def test_numbers() -> None:
    rows = re.findall(r"^\| ([^|`]+) \| `([0-9a-f ]+)` \| \| ([^|`]+) \| `([0-9a-f ]+)` \|$", VECTORS, re.MULTILINE)
    assert len(rows) == 8
    for unsigned, unsigned_bytes, signed, signed_bytes in rows:
        column, signed_column = Column(), Column()
        column.number(value(unsigned))
        signed_column.signed(value(signed))
        assert (column.hex(" "), signed_column.hex(" ")) == (unsigned_bytes, signed_bytes)


def content(data: bytes) -> dict[str, int | bytes]:
    return {"size": len(data), "digest": hashlib.sha256(data).digest()}


def listing(*entries: Entry) -> Listing:
    return in_order({entry.path: entry for entry in entries})


FIVE = listing(
    Entry(b"", Kind.DIRECTORY, 0o755, mtime=ROOT_TIME),
    Entry(b"d", Kind.DIRECTORY, 0o1777, mtime=NOON),
    Entry(b"d/h", Kind.HARDLINK, link=b"z"),
    Entry(b"l", Kind.SYMLINK, mtime=-1, link=b"d/\xff"),
    Entry(
        b"z", Kind.FILE, 0o4750, 1000, 100, NOON, xattrs=((b"user.a", b""), (b"user.b", b"1")), **content(b"hello\n")
    ),
)


def test_a_listing() -> None:
    serialised = LISTING_MAGIC + b"".join(map(serialise, FIVE))
    metadata = wire.encode(compare(EMPTY, FIVE))
    assert dumps("A listing") == serialised.hex() + FIVE.digest.hex() + metadata.hex()


def test_a_difference() -> None:
    root = Entry(b"", Kind.DIRECTORY, 0o755, mtime=NOON)
    base = listing(
        root,
        Entry(b"a", Kind.FILE, 0o644, mtime=NOON, **content(b"a\n")),
        Entry(b"z", Kind.FILE, 0o644, mtime=NOON, **content(b"z\n")),
        Entry(b"old", Kind.DIRECTORY, 0o755, mtime=NOON),
        Entry(b"old/f", Kind.FILE, 0o644, mtime=NOON, **content(b"f\n")),
    )
    target = listing(
        root,
        Entry(b"n", Kind.SYMLINK, mtime=NOON, link=b"z"),
        Entry(b"z", Kind.FILE, 0o600, mtime=NOON + 5 * SECOND, **content(b"zz\n")),
        Entry(b"new", Kind.DIRECTORY, 0o755, mtime=NOON),
        Entry(b"new/f", Kind.FILE, 0o644, mtime=NOON, **content(b"f\n")),
        Entry(b"new/g", Kind.HARDLINK, link=b"new/f"),
    )
    delta = compare(base, target)
    rows = re.findall(r"^\| (\d+) \| [a-z ]+ \| (?:`([0-9a-f ]+)`)? ?\|", VECTORS, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 23))
    columns = [bytes.fromhex(shown) for _, shown in rows]
    assert wire.encode(delta) == b"".join(bytes((len(column),)) + column for column in columns)
    assert rebuild(base, delta).target.digest == target.digest
    assert labels.encode(base, delta) == b"\x01a\0old/\0z\0old/f\0/\0"


def test_keys() -> None:
    for name in KEYS:
        assert raw(name).hex() in VECTORS
        assert hashlib.sha256(raw(name)).hexdigest()[:16] in VECTORS


def test_an_image() -> None:
    image = golden("delivered")
    chapter = VECTORS.partition("\n### An image\n")[2].partition("\n### ")[0]
    shown = b""
    for line in re.findall(r"^    +(\S.*)$", chapter, re.MULTILINE):
        shown += line.encode() if line[0] in '{"' else bytes.fromhex(hexadecimal(line))
    assert shown == image
    for size, at in ((220, 12), (313, 236)):
        assert struct.unpack_from("<I", image, at - 4) == (size,)
        assert hashlib.sha256(image[at : at + size]).hexdigest() in chapter


def test_the_sample() -> None:
    assert encoders._sample() == sample()
    assert len(sample()) == 524289
    assert sample()[:32].hex() in VECTORS
    assert hashlib.sha256(sample()).hexdigest() in VECTORS


def test_fingerprints() -> None:
    for mark in encoders.available("deflate:9:8"):
        assert available(f"deflate:9:8={mark}")


def test_the_order_of_the_document() -> None:
    names = [b"", b"b", b"c", b"a", b"a/z", b"a/b", b"a/b/x", b"a.d"]
    directories = (b"", b"a", b"a/b", b"a.d")
    found = in_order({n: Entry(n, Kind.DIRECTORY if n in directories else Kind.FIFO) for n in sorted(names)})
    assert [entry.path for entry in found] == names
