"""What is in an initrd: the names in its archives, however it is packed; read once, a little at a time."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from tbdiff import lz4
from tbdiff.compression import zstd
from tbdiff.errors import Rejected

# The hook in the initramfs, under every generator.
HOOK = "lib/tb-update/boot"

_MAGICS = (b"070701", b"070702")
_HEAD = 110
_NAME_MAX = 4096
_CHUNK = 1 << 16


def has_hook(file: BinaryIO) -> bool:
    """Whether our hook is among the names of an initrd."""
    return any(name.endswith(HOOK) for name in names(file))


def names(file: BinaryIO) -> Iterator[str]:
    """The names in an initrd: archives one behind the other, the last of them packed as a rule."""
    try:
        yield from _names(_Reader(iter(lambda: file.read(_CHUNK), b"")), packed=True)
    except (zlib.error, lzma.LZMAError, zstd.ZstdError, lz4.Lz4Error, ValueError) as error:
        raise Rejected(
            f"the initrd is damaged: {error}; nothing was changed",
            "Make it again in that system (update-initramfs -u), and then the image.",
        ) from None


class _Reader:
    """Bytes that come in parts: to look at, to take, to skip."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._held = b""
        self.position = 0

    def look(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end."""
        while len(self._held) < size and (part := next(self._parts, None)) is not None:
            self._held += part
        return self._held[:size]

    def take(self, size: int) -> bytes:
        taken = self.look(size)
        self._held = self._held[len(taken) :]
        self.position += len(taken)
        return taken

    def skip(self, size: int) -> None:
        while size and (skipped := len(self.take(min(size, _CHUNK)))):
            size -= skipped

    def align(self) -> None:
        self.skip(-self.position % 4)

    def rest(self) -> Iterator[bytes]:
        """All that is left, in parts."""
        if self._held:
            yield self._held
        yield from self._parts


def _names(reader: _Reader, *, packed: bool) -> Iterator[str]:
    while head := reader.look(6):
        if head[0] == 0:
            reader.skip(1)
        elif head in _MAGICS:
            yield from _archive(reader)
        elif packed:
            unpack = next((unpack for magic, unpack in _UNPACKERS if head.startswith(magic)), None)
            if unpack is None:
                raise Rejected(
                    "the initrd is packed in an unknown way; nothing was changed", "Pack it with gzip, xz, zstd or lz4."
                )
            yield from _names(_Reader(unpack(reader.rest())), packed=False)
            return
        else:
            raise ValueError("there is no archive in it")


def _archive(reader: _Reader) -> Iterator[str]:
    while reader.look(6) in _MAGICS:
        head = reader.take(_HEAD)
        size, length = (int(head[at : at + 8], 16) for at in (54, 94))
        if length > _NAME_MAX:
            raise ValueError("a name is too long")
        name = reader.take(length)[:-1].decode("utf-8", "replace")
        reader.align()
        if name == "TRAILER!!!":
            return
        yield name
        reader.skip(size)
        reader.align()


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def _unpack(make: Callable[[], _Unpacker]) -> Callable[[Iterator[bytes]], Iterator[bytes]]:
    def unpacked(parts: Iterator[bytes]) -> Iterator[bytes]:
        unpacker = make()
        for part in parts:
            yield unpacker.decompress(part)
            if unpacker.eof:
                return

    return unpacked


_UNPACKERS = (
    (b"\x1f\x8b", _unpack(lambda: zlib.decompressobj(31))),
    (b"\x28\xb5\x2f\xfd", _unpack(zstd.ZstdDecompressor)),
    (b"\xfd7zXZ", _unpack(lzma.LZMADecompressor)),
    (b"\x5d\x00\x00", _unpack(lzma.LZMADecompressor)),
    (lz4.MAGIC, lz4.decoded),
)
