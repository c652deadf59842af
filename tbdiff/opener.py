"""HTTP requests that do not trust who answers: what may be asked, where an answer may lead, how long it may take."""

from __future__ import annotations

import functools
import http.client
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import IO, Any

from tbdiff.connection import FAULT, PACE, Encrypted, Patience, Plain, Tunnelled
from tbdiff.entry import printable
from tbdiff.errors import Failed
from tbdiff.line import DIRECT, Line, origin

SECRETS = ("Authorization", "Cookie")

HOST = re.compile(r"[A-Za-z0-9._:-]+")


def check_address(url: str) -> None:
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


def reason(problem: Exception) -> str:
    """What went wrong, in words; what a server says is shown without what could move a terminal's cursor."""
    inner = getattr(problem, "reason", None) or problem
    text = getattr(inner, "strerror", None) or str(inner)
    if isinstance(inner, ssl.SSLCertVerificationError):
        text = f"its certificate is not good: {inner.verify_message}"
    if isinstance(problem, http.client.HTTPException):
        text = "what answers there does not speak HTTP"
    return printable(text.encode("utf-8", "surrogateescape"))


def open_url(
    url: str,
    line: Line = DIRECT,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    method: str = "GET",
    until: float | None = None,
    pace: int = PACE,
) -> Any:
    """Ask for `url`; the response, whose body is still to be read.

    `until` is the moment (of the monotonic clock) when all of it must have come, `pace` how many bytes a second, at
    least. HTTPError: the server refused. OSError, HTTPException: it may go better another time. Failed: it will not.
    """
    check_address(url)
    _check_origin(url, url, line)
    patience = Patience(url, until, line.bucket, pace)
    request = urllib.request.Request(url, body, dict(headers or {}), method=method)  # noqa: S310 - only http(s) here
    _identify(request, line)
    handlers: list[urllib.request.BaseHandler] = [_Redirects(line), _Handler(line, patience)]
    if line.carrier is not None:
        # Which proxy the carrier uses, it is told.
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        return urllib.request.build_opener(*handlers).open(request, timeout=patience.next())
    except urllib.error.HTTPError as error:
        fault = error.headers.get(FAULT) if line.carrier is not None else None
        if fault is None:
            raise
        error.close()
        fault = printable(fault.encode("utf-8", "surrogateescape"))
        raise ConnectionError(fault) if error.code >= 500 else Failed(f"{url} cannot be fetched: {fault}") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise Failed(f"{url} cannot be fetched: {reason(error)}") from None
        raise


def _identify(request: urllib.request.Request, line: Line) -> None:
    """Show who we are to the one server that may know it; a redirect takes nothing of that along."""
    if line.identity is not None and origin(request.full_url) == line.identity.origin:
        for name, value in line.identity.headers.items():
            request.add_unredirected_header(name, value)


class _Carried(Plain):
    """A connection to the carrier, which is asked by whole addresses."""

    def __init__(self, *more: Any, line: Line, **said: Any) -> None:
        super().__init__(*more, **said)
        self._line = line

    def connect(self) -> None:
        if self._line.carrier is None:
            raise AssertionError("nobody carries")
        self.sock = self._line.carrier.connect()
        self.sock.settimeout(self.timeout)


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens connections: to the server, or to who fetches for us."""

    def __init__(self, line: Line, patience: Patience) -> None:
        super().__init__()
        self._line, self._patience = line, patience

    def http_open(self, req: urllib.request.Request) -> Any:
        return self._open(Plain, req)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self._open(Encrypted, req)

    def _open(self, kind: Any, req: urllib.request.Request) -> Any:
        more: dict[str, Any] = {"patience": self._patience}
        carrier, identity = self._line.carrier, self._line.identity
        if identity is not None and (kind is Plain or identity.origin != origin(req.full_url)):
            identity = None
        if identity is not None and (carrier is None or identity.certificate):
            more["context"] = identity.context()
        if carrier is not None and identity is not None and identity.certificate:
            # Whoever carries shall not have its key.
            kind, more["carrier"] = Tunnelled, carrier
        elif carrier is not None:
            kind, more["line"] = _Carried, self._line
            url = urllib.parse.urldefrag(req.full_url)[0]
            req.selector = url
            for name, value in carrier.headers(url).items():
                req.add_unredirected_header(name, value)
        return self.do_open(functools.partial(kind, **more), req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to where HTTP is spoken and the line may lead, and from an encrypted connection only to such."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def redirect_request(self, req: urllib.request.Request, *answer: Any) -> urllib.request.Request | None:
        url = str(answer[-1])
        try:
            if not url.startswith(("https://",) if req.full_url.startswith("https://") else ("http://", "https://")):
                raise Failed(
                    f"{req.full_url} cannot be fetched: the server sends us where we do not go", "Ask its keeper."
                )
            check_address(url)
            _check_origin(url, req.full_url, self._line)
        except Failed:
            answer[0].close()
            raise
        further = super().redirect_request(req, *answer)
        if further is not None and origin(url) != origin(req.full_url):
            for name in SECRETS:
                further.remove_header(name)
        if further is not None:
            _identify(further, self._line)
        return further

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


def _check_origin(url: str, asked: str, line: Line) -> None:
    if line.origins is None or origin(url) in line.origins:
        return
    if url == asked:
        raise Failed(f"{url} is not fetched: this source may not lead there")
    raise Failed(
        f"{asked} cannot be fetched: the server sends us to {origin(url)}",
        "If that is meant, name it in redirects of the source.",
    )
