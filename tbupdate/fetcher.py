"""The fetcher: a process without rights that goes to the network for one that has rights, and no network.

It is an HTTP proxy for whole addresses, also for https, on a Unix socket. It follows no redirects, holds no
configuration and keeps nothing: each request is served by a process of its own, and says itself which proxy and which
certificates count. To a server that wants a certificate of ours it is a tunnel: the key stays where it is.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import selectors
import signal
import socket
import ssl
import struct
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from tbdiff.connection import FAULT, HEAD_TIME, TIMEOUT, Encrypted, Patience, Plain
from tbdiff.errors import Failed
from tbdiff.line import PORTS
from tbupdate.errand import CERTIFICATES, PROXY, READY

# Certificates of its own are the most that a request holds.
HEAD_MAX = 1 << 18
BODY_MAX = 1 << 20
STEP = 1 << 16
PROCESSES = 16
# Nobody asked for so many seconds: whoever listens for us starts us again.
IDLE = 30.0
# As systemd hands it over.
LISTENING = 3
TUNNEL = "CONNECT"
METHODS = ("GET", "POST", "PUT", "DELETE", TUNNEL)
_HOPS = ("Host", "Connection", "Proxy-Connection", "Proxy-Authorization", "Keep-Alive", "Te", "Trailer", "Upgrade")
_NOT_PASSED_ON = frozenset((*_HOPS, "Transfer-Encoding", "Content-Length", "Expect"))
_ANSWERED = ("Content-Range", "Content-Type", "Content-Encoding", "ETag", "Last-Modified", "Location", "Retry-After")
_LINE = re.compile(r"([A-Z]+) (https?://[!-~]+) HTTP/1\.1")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~\t\x80-\xff]*)")
# Not the server's, but ours: a certificate that is not good is none in a minute either.
BAD_REQUEST, BAD_CERTIFICATE, BAD_GATEWAY = 400, 495, 502


class RefusedError(Exception):
    """What was asked is no request that is served here."""


@dataclass(frozen=True)
class Request:
    """What is to be asked of whom, and by which way."""

    method: str
    url: urllib.parse.SplitResult
    headers: dict[str, str]
    body: bytes
    proxy: urllib.parse.SplitResult | None
    certificates: str


def read_request(receive: Callable[[int], bytes]) -> Request:
    """Read one request; what is not understood to the last byte is refused."""
    head, found, rest = b"", b"", b""
    while not found:
        data = receive(STEP)
        if not data or len(head) > HEAD_MAX:
            raise RefusedError("the request has no end")
        head, found, rest = (head + rest + data).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    asked = _LINE.fullmatch(first)
    if asked is None or asked[1] not in METHODS:
        raise RefusedError("the request is none that is understood")
    told: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None or header[1].title() in told:
            raise RefusedError("a header of the request is not understood")
        told[header[1].title()] = header[2]
    length = told.get("Content-Length", "0")
    if "Transfer-Encoding" in told or not re.fullmatch("[0-9]{1,7}", length) or int(length) > BODY_MAX:
        raise RefusedError("the body of the request is too long")
    body = rest
    while len(body) < int(length):
        data = receive(STEP)
        if not data:
            raise RefusedError("the request has no end")
        body += data
    try:
        url = _address(asked[2])
        proxy = _address(told[PROXY]) if PROXY in told else None
        certificates = base64.b64decode(told.get(CERTIFICATES, ""), validate=True).decode("ascii")
    except ValueError:
        raise RefusedError("an address or a certificate of the request is none") from None
    if asked[1] == TUNNEL and (url.scheme != "https" or body):
        raise RefusedError("a tunnel leads to where it is encrypted, and nothing goes before")
    if proxy is not None and proxy.scheme != "http":
        raise RefusedError("a proxy must be spoken to by http")
    rest_of = {name: told[name] for name in told if name not in _NOT_PASSED_ON and not name.startswith("Tb-")}
    return Request(asked[1], url, rest_of, body[: int(length)], proxy, certificates)


def _address(text: str) -> urllib.parse.SplitResult:
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(text)
    parts.hostname.encode("idna")
    return parts


def answer(connection: socket.socket) -> None:
    """Serve the one request of a connection."""
    signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, HEAD_TIME)
    try:
        asked = read_request(connection.recv)
        if asked.method == TUNNEL:
            _tunnel(asked, connection)
            return
        with _asked(asked) as response:
            head = _head(response)
            signal.setitimer(signal.ITIMER_REAL, 0)
            # Whoever reads may take any time over it.
            connection.sendall(head)
            _pass_on(response, connection)
    except RefusedError as refused:
        _say(connection, BAD_REQUEST, str(refused))
    except ssl.SSLCertVerificationError as error:
        _say(connection, BAD_CERTIFICATE, f"its certificate is not good: {error.verify_message}")
    except BrokenPipeError:
        # It is not wanted any more.
        return
    except (OSError, Failed, ValueError) as error:
        _say(connection, BAD_GATEWAY, getattr(error, "strerror", None) or str(error))
    except http.client.HTTPException:
        _say(connection, BAD_GATEWAY, "what answers there does not speak HTTP")


def _too_late(*_: object) -> None:
    raise TimeoutError("timed out")


def _asked(asked: Request) -> http.client.HTTPResponse:
    """The answer of who was asked, as far as its head."""
    url, proxy, patience = asked.url, asked.proxy, Patience(asked.url.geturl())
    host = url.netloc.rpartition("@")[2]
    path = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
    headers = asked.headers | {"Host": host, "Connection": "close"}
    authorization = _authorization(proxy) if proxy else {}
    place = _place(proxy or url)
    connection: Plain | Encrypted
    if url.scheme == "https":
        context = ssl.create_default_context(cadata=asked.certificates or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        connection = Encrypted(*place, timeout=HEAD_TIME, context=context, patience=patience)
        if proxy is not None:
            connection.set_tunnel(*_place(url), authorization)
    else:
        connection = Plain(*place, timeout=HEAD_TIME, patience=patience)
        if proxy is not None:
            path, headers = url._replace(netloc=host, fragment="").geturl(), headers | authorization
    connection.request(asked.method, path, asked.body or None, headers)
    return connection.getresponse()


def _tunnel(asked: Request, connection: socket.socket) -> None:
    """Pass on what is said on both sides, until neither says more."""
    url, proxy = asked.url, asked.proxy
    host, port = _place(proxy or url)
    far = Plain(host, port, timeout=HEAD_TIME, patience=Patience(url.geturl()))
    if proxy is not None:
        far.set_tunnel(*_place(url), _authorization(proxy))
    far.connect()
    signal.setitimer(signal.ITIMER_REAL, 0)
    connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
    with suppress(OSError), selectors.DefaultSelector() as watched:
        # Whoever asked knows how long to wait; a server that takes nothing is not waited for.
        far.sock.settimeout(TIMEOUT)
        for here, there in ((connection, far.sock), (far.sock, connection)):
            watched.register(here, selectors.EVENT_READ, (here, there))
        while watched.get_map():
            for key, _ in watched.select():
                here, there = key.data
                if data := here.recv(STEP):
                    there.sendall(data)
                else:
                    watched.unregister(here)
                    there.shutdown(socket.SHUT_WR)


def _place(url: urllib.parse.SplitResult) -> tuple[str, int]:
    return url.hostname or "", url.port or PORTS[url.scheme]


def _authorization(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    said = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(said.encode()).decode()}"}


def _head(response: http.client.HTTPResponse) -> bytes:
    """The head of the answer as it is passed on: only what is asked for, and nothing that is not text."""
    lines = [f"HTTP/1.1 {response.status} {_text(response.reason)}", "Connection: close"]
    for name in _ANSWERED:
        value = response.headers.get(name)
        if value is not None and _text(value) == value:
            lines.append(f"{name}: {value}")
    if response.length is not None:
        lines.append(f"Content-Length: {response.length}")
    elif response.chunked:
        lines.append("Transfer-Encoding: chunked")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _text(said: str) -> str:
    return "".join(letter for letter in said[:2000] if " " <= letter <= "~")


def _pass_on(response: http.client.HTTPResponse, connection: socket.socket) -> None:
    """Its body; where it breaks off, so does ours, and whoever reads can tell."""
    chunked = response.chunked
    try:
        while data := response.read1(STEP):
            connection.sendall(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
    except (OSError, Failed, http.client.HTTPException):
        return
    if chunked:
        connection.sendall(b"0\r\n\r\n")


def _say(connection: socket.socket, code: int, fault: str) -> None:
    """Say why there is no answer; with a code from 500 on it may go better another time."""
    lines = (f"HTTP/1.1 {code} Fault", f"{FAULT}: {_text(fault)}", "Content-Length: 0", "Connection: close", "", "")
    with suppress(OSError):
        connection.sendall("\r\n".join(lines).encode())


def serve(connections: Iterator[socket.socket | None]) -> None:
    """Serve each connection in a process of its own, a few at a time; None: end, if nothing is left to be done."""
    running = 0
    for connection in connections:
        while running and os.waitpid(-1, 0 if running >= PROCESSES else os.WNOHANG) != (0, 0):
            running -= 1
        if connection is None:
            if not running:
                return
            continue
        with connection:
            if os.fork() == 0:
                try:
                    answer(connection)
                finally:
                    # Nothing of what it has learned goes on.
                    os._exit(0)
        running += 1


def accepted(listening: socket.socket, owner: int = 0) -> Iterator[socket.socket | None]:
    """Connections of the user `owner`; None when there were none for a while."""
    listening.settimeout(IDLE)
    while True:
        try:
            connection = listening.accept()[0]
        except TimeoutError:
            yield None
            continue
        connection.settimeout(None)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if struct.unpack("3i", credentials)[1] == owner:
            yield connection
        else:
            connection.close()


def handed(control: socket.socket) -> Iterator[socket.socket | None]:
    """Connections that come through a socket, until who sends them has ended."""
    while True:
        descriptors = socket.recv_fds(control, 1, 1)[1]
        if not descriptors:
            return
        yield socket.socket(fileno=descriptors[0])


def main() -> None:
    """Serve the socket that systemd listens on; or, with a descriptor and a user, become that user and serve it."""
    # What encodes names is found as long as all files are seen.
    "name".encode("idna")
    if len(sys.argv) == 3:
        control = socket.socket(fileno=int(sys.argv[1]))
        why_not = _confine(sys.argv[2])
        control.sendall(why_not.encode() or READY)
        if not why_not:
            serve(handed(control))
    elif os.environ.get("LISTEN_PID") == str(os.getpid()):
        serve(accepted(socket.socket(fileno=LISTENING)))
    else:
        sys.exit("tb-update-fetcher is started by tb-update, or by systemd for its socket")


def _confine(user: str) -> str:
    """Give up all rights; if that cannot be done, the reason."""
    from tbupdate.confinement import confine  # noqa: PLC0415 - systemd has done it already

    try:
        confine(user)
    except (OSError, Failed) as error:
        return f"it cannot become {user}: {error}"
    return ""


if __name__ == "__main__":
    main()
