"""The body of an HTTP response as a stream that is taken up again where a connection was cut."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from typing import Any

from tbdiff.errors import Failed

TRIES = 5
TIMEOUT = 60.0
PAUSE = 1.0


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
