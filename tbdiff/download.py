"""The body of an HTTP response as a stream that is taken up again where a connection was cut."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import IO, Annotated, Any, TypeVar

import pydantic

from tbdiff.entry import printable
from tbdiff.errors import Failed

# One after the other without a byte in between; the pauses between them double.
TRIES = 6
PAUSE = 1.0
TIMEOUT = 60.0
# Whoever sends fewer bytes a second, for as long as that, is not waited for any longer.
PACE = 256
STEP = 1 << 18

HOST = re.compile(r"[A-Za-z0-9._:-]+")

T = TypeVar("T")


class ChangedError(Failed):
    """What is behind a URL is not what it was."""


def _check_address(url: str) -> None:
    """Refuse what Python would stumble over when it has opened a connection already."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        # A label that is empty or too long cannot be looked up.
        host.encode("idna")
        if HOST.fullmatch(host) and url.isascii() and parts.port != 0:
            return
    except ValueError:
        pass
    raise Failed(
        f"{printable(url.encode('utf-8', 'surrogateescape'))} cannot be fetched: it is no address of anything",
        "Name it as http://HOST/PATH or https://HOST/PATH.",
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to where HTTP is spoken, and from an encrypted connection only to another one."""

    def redirect_request(self, req: urllib.request.Request, *answer: Any) -> urllib.request.Request | None:
        url = str(answer[-1])
        if not url.startswith(("https://",) if req.full_url.startswith("https://") else ("http://", "https://")):
            answer[0].close()
            raise Failed(f"{req.full_url} cannot be fetched: the server sends us where we do not go", "Ask its keeper.")
        try:
            _check_address(url)
        except Failed:
            answer[0].close()
            raise
        return super().redirect_request(req, *answer)

    def http_error_302(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
    ) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:
            fp.close()
            raise Failed(f"{req.full_url} cannot be fetched: the server sends us to what is no address") from None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Response(http.client.HTTPResponse):
    """A response whose parts have no sizes below zero: Python would read them to the end of memory."""

    def _read_next_chunk_size(self) -> int:
        try:
            size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        except ValueError:
            size = -1
        if size < 0:
            raise http.client.HTTPException("a part of a size below zero")
        return size


class _Plain(http.client.HTTPConnection):
    response_class = _Response


class _Encrypted(http.client.HTTPSConnection):
    response_class = _Response


class _PlainHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Plain, req)


class _EncryptedHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Encrypted, req)


_OPENER = urllib.request.build_opener(_Redirects, _PlainHandler, _EncryptedHandler)


def _reason(problem: Exception) -> str:
    """What went wrong, in words; what a server says is shown without what could move a terminal's cursor."""
    inner = getattr(problem, "reason", None) or problem
    text = getattr(inner, "strerror", None) or str(inner)
    if isinstance(problem, http.client.HTTPException):
        text = "what answers there does not speak HTTP"
    return printable(text.encode("utf-8", "surrogateescape"))


Header = Annotated[str, pydantic.StringConstraints(pattern=r"^[ -~]{1,500}$")]


class Known(pydantic.BaseModel):
    """What tells the file behind a URL from another one: its size and its validators, as far as the server tells."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid")

    size: Annotated[int, pydantic.Field(ge=0, lt=1 << 63)] | None
    tag: Header | None
    modified: Header | None


class Download:
    """The body of an HTTP response. A byte that was read is not asked for again, however often the connection breaks.

    What goes on must be the same file: the server says so by its answer to `If-Range`, and by its validators.
    """

    def __init__(self, url: str, begun: Known | None = None, position: int = 0) -> None:
        """Open `url`; or go on at `position` with the file that was `begun` in another run."""
        _check_address(url)
        self._url = url
        self._position = position
        self._response: Any = None
        self._size = begun.size if begun else None
        self._tag = begun.tag if begun else None
        self._modified = begun.modified if begun else None
        self._waited, self._came = 0.0, 0
        self._trying(lambda: None)

    @property
    def known(self) -> Known | None:
        """What the server told of the file; None if that is nothing to be kept."""
        try:
            return Known(size=self._size, tag=self._tag, modified=self._modified)
        except pydantic.ValidationError:
            return None

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        return self._trying(lambda: self._read(size))

    def close(self) -> None:
        """Give the connection up."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def _trying(self, act: Callable[[], T]) -> T:
        """Do something with an open response; where it fails, wait a little and go on from the last byte."""
        for n in range(TRIES):
            try:
                if self._response is None:
                    self._open()
                return act()
            except FileNotFoundError:
                raise
            except (OSError, http.client.HTTPException) as error:
                self.close()
                problem = error
            if n + 1 < TRIES:
                time.sleep(PAUSE * 2**n)
        further = " any further" if self._position else ""
        raise Failed(f"{self._url} cannot be fetched{further}: {_reason(problem)}", "Try again later.") from None

    def _read(self, size: int) -> bytes:
        data = self._received(size)
        if not data and self._size is not None and self._position < self._size:
            raise ConnectionError("the connection was cut")
        self._position += len(data)
        return data

    def _received(self, size: int) -> bytes:
        """What is there, up to `size` bytes; a server that lets us wait for it is given up."""
        before = time.monotonic()
        # A read for all of it would wait for the last byte.
        data: bytes = self._response.read1(size)
        # Only the time counts that was spent on waiting.
        self._waited += time.monotonic() - before
        self._came += len(data)
        if self._waited >= TIMEOUT:
            if self._came < PACE * self._waited:
                self.close()
                raise Failed(f"{self._url} cannot be fetched: it comes too slowly", "Try again later.")
            self._waited, self._came = 0.0, 0
        return data

    def _open(self) -> None:
        headers = {"User-Agent": "tbdiff", "Accept-Encoding": "identity"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
            validator = self._validator
            if validator:
                # If the file was replaced meanwhile, its two halves do not belong together.
                headers["If-Range"] = validator
        request = urllib.request.Request(self._url, headers=headers)  # noqa: S310 - only http(s) gets here
        try:
            self._response = _OPENER.open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            reason = str(error.reason).partition("\n")[0]
            says = f"the server says {error.code} {printable(reason.encode('utf-8', 'surrogateescape'))}"
            if error.code in (404, 410) and not self._position:
                raise FileNotFoundError(2, "the server does not have it", self._url) from None
            if error.code == 416 and self._position:
                raise self._changed() from None
            if error.code < 500 and error.code not in (408, 429):
                raise Failed(f"{self._url} cannot be fetched: {says}") from None
            raise ConnectionError(says) from None
        if self._position:
            self._go_on()
        else:
            told = self._response.headers
            length = told.get("Content-Length") or ""
            self._size = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
            self._tag, self._modified = told.get("ETag"), told.get("Last-Modified")

    @property
    def _validator(self) -> str | None:
        """What tells this file from another one byte by byte; a weak tag does not."""
        return self._tag if self._tag and not self._tag.startswith("W/") else self._modified

    def _go_on(self) -> None:
        """See that the new response is the rest of the same file; pass over what was read where it is all of it."""
        told = self._response.headers
        same = told.get("ETag") == self._tag and told.get("Last-Modified") == self._modified
        if self._response.status == 206:
            part = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", told.get("Content-Range") or "")
            size = None if part is None or part[2] == "*" else int(part[2])
            if part and int(part[1]) == self._position and same and (size is None or self._size in (None, size)):
                return
        elif same and self._validator:
            # A server that knows no ranges: it has to send all of it again.
            left = self._position
            while left and (data := self._received(min(left, STEP))):
                left -= len(data)
            if left:
                raise ConnectionError("the connection was cut")
            return
        raise self._changed()

    def _changed(self) -> ChangedError:
        self.close()
        return ChangedError(f"{self._url} changed while it was fetched; nothing was changed here", "Start again.")
