"""The compressors that made the containers in a system, by name, and a fingerprint that tells versions apart."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import lzma
import queue
import shutil
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from tbdiff.compression import zstd
from tbdiff.errors import Rejected

# What a container holds is told by its codec; the values are part of the format.
DEFLATE, LZ4, ZSTD, XZ = range(4)
CODECS = {"deflate": DEFLATE, "lz4": LZ4, "zstd": ZSTD, "xz": XZ}

GZIP_HEAD, GZIP_TAIL = 10, 8
LZ4_MAGIC = bytes.fromhex("02214c18")
LZ4_BLOCK = 8 << 20
LZ4_PACKED_MAX = LZ4_BLOCK + LZ4_BLOCK // 255 + 16
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
            yield from _lz4_decoded(parts)
        elif codec == DEFLATE:
            yield from _deflate_decoded(parts)
        elif codec in (ZSTD, XZ):
            yield from _stream_decoded(_decoder(codec), parts)
        else:
            raise Rejected("the image unpacks a file in a way that this tbdiff does not know", "Update tbdiff first.")
    except (zlib.error, zstd.ZstdError, lzma.LZMAError):
        raise Rejected("a packed file of the base is not what it was; nothing was changed") from None


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
    try:
        settings = [int(word) for word in words]
        return _IMPLEMENTATIONS[kind](*settings)
    except (KeyError, ValueError, TypeError):
        return []


def _deflate(level: int, memory: int) -> list[Factory]:
    return [lambda _size: zlib.compressobj(level, zlib.DEFLATED, -15, memory)]


def _xz(preset: int, extreme: int, check: int) -> list[Factory]:
    return [lambda _size: lzma.LZMACompressor(lzma.FORMAT_XZ, check, preset | (lzma.PRESET_EXTREME if extreme else 0))]


def _lz4(level: int) -> list[Factory]:
    return [lambda _size: _Lz4Encoder(level)] if _liblz4() else []


def _zstd(level: int, workers: int, checksum: int, sized: int) -> list[Factory]:
    found: list[Factory] = []
    if _libzstd():
        found.append(lambda size: _ZstdEncoder(level, workers, checksum, size if sized else None))
    found.append(lambda size: _bundled_zstd(level, workers, checksum, size if sized else None))
    return found


def _gzip(level: int) -> list[Factory]:
    program = shutil.which("gzip")
    return [lambda _size: _GzipEncoder(program, level)] if program else []


_IMPLEMENTATIONS: Mapping[str, Callable[..., list[Factory]]] = {
    "deflate": _deflate,
    "gzip": _gzip,
    "lz4": _lz4,
    "zstd": _zstd,
    "xz": _xz,
}


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
            raise Rejected("a file could not be re-created: gzip failed; nothing was changed")
        return self._taken()

    def __del__(self) -> None:
        # Whoever has seen the first difference does not wait for the end.
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


# --- lz4's legacy frame, which kernels are packed in


@functools.cache
def _liblz4() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("liblz4.so.1")
    except OSError:
        return None
    size = ctypes.c_int
    library.LZ4_decompress_safe.argtypes = (ctypes.c_char_p, ctypes.c_void_p, size, size)
    library.LZ4_compress_HC.argtypes = (ctypes.c_char_p, ctypes.c_void_p, size, size, size)
    library.LZ4_compress_fast.argtypes = (ctypes.c_char_p, ctypes.c_void_p, size, size, size)
    return library


class _Lz4Encoder:
    """Blocks of 8 MiB, each compressed alone behind its size; below level 3 by the fast method."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._held = bytearray()
        self._out = ctypes.create_string_buffer(LZ4_PACKED_MAX)
        self._begun = False

    def compress(self, data: bytes, /) -> bytes:
        """Give every block that is full."""
        self._held += data
        parts = []
        while len(self._held) >= LZ4_BLOCK:
            parts.append(self._block(bytes(self._held[:LZ4_BLOCK])))
            del self._held[:LZ4_BLOCK]
        return b"".join(parts)

    def flush(self) -> bytes:
        """Give the last, shorter block."""
        return self._block(bytes(self._held)) if self._held else b""

    def _block(self, data: bytes) -> bytes:
        library = _liblz4()
        if library is None:
            raise AssertionError("no encoder is made without its library")
        room = len(self._out)
        if self._level < 3:
            size = library.LZ4_compress_fast(data, self._out, len(data), room, 1)
        else:
            size = library.LZ4_compress_HC(data, self._out, len(data), room, self._level)
        head = b"" if self._begun else LZ4_MAGIC
        self._begun = True
        return head + struct.pack("<I", size) + self._out.raw[:size]


def _lz4_decoded(parts: Iterator[bytes]) -> Iterator[bytes]:
    library = _liblz4()
    if library is None:
        raise Rejected("the image unpacks a file with liblz4, which is not here; nothing was changed")
    held = bytearray()
    out = ctypes.create_string_buffer(LZ4_BLOCK)

    def take(size: int) -> bytes:
        while len(held) < size and (part := next(parts, None)) is not None:
            held.extend(part)
        data = bytes(held[:size])
        del held[:size]
        return data

    if take(4) != LZ4_MAGIC:
        raise Rejected(MISPLACED)
    while head := take(4):
        (packed,) = struct.unpack("<I", head.ljust(4, b"\0"))
        block = take(min(packed, LZ4_PACKED_MAX))
        size = library.LZ4_decompress_safe(block, out, len(block), LZ4_BLOCK) if len(block) == packed else 0
        if size <= 0:
            raise Rejected(MISPLACED)
        yield out.raw[:size]


# --- zstd as the system has it


class _Buffer(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("size", ctypes.c_size_t), ("position", ctypes.c_size_t))


@functools.cache
def _libzstd() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError:
        return None
    library.ZSTD_createCCtx.restype = ctypes.c_void_p
    library.ZSTD_freeCCtx.argtypes = (ctypes.c_void_p,)
    library.ZSTD_CCtx_setParameter.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    library.ZSTD_CCtx_setParameter.restype = ctypes.c_size_t
    library.ZSTD_CCtx_setPledgedSrcSize.argtypes = (ctypes.c_void_p, ctypes.c_ulonglong)
    library.ZSTD_compressStream2.argtypes = (
        ctypes.c_void_p,
        ctypes.POINTER(_Buffer),
        ctypes.POINTER(_Buffer),
        ctypes.c_int,
    )
    library.ZSTD_compressStream2.restype = ctypes.c_size_t
    library.ZSTD_isError.argtypes = (ctypes.c_size_t,)
    return library


_LEVEL, _CHECKSUM, _WORKERS = 100, 201, 400
_CONTINUE, _END = 0, 2


class _ZstdEncoder:
    """A frame by the system's libzstd, with the settings that its command line would use."""

    def __init__(self, level: int, workers: int, checksum: int, size: int | None) -> None:
        library = _libzstd()
        if library is None:
            raise AssertionError("no encoder is made without its library")
        self._library = library
        self._context = library.ZSTD_createCCtx()
        self._out = ctypes.create_string_buffer(STEP)
        for parameter, value in ((_LEVEL, level), (_CHECKSUM, checksum), (_WORKERS, workers)):
            library.ZSTD_CCtx_setParameter(self._context, parameter, value)
        if size is not None:
            library.ZSTD_CCtx_setPledgedSrcSize(self._context, size)

    def __del__(self) -> None:
        self._library.ZSTD_freeCCtx(self._context)

    def compress(self, data: bytes, /) -> bytes:
        """Take more input, give what output there is."""
        return self._run(data, _CONTINUE)

    def flush(self) -> bytes:
        """End the frame."""
        return self._run(b"", _END)

    def _run(self, data: bytes, operation: int) -> bytes:
        held = ctypes.create_string_buffer(data, max(len(data), 1))
        source = _Buffer(ctypes.addressof(held), len(data), 0)
        parts = []
        while True:
            target = _Buffer(ctypes.addressof(self._out), STEP, 0)
            left = self._library.ZSTD_compressStream2(
                self._context, ctypes.byref(target), ctypes.byref(source), operation
            )
            if self._library.ZSTD_isError(left):
                raise Rejected("a file could not be re-created: libzstd failed; nothing was changed")
            parts.append(self._out.raw[: target.position])
            if source.position == len(data) and (left == 0 or (operation == _CONTINUE and target.position < STEP)):
                return b"".join(parts)


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
