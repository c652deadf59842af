"""The payload: chunks that are verified, frames, streams."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

from tests.secondreader.cursor import Bytes, RefusedError, demand

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def read_streams(image: Bytes, way: dict[str, Any]) -> list[Bytes]:
    size = way["chunk_size"]
    demand(1 << 12 <= size <= 1 << 22 and len(way["streams"]) <= 8, "beyond the limits")
    count = -(-way["payload"] // size)
    demand(count <= 1 << 19, "too many chunks")
    table = image.take(32 * count)
    demand(hashlib.sha256(table).hexdigest() == way["chunks"], "another table")
    payload = b""
    for n in range(count):
        chunk = image.take(min(size, way["payload"] - len(payload)))
        demand(hashlib.sha256(chunk).digest() == table[32 * n : 32 * n + 32], "a damaged chunk")
        payload += chunk
    demand(not image, "it goes on behind its end")
    held = [b""] * len(way["streams"])
    frames = Bytes(payload)
    while frames:
        stream, length = frames.fixed(1), frames.fixed(3)
        demand(stream < len(held) and 1 <= length <= 1 << 20, "no such frame")
        held[stream] += frames.take(length)
    unpacked = [unpack(data, n) for data, n in zip(held, way["streams"], strict=True)]
    return [Bytes(data) for data in unpacked] + [Bytes(b"")] * (8 - len(unpacked))


def unpack(data: bytes, size: int) -> bytes:
    if not size:
        demand(not data, "frames of an empty stream")
        return b""
    demand(data[:4] == bytes.fromhex("28b52ffd"), "no Zstandard frame")
    decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 22})
    try:
        found = decoder.decompress(data, size + 1)
    except zstd.ZstdError:
        raise RefusedError("it cannot be unpacked") from None
    demand(decoder.eof and not decoder.unused_data and len(found) == size, "another size than it says")
    return found
