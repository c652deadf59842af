"""Contents that come before their digests are known: staged as they come, or only hashed, or passed by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Protocol

from tbdiff.entry import Entry, Listing, printable
from tbdiff.errors import Rejected
from tbdiff.metadata import write_at

ARRIVING = b"arriving"
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
ZEROS = bytes(1 << 18)
# Smaller contents are not worth a question.
ASK_ABOVE = 1 << 20

Blocks = Iterator[tuple[int, bytes]]


class Receiver(Protocol):
    """Who takes the contents of a tarball's files."""

    def take(self, entry: Entry, blocks: Blocks) -> Entry:
        """The entry with the digest of its content, which comes in blocks with holes in between."""


class PassingBy:
    """Takes no content; digests stay empty."""

    def take(self, entry: Entry, blocks: Blocks) -> Entry:
        """The entry as it is."""
        return entry


class Hashing:
    """Takes contents only to know their digests."""

    def take(self, entry: Entry, blocks: Blocks) -> Entry:
        """The entry with its digest."""
        digest = _Digest()
        for offset, data in blocks:
            digest.update(offset, data)
        return entry._replace(digest=digest.finish(entry.size))


class Arrivals:
    """Puts contents into the staging directory `directory`, each under its digest; what `base` holds is not kept."""

    def __init__(self, directory: int, base: Listing) -> None:
        self._directory = directory
        self._held = {entry.digest for entry in base.entries if entry.digest}

    def take(self, entry: Entry, blocks: Blocks) -> Entry:
        """The entry with its digest; its content is staged."""
        self._check_space(entry)
        digest = _Digest()
        fd = os.open(ARRIVING, NEW, 0o600, dir_fd=self._directory)
        try:
            for offset, data in blocks:
                digest.update(offset, data)
                write_at(fd, data, offset)
            os.ftruncate(fd, entry.size)
        finally:
            os.close(fd)
        found = digest.finish(entry.size)
        self.keep(found)
        return entry._replace(digest=found)

    def keep(self, digest: bytes) -> None:
        """Keep what has arrived under its digest, unless that is there already."""
        if digest in self._held:
            os.unlink(ARRIVING, dir_fd=self._directory)
        else:
            self._held.add(digest)
            os.rename(ARRIVING, digest.hex(), src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def _check_space(self, entry: Entry) -> None:
        carried = entry.size if entry.extents is None else sum(length for _, length in entry.extents)
        if carried < ASK_ABOVE:
            return
        status = os.fstatvfs(self._directory)
        if carried > status.f_bavail * status.f_frsize:
            raise Rejected(
                f"there is no room for {printable(entry.path)!r}: it has {carried >> 20} MiB, and "
                f"{status.f_bavail * status.f_frsize >> 20} MiB are free; nothing was changed",
                "Make room first.",
            )


class _Digest:
    """The SHA-256 of a content that comes with holes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._hashed = 0

    def update(self, offset: int, data: bytes) -> None:
        """The next block; what was left out before it is zeros."""
        self._zeros(offset)
        self._hash.update(data)
        self._hashed += len(data)

    def _zeros(self, until: int) -> None:
        while self._hashed < until:
            step = min(len(ZEROS), until - self._hashed)
            self._hash.update(ZEROS if step == len(ZEROS) else ZEROS[:step])
            self._hashed += step

    def finish(self, size: int) -> bytes:
        """The digest of `size` bytes."""
        self._zeros(size)
        return self._hash.digest()
