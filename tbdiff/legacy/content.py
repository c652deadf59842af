"""The contents that a legacy stream brings: staged under their digests as they come, old parts shared with the base."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress

from tbdiff.arrival import ARRIVING, Arrivals
from tbdiff.content import BLOCK
from tbdiff.entry import Entry, Kind, Listing, printable
from tbdiff.errors import Failed, Malformed, Rejected
from tbdiff.legacy.commands import SIZE_MAX, PatchFile
from tbdiff.metadata import write_at
from tbdiff.staging import Staging
from tbdiff.tree import data_extents

STEP = 1 << 20
# What a stream may copy beyond what its base holds, which a stream of the original tool does not do at all: each
# command of sixty bytes could make a device read and write gigabytes.
COPIED_MAX = 1 << 32


class LegacyContents:
    """Puts new contents into a staging directory."""

    def __init__(self, staging: Staging, base: Listing) -> None:
        self._staging = staging
        self._arrivals = Arrivals(staging.fd, base)
        self._numbers = {digest: n for n, digest in base.digests()}
        self._to_copy = COPIED_MAX + sum(_size(base, entry) for entry in base.entries)

    def make(self, entry: Entry, pieces: Iterator[bytes]) -> Entry:
        """The entry with the digest of its content, which is staged."""
        return self._arrivals.take(entry, _placed(pieces))

    def patch(self, entry: Entry, old: Entry, command: PatchFile) -> Entry:
        """The entry with size, digest and holes of the old entry's content, patched; it is staged."""
        if command.end > old.size:
            raise Rejected(
                f"the image changes {printable(entry.path)!r} up to byte {command.end}, and it has {old.size}",
                "The tree is not the one that the image was made for; it was left as it is.",
            )
        if old.size > SIZE_MAX:
            raise Malformed(f"the image changes {printable(entry.path)!r}, which is too large for it to say where")
        self._to_copy -= old.size
        if self._to_copy < 0:
            raise Malformed("the image copies more than its base holds")
        kept = old.size - command.end
        size = command.start + command.size + kept
        source = self._open(old)
        try:
            if os.fstat(source).st_size != old.size:
                raise Failed(
                    f"{printable(entry.path)!r} changed while the image was applied; the tree was left as it is"
                )
            made = _Patched(self._staging.new_file(ARRIVING))
            try:
                made.share(source, 0, command.start)
                for piece in command.pieces:
                    made.write(piece)
                made.share(source, command.end, kept)
                digest, extents = made.digest(), data_extents(made.fd, size)
            finally:
                os.close(made.fd)
        finally:
            os.close(source)
        self._arrivals.keep(digest)
        return entry._replace(size=size, digest=digest, extents=old.extents if digest == old.digest else extents)

    def _open(self, entry: Entry) -> int:
        """A descriptor of the content of `entry`: of the base, or staged before."""
        number = self._numbers.get(entry.digest)
        if number is None:
            return self._staging.file(entry.digest.hex().encode())
        return os.dup(self._staging.base_file(number))


def _placed(pieces: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    offset = 0
    for piece in pieces:
        yield offset, piece
        offset += len(piece)


def _size(base: Listing, entry: Entry) -> int:
    """The size of what is at an entry's name."""
    if entry.kind is not Kind.HARDLINK:
        return entry.size
    head = base.get(entry.link)
    return head.size if head else 0


class _Patched:
    """A content that is put together from its beginning to its end."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._hash = hashlib.sha256()
        self._position = 0

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._hash.update(data)
        write_at(self.fd, data, self._position)
        self._position += len(data)

    def share(self, source: int, offset: int, length: int) -> None:
        """Append a part of a file; whole blocks that come to lie on blocks share their extents with it."""
        end = offset + length
        while offset < end:
            # Steps end on blocks, so that only the ends of the part are copied.
            step = min(end, (offset // STEP + 1) * STEP) - offset
            data = os.pread(source, step, offset)
            if len(data) != step:
                raise Failed("a file of the base became shorter while it was read; the tree was left as it is")
            self._hash.update(data)
            self._place(source, offset, data)
            self._position += step
            offset += step

    def _place(self, source: int, offset: int, data: bytes) -> None:
        head = min(-offset % BLOCK, len(data))
        blocks = (len(data) - head) // BLOCK * BLOCK
        done = 0
        if blocks and not (offset - self._position) % BLOCK:
            with suppress(OSError):  # not every file system can; then the bytes are written
                done = os.copy_file_range(source, self.fd, blocks, offset + head, self._position + head)
        write_at(self.fd, data[:head], self._position)
        write_at(self.fd, data[head + done :], self._position + head + done)

    def digest(self) -> bytes:
        """The SHA-256 of all of it."""
        return self._hash.digest()
