"""Recipes followed: what a payload carries becomes contents."""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from pathlib import Path

from tests.secondreader.cursor import Bytes, RefusedError, demand
from tests.secondreader.listing import FILE, Entry


class Making:
    """The contents that a payload carries, put together."""

    def __init__(self, base: list[Entry], root: Path | None, target: list[Entry], streams: list[Bytes]) -> None:
        self.base, self.root, self.streams = base, root, streams
        sizes = {entry.digest: entry.size for entry in base if entry.kind == FILE}
        known = set(sizes)
        self.needed = []
        for entry in target:
            if entry.kind == FILE:
                demand(sizes.setdefault(entry.digest, entry.size) == entry.size, "one digest, two sizes")
                if entry.digest not in known:
                    known.add(entry.digest)
                    self.needed.append(entry)
        self.made: dict[int, bytes] = {}
        # What of the format came up, for tests that want to have seen all of it.
        self.used: set[str] = set()

    def run(self, encoders: list[str]) -> dict[bytes, bytes]:
        """All contents by their digest."""
        for encoder in encoders:
            demand(available(encoder), "an encoder that is not here")
        for _ in self.needed:
            self._follow(self._record(), encoders)
        demand(not any(self.streams), "a stream holds more than is used")
        return {self.needed[n].digest: content for n, content in self.made.items()}

    def _record(self) -> Bytes:
        size = self.streams[2].fixed(4)
        demand(size <= 1 << 20, "a record that is too long")
        return Bytes(self.streams[2].take(size))

    def _base_file(self, number: int) -> bytes:
        demand(number < len(self.base) and self.base[number].kind == FILE and self.root, "no file of the base")
        return Path(os.fsdecode(os.path.join(os.fsencode(self.root or ""), self.base[number].path))).read_bytes()

    def _follow(self, record: Bytes, encoders: list[str]) -> None:
        index, data, size = record.number(), record.number(), record.number()
        demand(index < len(self.needed) and index not in self.made and data >= 4, "no such content")
        entry, literals = self.needed[index], self.streams[data] if data < 8 else Bytes(b"")
        sources = [self._source(record) for _ in range(limited(record, 1 << 16))]
        demand(sum(kind == 2 for kind, _ in sources) <= 16, "too many files to unpack")
        old = b"".join(content for _, content in sources)
        parts = members(record)
        runs = ((0, entry.size),) if entry.extents is None else entry.extents
        demand(not parts or entry.extents is None, "members of a file with holes")
        carried = sum(length for _, length in runs)
        demand(sum(gap + packed for gap, _, packed, _ in parts) <= carried, "members beyond the end")
        demand(size == carried + sum(p[3] - p[2] for p in parts), "another size")
        new = self._covered(record, old, size, literals)
        demand(not record, "a record holds more than it says")
        if parts:
            self.used.add("member")
            new = repacked(new, parts, encoders)
        if entry.extents is not None:
            laid, at = bytearray(entry.size), 0
            for offset, length in runs:
                laid[offset : offset + length] = new[at : at + length]
                at += length
            new = bytes(laid)
        demand(len(new) == entry.size and hashlib.sha256(new).digest() == entry.digest, "it came out wrong")
        self.made[index] = new

    def _covered(self, record: Bytes, old: bytes, size: int, literals: Bytes) -> bytes:
        new = bytearray()
        old_end = 0
        for n in range(record.number()):
            if n and n % 8192 == 0:
                demand(not record, "a record holds more than it says")
                record.data, record.at = self._record().data, 0
            gap, start, code = record.number(), old_end + record.signed(), record.number()
            length = code >> 1
            old_end = start + length
            demand(length and start >= 0 and old_end <= len(old), "a cover beyond the sources")
            demand(len(new) + gap + length <= size, "a cover beyond the content")
            new += literals.take(gap)
            like = old[start:old_end]
            self.used.add("exact cover" if code & 1 else "inexact cover")
            new += (
                like
                if code & 1
                else bytes((a + b) % 256 for a, b in zip(like, self.streams[3].take(length), strict=True))
            )
        return bytes(new + literals.take(size - len(new)))

    def _source(self, record: Bytes) -> tuple[int, bytes]:
        kind, number = record.number(), record.number()
        demand(kind <= 2, "no such source")
        self.used.add(f"source {kind}")
        if kind == 1:
            demand(number in self.made, "a content that was not made yet")
            return kind, self.made[number]
        content = self._base_file(number)
        if kind == 0:
            return kind, content
        out, at = b"", 0
        parts = members(record)
        demand(parts, "an unpacked file without members")
        for gap, codec, packed, unpacked in parts:
            demand(at + gap + packed <= len(content), "members beyond the end")
            out += content[at : at + gap] + decoded(codec, content[at + gap : at + gap + packed], unpacked)
            at += gap + packed
        return kind, out + content[at:]


def limited(record: Bytes, most: int) -> int:
    count = record.number()
    demand(count <= most, "beyond the limits")
    return count


def members(record: Bytes) -> list[tuple[int, int, int, int]]:
    found = [
        (record.number(), record.number(), record.number(), record.number()) for _ in range(limited(record, 1 << 13))
    ]
    demand(all(packed and unpacked for _, _, packed, unpacked in found), "an empty member")
    return found


def decoded(codec: int, data: bytes, size: int) -> bytes:
    demand(codec == 0, "a codec that this reader does not have")
    decoder = zlib.decompressobj(-15)
    try:
        found = decoder.decompress(data, size + 1)
    except zlib.error:
        raise RefusedError("a member that is none") from None
    demand(decoder.eof and not decoder.unused_data and len(found) == size, "a member of another size")
    return found


def repacked(new: bytes, parts: list[tuple[int, int, int, int]], encoders: list[str]) -> bytes:
    out, at = b"", 0
    for gap, number, size, unpacked in parts:
        demand(number < len(encoders), "an encoder that is not named")
        made = encoded(encoders[number], new[at + gap : at + gap + unpacked])
        demand(len(made) == size, "an encoder that makes something else")
        out += new[at : at + gap] + made
        at += gap + unpacked
    return out + new[at:]


def encoded(encoder: str, data: bytes) -> bytes:
    level, memory = map(int, encoder.partition("=")[0].split(":")[1:])
    packing = zlib.compressobj(level, zlib.DEFLATED, -15, memory)
    return packing.compress(data) + packing.flush()


def available(encoder: str) -> bool:
    name, _, mark = encoder.partition("=")
    return bool(re.fullmatch(r"deflate:[1-9]:[1-9]", name)) and hashlib.sha256(
        encoded(encoder, sample())
    ).hexdigest().startswith(mark)


def sample() -> bytes:
    words = [hashlib.sha256(b"tbdiff %d" % n).digest()[: 3 + n % 13] for n in range(2048)]
    parts: list[bytes] = []
    state, size = 1, 0
    while size < 524288:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        parts.append(words[(state >> 33) % (1 + (state >> 50) % 2048)])
        size += len(parts[-1])
    return b"".join(parts)
