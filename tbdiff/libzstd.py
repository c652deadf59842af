"""Zstandard frames by the system's own libzstd, with the settings that its command line would use."""

from __future__ import annotations

import ctypes
import functools

from tbdiff.errors import Malformed

STEP = 1 << 17


class _Buffer(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("size", ctypes.c_size_t), ("position", ctypes.c_size_t))


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, if the system has it."""
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


class ZstdEncoder:
    """A frame by the system's libzstd, with the settings that its command line would use."""

    def __init__(self, level: int, workers: int, checksum: int, size: int | None) -> None:
        library = load()
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
                raise Malformed("a file could not be re-created: libzstd failed; nothing was changed")
            parts.append(self._out.raw[: target.position])
            if source.position == len(data) and (left == 0 or (operation == _CONTINUE and target.position < STEP)):
                return b"".join(parts)
