"""The payload: chunks that are verified, frames, streams."""

from __future__ import annotations

import hashlib
import lzma
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
    by_lzma = way["lzma"]
    unpacked = [
        unpack(data, size, n in by_lzma) for n, (data, size) in enumerate(zip(held, way["streams"], strict=True))
    ]
    return [Bytes(data) for data in unpacked] + [Bytes(b"")] * (8 - len(unpacked))


def unpack(data: bytes, size: int, by_lzma: bool) -> bytes:
    if not size:
        demand(not data, "frames of an empty stream")
        return b""
    decoder: Any
    if by_lzma:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}])
    else:
        demand(data[:4] == bytes.fromhex("28b52ffd"), "no Zstandard frame")
        decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 22})
    try:
        found = decoder.decompress(data, size + 1)
        # What marks the end may not be looked at before it is asked for.
        while not decoder.eof and len(found) <= size and not decoder.needs_input:
            found += decoder.decompress(b"", size + 1 - len(found))
    except (zstd.ZstdError, lzma.LZMAError):
        raise RefusedError("it cannot be unpacked") from None
    demand(decoder.eof and not decoder.unused_data and len(found) == size, "another size than it says")
    return found
