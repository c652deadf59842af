"""HTTP connections that are bounded where Python's are not: in time, in the sizes of parts, in what follows them."""

from __future__ import annotations

import functools
import http
import http.client
import io
import socket
import ssl
import time
from typing import Any

from tbdiff.errors import Failed
from tbdiff.line import Bucket, Carrier

TIMEOUT = 60.0
# Whoever sends fewer bytes a second, for as long as that, is not waited for any longer.
PACE = 256
# The same where another place may be faster.
BRISK = 1 << 14
# Until a server has said what it sends.
HEAD_TIME = 120.0
TRAILERS_MAX = 100
# What a carrier says of what kept it from an answer; no server's word of that name comes through it.
FAULT = "Tb-Fault"


class Patience:
    """How long an answer may let us wait, in all and for each part of it."""

    def __init__(self, url: str, until: float | None = None, bucket: Bucket | None = None, pace: int = PACE) -> None:
        self.bucket = bucket
        self._url, self._pace = url, pace
        self._until = until
        self._head = time.monotonic() + HEAD_TIME
        self._waited, self._came = 0.0, 0

    def has_begun(self) -> None:
        """The head of the answer is there."""
        self._head = float("inf")

    def next(self) -> float:
        """Seconds that may be waited for what comes next."""
        now = time.monotonic()
        if self._until is not None and self._until <= now:
            raise Failed(f"{self._url} cannot be fetched: it takes too long", "Try again later.")
        if self._head <= now:
            raise TimeoutError("timed out")
        return min(self._head - now, (self._until or self._head) - now, TIMEOUT)

    def came(self, size: int, waited: float) -> None:
        """So many bytes came after so many seconds of waiting; only these count, not what we did in between."""
        self._waited += waited
        self._came += size
        if self._waited >= TIMEOUT:
            if self._came < self._pace * self._waited:
                raise Failed(f"{self._url} cannot be fetched: it comes too slowly", "Try again later.")
            self._waited, self._came = 0.0, 0
        if self.bucket is not None:
            self.bucket.take(size)


class _Watched(io.RawIOBase):
    """What comes from a socket, with patience."""

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        self._sock = sock
        # It holds the connection open until the response is closed.
        self._raw = sock.makefile("rb", buffering=0)
        self._patience = patience

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self._patience.bucket is not None:
            buffer = memoryview(buffer)[: self._patience.bucket.step]
        self._sock.settimeout(self._patience.next())
        before = time.monotonic()
        # It blocks, so there is a number.
        size = self._raw.readinto(buffer) or 0
        self._patience.came(size, time.monotonic() - before)
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Maker:
    """A socket as far as a response knows it."""

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        self._made = _Watched(sock, patience)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._made)


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *more: Any, patience: Patience, **said: Any) -> None:
        super().__init__(_Maker(sock, patience), *more, **said)  # type: ignore[arg-type]
        self._patience = patience

    def begin(self) -> None:
        super().begin()
        self._patience.has_begun()

    def _read_next_chunk_size(self) -> int:
        try:
            size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        except ValueError:
            size = -1
        # Python would read a size below zero to the end of memory.
        if size < 0:
            raise http.client.HTTPException("a part of a size below zero")
        return size

    def _read_and_discard_trailer(self) -> None:
        for _ in range(TRAILERS_MAX):
            if self.fp.readline(1 << 12) in (b"\r\n", b"\n", b""):
                return
        raise http.client.HTTPException("no end of what follows the body")


class Plain(http.client.HTTPConnection):
    def __init__(self, *more: Any, patience: Patience, **said: Any) -> None:
        super().__init__(*more, **said)
        self.response_class = functools.partial(_Response, patience=patience)  # type: ignore[assignment]


class Encrypted(http.client.HTTPSConnection):
    def __init__(self, *more: Any, patience: Patience, **said: Any) -> None:
        super().__init__(*more, **said)
        self.response_class = functools.partial(_Response, patience=patience)  # type: ignore[assignment]


class Tunnelled(Encrypted):
    """An encrypted connection through a carrier, which passes on what it cannot read."""

    def __init__(self, *more: Any, carrier: Carrier, context: ssl.SSLContext, **said: Any) -> None:
        super().__init__(*more, context=context, **said)
        self._carrier, self._encryption = carrier, context

    def connect(self) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        url = f"https://{host}:{self.port}"
        lines = [f"CONNECT {url} HTTP/1.1", *(f"{name}: {told}" for name, told in self._carrier.headers(url).items())]
        self.sock = self._carrier.connect()
        try:
            self.sock.settimeout(self.timeout)
            self.sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            # Patience of its own: the head that is waited for comes later.
            with _Response(self.sock, method="CONNECT", patience=Patience(url)) as answer:
                answer.begin()
                if answer.status != http.HTTPStatus.OK:
                    raise ConnectionError(answer.headers.get(FAULT, answer.reason))
            self.sock = self._encryption.wrap_socket(self.sock, server_hostname=self.host)
        except BaseException:
            self.close()
            raise
