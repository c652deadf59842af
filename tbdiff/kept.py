"""A download whose bytes are kept in a file until it was used, so that a run after a cut need not fetch them again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pydantic

from tbdiff.download import ChangedError, Download, Known
from tbdiff.line import DIRECT, Line

# A download is kept where so many times its size is free: what is made of it needs room too.
ROOM = 4
# What the server told of the file stands before what it sent.
HEAD = 4096
# What other URLs left behind goes when nobody went on with it for a day.
FORGOTTEN = 24 * 3600
NAME = re.compile(r"[0-9a-f]{32}\.part")


class KeptDownload:
    """What is behind a URL: first what an earlier run has kept of it, then the rest, which is kept in turn.

    What is in the directory `place` is trusted no more than what a server sends.
    """

    def __init__(self, url: str, place: Path, line: Line = DIRECT) -> None:
        self._line = line
        self._path = place / f"{hashlib.sha256(url.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.part"
        self._file = _opened(self._path)
        self._held = 0
        try:
            self._download = self._begun(url) or self._anew(url)
        except BaseException:
            self._end()
            raise
        _clear(place, self._path)

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        if self._held and self._file is not None:
            data = self._file.read(min(size, self._held))
            if not data:
                raise OSError(0, f"{self._path} became shorter")
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
        self._end()

    def forget(self) -> None:
        """Keep nothing any more: it was used, or is of no use."""
        if self._file is not None:
            with suppress(OSError):
                self._path.unlink()
            self._end()

    def _end(self) -> None:
        """Close the file; one that holds nothing goes."""
        if self._file is None:
            return
        with suppress(OSError):
            self._file.flush()
        with suppress(OSError):
            found = os.fstat(self._file.fileno())
            if found.st_nlink and found.st_size <= HEAD:
                self._path.unlink()
        with suppress(OSError):
            self._file.close()
        self._file = None

    def _begun(self, url: str) -> Download | None:
        """The rest of what an earlier run has begun, if it is still the same file."""
        if self._file is None:
            return None
        held = os.fstat(self._file.fileno()).st_size - HEAD
        try:
            known = Known.model_validate_json(self._file.read(HEAD).rstrip(b"\0"))
        except (OSError, pydantic.ValidationError):
            return None
        if known.size is None or not 0 < held <= known.size:
            return None
        # The last byte is asked for again: so the server has to say what file it is.
        with suppress(ChangedError):
            download = Download(url, known, held - 1, line=self._line)
            self._held = held - 1
            self._file.truncate(HEAD + self._held)
            return download
        return None

    def _anew(self, url: str) -> Download:
        download = Download(url, line=self._line)
        if self._file is not None:
            try:
                self._begin(self._file, download.known)
            except OSError:
                self.forget()
        return download

    def _begin(self, file: BinaryIO, known: Known | None) -> None:
        """Keep what comes from now on, if there is room for it, and a later run can tell that it is the same file."""
        status = os.fstatvfs(file.fileno())
        room = status.f_bavail * status.f_frsize
        if known is None or known.size is None or not (known.tag or known.modified) or room < ROOM * known.size:
            self.forget()
            return
        file.seek(0)
        file.truncate(0)
        file.write(known.model_dump_json().encode().ljust(HEAD, b"\0"))


def _opened(path: Path) -> BinaryIO | None:
    """The file for what comes, locked; none where it cannot be kept, another run is at it, or somebody else made it."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
            raise OSError(0, "not our own")
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return os.fdopen(fd, "r+b")


def _clear(place: Path, kept: Path) -> None:
    """Remove what nobody went on with."""
    with suppress(OSError):
        for path in place.iterdir():
            if path != kept and NAME.fullmatch(path.name) and path.lstat().st_mtime < time.time() - FORGOTTEN:
                path.unlink()
