"""The streams of a payload: exactly what was packed comes out, or a refusal, by either packing."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import pytest

from tbdiff.errors import Rejected
from tbdiff.manifest import Way
from tbdiff.metering import Metered
from tbdiff.packer import Packer, lzma_packer, zstd_packer
from tbdiff.payload import Chunks, Streams, chunk_table, frames_of

CONTENT = b"".join(hashlib.sha256(b"%d" % (n % 5000)).digest()[: n % 40] for n in range(20_000))
PACKERS: dict[str, Callable[[], Packer]] = {"zstd": lambda: zstd_packer(3, 20, 1), "lzma": lambda: lzma_packer(3)}
READERS: dict[str, type[Streams]] = {"applied": Streams, "accounted for": Metered}


@pytest.fixture(params=PACKERS)
def packing(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> type[Streams]:
    return READERS[request.param]


def packed(packing: str, content: bytes = CONTENT) -> bytes:
    packer = PACKERS[packing]()
    return b"".join([packer.compress(content[:1000]), packer.compress(content[1000:]), packer.flush()])


def read(reader: type[Streams], packing: str, stored: bytes, size: int = len(CONTENT), step: int = 7001) -> bytes:
    """What comes out of a stream of `size` bytes that is `stored` so, read `step` bytes at a time."""
    frames = [stored[n : n + 5000] for n in range(0, len(stored), 5000)]
    payload = b"".join(b"\0" + len(frame).to_bytes(3, "little") + frame for frame in frames)
    table, length = chunk_table(io.BytesIO(payload), 1 << 18)
    by_lzma = (0,) if packing == "lzma" else ()
    zeros = "0" * 64
    way = Way(target=zeros, payload=length, chunks=hashlib.sha256(table).hexdigest(), streams=(size,), lzma=by_lzma)
    chunks = Chunks(io.BytesIO(table + payload), way)
    streams = reader(way.streams, frames_of(chunks), way.lzma)
    found = b"".join(streams.read(0, min(step, size - start)) for start in range(0, size, step))
    streams.check_end(chunks)
    return found


@pytest.mark.parametrize("step", [1 << 12, 7001, 1 << 22])
def test_what_was_packed_comes_out(packing: str, reader: type[Streams], step: int) -> None:
    assert read(reader, packing, packed(packing), step=step) == CONTENT


def test_packing_is_reproducible_however_it_arrives(packing: str) -> None:
    packer = PACKERS[packing]()
    pieces = [packer.compress(CONTENT[n : n + 333]) for n in range(0, len(CONTENT), 333)]
    assert b"".join([*pieces, packer.flush()]) == packed(packing)


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "cut in the middle": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-1],
    "with something behind it": lambda data: data + b"\0",
    "twice": lambda data: data * 2,
    "not packed at all": lambda _: CONTENT[:9000],
    "of the other packing": lambda data: packed("lzma" if data == packed("zstd") else "zstd"),
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_no_whole_stream_is_refused(damage: str, packing: str, reader: type[Streams]) -> None:
    with pytest.raises(Rejected):
        read(reader, packing, DAMAGED[damage](packed(packing)))


@pytest.mark.parametrize("size", [0, 1, len(CONTENT) - 1, len(CONTENT) + 1, 1 << 40])
def test_a_stream_of_another_size_is_refused(size: int, packing: str, reader: type[Streams]) -> None:
    with pytest.raises(Rejected):
        read(reader, packing, packed(packing), size, 1 << 18)


def test_a_bomb_is_refused_before_it_goes_off(packing: str) -> None:
    bomb = packed(packing, bytes(16 << 20))
    with pytest.raises(Rejected):
        read(Streams, packing, bomb, 1 << 16)
