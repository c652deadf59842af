"""A download whose bytes are kept in a file until it was used, so that a run after a cut need not fetch them again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from tbdiff.download import ChangedError, Download, Known

# A download is kept where so many times its size is free: what is made of it needs room too.
ROOM = 4


class KeptDownload:
    """What is behind a URL: first what an earlier run has kept of it, then the rest, which is kept in turn.

    The directory `place` holds what is begun now. What is in it is trusted no more than what a server sends.
    """

    def __init__(self, url: str, place: Path) -> None:
        stem = hashlib.sha256(url.encode()).hexdigest()[:32]
        self._part, self._facts = place / f"{stem}.part", place / f"{stem}.json"
        self._file = self._opened(place)
        self._held = 0
        try:
            self._download = self._begun(url) or self._anew(url)
        except BaseException:
            self._close_file()
            raise

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        if self._held and self._file is not None:
            data = self._file.read(min(size, self._held))
            if not data:
                raise OSError(0, f"{self._part} became shorter")
            self._held -= len(data)
            return data
        data = self._download.read(size)
        if self._file is not None:
            try:
                self._file.write(data)
            except OSError:
                # The room is better used for what is made of it.
                self.forget()
        return data

    def close(self) -> None:
        """Give the connection up; what came is kept."""
        self._download.close()
        self._close_file()

    def forget(self) -> None:
        """Keep nothing any more: it was used, or is of no use."""
        if self._file is not None:
            for path in (self._facts, self._part):
                path.unlink(missing_ok=True)
            self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _opened(self, place: Path) -> BinaryIO | None:
        """The file for what comes; none where it cannot be kept, or another run is at it."""
        try:
            place.mkdir(mode=0o700, exist_ok=True)
            file = os.fdopen(os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+b")
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        _clear(place, self._part)
        return file

    def _begun(self, url: str) -> Download | None:
        """The rest of what an earlier run has begun, if it is still the same file."""
        if self._file is None:
            return None
        size = os.fstat(self._file.fileno()).st_size
        try:
            known = Known(**json.loads(self._facts.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        if not size:
            return None
        # The last byte is asked for again: so the server has to say what file it is.
        with suppress(ChangedError):
            download = Download(url, known, size - 1)
            self._held = size - 1
            self._file.truncate(self._held)
            return download
        return None

    def _anew(self, url: str) -> Download:
        download = Download(url)
        if self._file is not None:
            try:
                self._begin(self._file, download.known)
            except OSError:
                self.forget()
        return download

    def _begin(self, file: BinaryIO, known: Known) -> None:
        """Keep what comes from now on, if there is room for it, and a later run can tell that it is the same file."""
        status = os.fstatvfs(file.fileno())
        room = status.f_bavail * status.f_frsize
        if known.size is None or not (known.tag or known.modified) or room < ROOM * known.size:
            self.forget()
        else:
            file.truncate(0)
            self._facts.write_text(json.dumps(asdict(known)))


def _clear(place: Path, kept: Path) -> None:
    """Remove what other URLs left behind, unless somebody is at it."""
    for path in place.glob("*.part"):
        with suppress(OSError):
            if path != kept:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    path.with_suffix(".json").unlink()
