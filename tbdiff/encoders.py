"""The compressors that made the containers in a system, by name, and a fingerprint that tells versions apart."""

from __future__ import annotations

import functools
import hashlib
import lzma
import queue
import shutil
import subprocess
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

from tbdiff import libzstd, lz4
from tbdiff.compression import zstd
from tbdiff.errors import Malformed, Rejected

# What a container holds is told by its codec; the values are part of the format.
DEFLATE, LZ4, ZSTD, XZ = range(4)
CODECS = {"deflate": DEFLATE, "lz4": LZ4, "zstd": ZSTD, "xz": XZ}

GZIP_HEAD, GZIP_TAIL = 10, 8
DECODER_WINDOW_LOG = 25
DECODER_MEMORY = 64 << 20
STEP = 1 << 17
MISPLACED = "a packed file of the base is not where the image says; nothing was changed"


class Encoder(Protocol):
    """A compressor of one stream."""

    def compress(self, data: bytes, /) -> bytes:
        """Take more input, give what output there is."""

    def flush(self) -> bytes:
        """End the stream, give the rest."""


Factory = Callable[[int], Encoder]


def decoded(codec: int, parts: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress one stream, in pieces that fit into memory; Rejected unless it ends where `parts` end."""
    try:
        if codec == LZ4:
            yield from lz4.decoded(parts)
        elif codec == DEFLATE:
            yield from _deflate_decoded(parts)
        elif codec in (ZSTD, XZ):
            yield from _stream_decoded(_decoder(codec), parts)
        else:
            raise Rejected("the image unpacks a file in a way that this tbdiff does not know", "Update tbdiff first.")
    except (zlib.error, zstd.ZstdError, lzma.LZMAError, lz4.Lz4Error):
        raise Malformed("a packed file of the base is not what it was; nothing was changed") from None


def _decoder(codec: int) -> Any:
    if codec == ZSTD:
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: DECODER_WINDOW_LOG}
        return zstd.ZstdDecompressor(options=options)
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=DECODER_MEMORY)


def _stream_decoded(decoder: Any, parts: Iterator[bytes]) -> Iterator[bytes]:
    for part in parts:
        data = part
        while not decoder.eof and (data or not decoder.needs_input):
            yield decoder.decompress(data, STEP)
            data = b""
        if decoder.eof and (decoder.unused_data or next(parts, None) is not None):
            raise Rejected(MISPLACED)
    if not decoder.eof:
        raise Rejected(MISPLACED)


def _deflate_decoded(parts: Iterator[bytes]) -> Iterator[bytes]:
    decoder = zlib.decompressobj(-15)
    for part in parts:
        data = part
        while data and not decoder.eof:
            yield decoder.decompress(data, STEP)
            data = decoder.unconsumed_tail
        if decoder.eof and (decoder.unused_data or next(parts, None) is not None):
            raise Rejected(MISPLACED)
    while not decoder.eof:
        # What is still inside may be more than a piece.
        piece = decoder.decompress(decoder.unconsumed_tail, STEP)
        if not piece:
            raise Rejected(MISPLACED)
        yield piece


def implementations(name: str) -> list[Factory]:
    """All compressors here that go by this name; the same settings in two versions of a library are two of them."""
    kind, *words = name.split(":")
    known = _IMPLEMENTATIONS.get(kind)
    if known is None or not all(word.isdigit() for word in words):
        return []
    make, ranges = known
    settings = [int(word) for word in words]
    if len(settings) != len(ranges) or not all(n in allowed for n, allowed in zip(settings, ranges, strict=True)):
        return []
    return make(*settings)


def _deflate(level: int, memory: int) -> list[Factory]:
    return [lambda _size: zlib.compressobj(level, zlib.DEFLATED, -15, memory)]


def _xz(preset: int, extreme: int, check: int) -> list[Factory]:
    return [lambda _size: lzma.LZMACompressor(lzma.FORMAT_XZ, check, preset | (lzma.PRESET_EXTREME if extreme else 0))]


def _lz4(level: int) -> list[Factory]:
    return [lambda _size: lz4.Lz4Encoder(level)] if lz4.load() else []


def _zstd(level: int, workers: int, checksum: int, sized: int) -> list[Factory]:
    found: list[Factory] = []
    if libzstd.load():
        found.append(lambda size: libzstd.ZstdEncoder(level, workers, checksum, size if sized else None))
    found.append(lambda size: _bundled_zstd(level, workers, checksum, size if sized else None))
    return found


def _gzip(level: int) -> list[Factory]:
    program = shutil.which("gzip")
    return [lambda _size: _GzipEncoder(program, level)] if program else []


# Each with the ranges of its settings; above these an encoder takes more memory or threads than a device may have.
_IMPLEMENTATIONS: Mapping[str, tuple[Callable[..., list[Factory]], tuple[Collection[int], ...]]] = {
    "deflate": (_deflate, (range(1, 10), range(1, 10))),
    "gzip": (_gzip, (range(1, 10),)),
    "lz4": (_lz4, (range(1, 13),)),
    "zstd": (_zstd, (range(1, 20), range(2), range(2), range(2))),
    "xz": (_xz, (range(7), range(2), (0, 1, 4, 10))),
}


COMMON = ("deflate", "gzip", "lz4")
# The settings that programs are known to use; `container` looks for these.
NAMES = (
    *(f"{kind}:{level}{rest}" for level in range(1, 10) for kind, rest in (("deflate", ":8"), ("gzip", ""))),
    *(f"deflate:{level}:9" for level in (6, 9)),
    *(f"lz4:{level}" for level in range(1, 13) if level != 2),
    *(f"zstd:{n}:{w}:{c}:{s}" for n in (1, 3, 6, 9, 12, 15, 19) for w in range(2) for c in range(2) for s in range(2)),
    *(f"xz:{preset}:{extreme}:{check}" for preset in (1, 3, 4, 6) for extreme in range(2) for check in (0, 1, 4, 10)),
)


@functools.cache
def _sample() -> bytes:
    """Half a mebibyte that every device makes alike: words that come back now and then, and noise."""
    words = [hashlib.sha256(b"tbdiff %d" % n).digest()[: 3 + n % 13] for n in range(2048)]
    parts, state, size = [], 1, 0
    while size < 1 << 19:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        part = words[(state >> 33) % (1 + (state >> 50) % 2048)]
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def fingerprint(factory: Factory) -> str:
    """What a compressor makes of the sample, in 16 hex digits."""
    sample = _sample()
    encoder = factory(len(sample))
    h = hashlib.sha256()
    for start in range(0, len(sample), STEP):
        h.update(encoder.compress(sample[start : start + STEP]))
    h.update(encoder.flush())
    return h.hexdigest()[:16]


@functools.cache
def available(name: str) -> dict[str, Factory]:
    """The compressors here that go by this name, by fingerprint."""
    return {fingerprint(factory): factory for factory in implementations(name)}


def common(name: str) -> dict[str, Factory]:
    """`available`, but only those that take little memory and have made the same bytes in all versions for years."""
    return available(name) if name.partition(":")[0] in COMMON else {}


def here() -> list[str]:
    """All compressors here that a creator of images may think of, as NAME=FINGERPRINT."""
    return [f"{name}={mark}" for name in NAMES for mark in available(name)]


def stated(marks: Collection[str]) -> Callable[[str], dict[str, Factory]]:
    """`available`, but only what a device has stated that it has too."""
    return lambda name: {mark: made for mark, made in available(name).items() if f"{name}={mark}" in marks}


def resolve(wanted: Iterable[str]) -> list[Factory]:
    """The compressors that are wanted as NAME=FINGERPRINT; Rejected where one is missing."""
    found = []
    for each in wanted:
        name, _, mark = each.partition("=")
        factory = available(name).get(mark)
        if factory is None:
            raise Rejected(
                f"the image re-creates files with the compressor {name} in a version ({mark}) that is not here; "
                "nothing was changed",
                "Use an image that was made for this device (`tbdiff create --encoders`) or a portable one.",
            )
        found.append(factory)
    return found


# --- gzip the program, which ends its blocks elsewhere than zlib does


class _GzipEncoder:
    """What the system's gzip makes of a stream, without gzip's own header and trailer."""

    def __init__(self, program: str, level: int) -> None:
        self._process = subprocess.Popen(
            [program, "-n", f"-{level}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}, close_fds=True
        )
        self._made: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        # Written to and read from at once, it never waits for us while we wait for it.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._head = GZIP_HEAD
        self._held = b""

    def _read(self) -> None:
        if self._process.stdout is not None:
            while part := self._process.stdout.read(STEP):
                self._made.put(part)
            self._process.stdout.close()

    def compress(self, data: bytes, /) -> bytes:
        """Take more input, give what output there is."""
        if self._process.stdin is not None:
            self._process.stdin.write(data)
        return self._taken()

    def _taken(self) -> bytes:
        while not self._made.empty():
            self._held += self._made.get()
        # The last bytes may be the trailer.
        cut = min(self._head, len(self._held))
        self._head -= cut
        ready = self._held[cut : max(cut, len(self._held) - GZIP_TAIL)]
        self._held = self._held[cut + len(ready) :]
        return ready

    def flush(self) -> bytes:
        """End the stream."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._reader.join()
        if self._process.wait():
            raise Malformed("a file could not be re-created: gzip failed; nothing was changed")
        return self._taken()

    def __del__(self) -> None:
        # Whoever has seen the first difference does not wait for the end.
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def _bundled_zstd(level: int, workers: int, checksum: int, size: int | None) -> Encoder:
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {
        parameter.compression_level: level,
        parameter.nb_workers: workers,
        parameter.checksum_flag: checksum,
    }
    encoder = zstd.ZstdCompressor(options=options)
    if size is not None:
        encoder.set_pledged_input_size(size)
    return encoder
