"""Where an image comes from: a file, standard input or a URL, read once from its beginning to its end."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tbdiff.errors import Failed, NothingToDo, Rejected
from tbdiff.line import DIRECT, Line
from tbdiff.payload import Readable

if TYPE_CHECKING:
    from types import TracebackType

# Seconds for an index or a signature, from each place where it lies.
SMALL_TIME = 300.0


def is_url(source: str) -> bool:
    """Whether a source is fetched by HTTP."""
    return source.startswith(("http://", "https://"))


class Source:
    """An open image: `read`, how far it was read, and the name under which messages speak of it."""

    def __init__(self, name: str, stream: Readable) -> None:
        self.name = name
        self._stream = stream
        self._ahead = b""
        self.position = 0

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        forget = getattr(self._stream, "forget", None)
        if forget and (kind is None or issubclass(kind, (Rejected, NothingToDo))):
            forget()
        close = getattr(self._stream, "close", None)
        if close and not (sys.stdin and self._stream is sys.stdin.buffer):
            close()

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        if self._ahead:
            part, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            try:
                part = self._stream.read(size)
            except OSError as error:
                raise Failed(f"{self.name} cannot be read any further: {error.strerror or error}") from None
        self.position += len(part)
        return part

    def look(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end; they stay to be read."""
        parts: list[bytes] = []
        while size and (part := self.read(size)):
            parts.append(part)
            size -= len(part)
        self.put_back(b"".join(parts))
        return self._ahead

    def put_back(self, data: bytes) -> None:
        """Let `data` be read before what is still to come."""
        self.position -= len(data)
        self._ahead = data + self._ahead


def open_source(source: str, kept: Path | None = None, line: Line = DIRECT) -> Source:
    """Open a path, "-" for standard input, or an http(s) URL, which is fetched by `line`.

    What is fetched is kept in the directory `kept` until the source is closed without an error, or was rejected.
    """
    if source == "-":
        if sys.stdin is None:
            raise Failed("standard input is closed, so there is no image", "Pipe an image in, or name a file.")
        if os.isatty(0):
            raise Failed("standard input is a terminal, not an image", "Pipe an image in, or name a file.")
        return Source("standard input", sys.stdin.buffer)
    if is_url(source):
        try:
            return Source(source, _download(source, kept, line))
        except FileNotFoundError as error:
            raise Failed(f"{source} cannot be fetched: {error.strerror}") from None
    if "://" in source:
        raise Failed(f"{source} cannot be fetched: only http:// and https:// can", "Fetch it first, and name the file.")
    try:
        return Source(source, Path(source).open("rb", buffering=0))
    except OSError as error:
        raise Failed(f"{source} cannot be opened: {error.strerror}") from None


def _download(url: str, kept: Path | None, line: Line) -> Readable:
    from tbdiff.download import Download  # noqa: PLC0415 - it is heavy, and whoever reads a file does not need it
    from tbdiff.kept import KeptDownload  # noqa: PLC0415

    return Download(url, line=line) if kept is None else KeptDownload(url, kept, line)


def read_beside(source: str, suffix: str, limit: int, line: Line = DIRECT) -> bytes | None:
    """What lies beside a file or URL under its name with `suffix`; None if there is nothing."""
    if source == "-":
        return None
    return read_small(source + suffix, limit, line)


def read_small(source: str, limit: int, line: Line = DIRECT) -> bytes | None:
    """What a file or URL holds, at most `limit` bytes of it; None if it is not there.

    All of it has to come within minutes: a slow server must not hold up what waits for it.
    """
    try:
        if is_url(source):
            from tbdiff.download import Download  # noqa: PLC0415 - it is heavy

            with Source(source, Download(source, line=line, until=time.monotonic() + SMALL_TIME)) as beside:
                parts = []
                while limit > 0 and (part := beside.read(limit)):
                    parts.append(part)
                    limit -= len(part)
                return b"".join(parts)
        return read_plain(source, limit)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failed(f"{source} cannot be read: {error.strerror}") from None


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def read_plain(path: str, limit: int) -> bytes:
    """What a file holds, at most `limit` bytes; OSError for a pipe or device, which could let us wait for ever."""
    with open(path, "rb", opener=_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        return file.read(limit)
