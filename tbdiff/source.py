"""Where an image comes from: a file, standard input or a URL, read once from its beginning to its end."""

from __future__ import annotations

import http.client
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbdiff.errors import Failed
from tbdiff.payload import Readable

if TYPE_CHECKING:
    from types import TracebackType

TRIES = 5
TIMEOUT = 60.0
PAUSE = 1.0


def is_url(source: str) -> bool:
    """Whether a source is fetched by HTTP."""
    return source.startswith(("http://", "https://"))


class Source:
    """An open image: `read`, and the name under which messages speak of it."""

    def __init__(self, name: str, stream: Readable) -> None:
        self.name = name
        self._stream = stream

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        close = getattr(self._stream, "close", None)
        if close and self._stream is not sys.stdin.buffer:
            close()

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        try:
            return self._stream.read(size)
        except OSError as error:
            raise Failed(f"{self.name} cannot be read any further: {error.strerror or error}") from None


def open_source(source: str) -> Source:
    """Open a path, "-" for standard input, or an http(s) URL."""
    if source == "-":
        if os.isatty(0):
            raise Failed("standard input is a terminal, not an image", "Pipe an image in, or name a file.")
        return Source("standard input", sys.stdin.buffer)
    if is_url(source):
        return Source(source, Download(source))
    try:
        return Source(source, Path(source).open("rb", buffering=0))
    except OSError as error:
        raise Failed(f"{source} cannot be opened: {error.strerror}") from None


def read_beside(source: str, suffix: str, limit: int) -> bytes | None:
    """What lies beside a file or URL under its name with `suffix`; None if there is nothing."""
    if source == "-":
        return None
    try:
        if is_url(source):
            with Source(source + suffix, Download(source + suffix)) as beside:
                parts = []
                while limit > 0 and (part := beside.read(limit)):
                    parts.append(part)
                    limit -= len(part)
                return b"".join(parts)
        with Path(source + suffix).open("rb") as file:
            return file.read(limit)
    except FileNotFoundError:
        return None


class Download:
    """The body of an HTTP response; a cut connection is taken up again where it broke off."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._position = 0
        self._validator: str | None = None
        self._response: Any = None
        self._size: int | None = None
        self._open()

    def _open(self) -> None:
        import urllib.request  # noqa: PLC0415 - whoever reads a file does not pay for it

        headers = {"User-Agent": "tbdiff", "Accept-Encoding": "identity"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
            if self._validator:
                # If the file was replaced meanwhile, its two halves do not belong together.
                headers["If-Range"] = self._validator
        request = urllib.request.Request(self._url, headers=headers)  # noqa: S310 - only http(s) gets here
        try:
            self._response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise FileNotFoundError(2, "the server does not have it", self._url) from None
            if error.code < 500:
                raise Failed(f"{self._url} cannot be fetched: the server says {error.code} {error.reason}") from None
            raise ConnectionError(f"the server says {error.code} {error.reason}") from None
        if self._position and self._response.status != 206:
            raise Failed(f"{self._url} changed while it was fetched; nothing was changed here", "Start again.")
        if not self._position:
            length = self._response.headers.get("Content-Length")
            self._size = int(length) if length and length.isdigit() else None
            self._validator = self._response.headers.get("ETag") or self._response.headers.get("Last-Modified")

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        tries = 0
        while True:
            try:
                if self._response is None:
                    self._open()
                data: bytes = self._response.read(size)
                if data or self._size is None or self._position >= self._size:
                    self._position += len(data)
                    return data
                raise ConnectionError("the connection was cut")
            except (OSError, http.client.HTTPException) as error:
                self.close()
                tries += 1
                if tries >= TRIES or self._size is None:
                    raise Failed(f"{self._url} cannot be fetched any further: {error}", "Try again later.") from None
                time.sleep(PAUSE * tries)

    def close(self) -> None:
        """Give the connection up."""
        if self._response is not None:
            self._response.close()
            self._response = None
