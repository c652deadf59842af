"""What is fuzzed: each function takes any bytes, and ends, or refuses them in the way that ours do."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tbdiff import labels, recipe, wire
from tbdiff.entry import Entry, Kind, Listing
from tbdiff.errors import Stop
from tbdiff.head import MAGIC, read_head
from tbdiff.legacy.image import open_legacy
from tbdiff.manifest import Way, parse_target, parse_way
from tbdiff.operation import TreeDelta
from tbdiff.payload import META, Chunks, Streams, chunk_table, frames_of
from tbdiff.rebuild import rebuild
from tbdiff.source import Source
from tbdiff.tar.filter import Packing
from tbdiff.tar.tarball import facts_of
from tbdiff.varint import numbers

CHUNK_SIZE = 1 << 16
GOLDEN = Path(__file__).parents[1] / "golden"
BASE = Listing(
    (
        Entry(b"", Kind.DIRECTORY, 0o755),
        Entry(b"file", Kind.FILE, 0o644, size=3, digest=bytes(32)),
        Entry(b"link", Kind.SYMLINK, link=b"file"),
        Entry(b"dir", Kind.DIRECTORY, 0o755),
        Entry(b"dir/hard", Kind.HARDLINK, link=b"file"),
    )
)


@dataclass(frozen=True)
class Fuzzed:
    """A decoder, and whole inputs to begin with."""

    decode: Callable[[bytes], object]
    seeds: Callable[[], Iterator[bytes]]

    def __call__(self, data: bytes) -> None:
        """Any other end than these two is a fault."""
        with suppress(Stop):
            self.decode(data)


def _head(data: bytes) -> None:
    read_head(io.BytesIO(data)).manifest()


def _manifest(data: bytes) -> None:
    with suppress(Stop):
        parse_target(data)
    parse_way(data, b"")


def _metadata(data: bytes) -> None:
    delta = wire.decode(data)
    # What is understood has one spelling.
    assert wire.encode(delta) == data
    rebuilt = rebuild(BASE, delta)
    assert len(rebuilt.added) == len(delta.adds)


def _payload(data: bytes) -> None:
    """The frames of an image whose chunks are what its signer says they are."""
    chunked = data[:8].ljust(8, b"\0") + data
    sizes = tuple(int.from_bytes(chunked[n : n + 2], "little") for n in range(0, 8, 2))
    way = Way(
        target=hashlib.sha256().hexdigest(),
        payload=len(data),
        chunk_size=CHUNK_SIZE,
        chunks=hashlib.sha256(_table(data)).hexdigest(),
        streams=sizes,
        lzma=(3,),
    )
    chunks = Chunks(io.BytesIO(_table(data) + data), way)
    streams = Streams(way.streams, frames_of(chunks), way.lzma)
    for number, size in enumerate(sizes):
        streams.read(number, size)
    streams.check_end(chunks)


def _table(payload: bytes) -> bytes:
    return chunk_table(io.BytesIO(payload), CHUNK_SIZE)[0]


def _recipe(data: bytes) -> None:
    recipe.decode(numbers(data))


def _labels(data: bytes) -> None:
    labels.check(labels.decode(data, TreeDelta((1, 3))), BASE)


def _tarball(data: bytes) -> None:
    packing, delta = list(Packing)[data[0] % 4 if data else 0], bool(data and data[0] & 4)
    facts_of(io.BytesIO(data[1:]), packing, delta=delta)


def _legacy(data: bytes) -> None:
    open_legacy(Source("stream", io.BytesIO(data)), None, unsigned_ok=True).check()


# --- whole inputs


def _images() -> Iterator[bytes]:
    for path in sorted((GOLDEN / "v1").glob("*.tbdiff")):
        yield path.read_bytes()


def _heads() -> Iterator[bytes]:
    for image in _images():
        stream = io.BytesIO(image[len(MAGIC) :])
        read_head(stream)
        yield image[len(MAGIC) : len(MAGIC) + stream.tell()]


def _statements() -> Iterator[bytes]:
    for head in _heads():
        found = read_head(io.BytesIO(head))
        yield from (found.target, found.way)


def _streams() -> Iterator[bytes]:
    for image in _images():
        stream = io.BytesIO(image[len(MAGIC) :])
        way = read_head(stream).manifest().way
        streams = Streams(way.streams, frames_of(Chunks(stream, way)), way.lzma)
        yield streams.read(META, streams.left(META))


def _tars() -> Iterator[bytes]:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for name, kind in (("d", tarfile.DIRTYPE), ("d/l", tarfile.SYMTYPE), ("d/.wh.x", tarfile.REGTYPE)):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = kind, "f" if kind == tarfile.SYMTYPE else ""
                tar.addfile(entry)
            entry = tarfile.TarInfo("f" * (90 if form == tarfile.USTAR_FORMAT else 120))
            entry.size = 700
            entry.pax_headers = {"SCHILY.xattr.user.a": "b"} if form == tarfile.PAX_FORMAT else {}
            tar.addfile(entry, io.BytesIO(bytes(700)))
        yield b"\0" + out.getvalue()
        yield b"\4" + out.getvalue()


def _legacies() -> Iterator[bytes]:
    for path in sorted((GOLDEN / "legacy").glob("*.tbd")):
        yield path.read_bytes()


TARGETS = {
    "head": Fuzzed(_head, _heads),
    "manifest": Fuzzed(_manifest, _statements),
    "metadata": Fuzzed(_metadata, _streams),
    "payload": Fuzzed(_payload, lambda: iter((b"\x01\x01\x00\x01\x00\x00\0",))),
    "recipe": Fuzzed(_recipe, lambda: iter((bytes(range(40)),))),
    "labels": Fuzzed(_labels, lambda: iter((b"\1\4file",))),
    "tarball": Fuzzed(_tarball, _tars),
    "legacy": Fuzzed(_legacy, _legacies),
}
