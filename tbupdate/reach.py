"""The way to the network of a process that has none: by the fetcher, which systemd starts, or this process itself."""

from __future__ import annotations

import base64
import errno
import functools
import logging
import os
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tbdiff.errors import Failed
from tbdiff.line import Bucket, Identity, Line, origin
from tbdiff.source import is_url
from tbupdate import syscalls
from tbupdate.config import Fetch, Source
from tbupdate.errand import CERTIFICATES, PROXY, READY

log = logging.getLogger(__name__)

SOCKET = "/run/tb-update/fetch"
CERTIFICATES_MAX = 1 << 17
NO_PROXY = "none"
# Seconds that a fetcher has to begin, or to end.
PATIENCE = 30.0
# Where the administrator says which certificates are good.
_PASSED_ON = ("SSL_CERT_FILE", "SSL_CERT_DIR", "LANG")


@dataclass(frozen=True)
class _Carrier:
    """The fetcher, and what it is told of one source."""

    reach: Reach
    proxy: str
    certificates: str

    def connect(self) -> socket.socket:
        """A connection to the fetcher."""
        return self.reach.connect()

    def headers(self, url: str) -> Mapping[str, str]:
        """By which proxy it goes, and which certificates count."""
        said = {PROXY: _proxy(url, self.proxy), CERTIFICATES: self.certificates}
        return {name: value for name, value in said.items() if value}


class Reach:
    """Lines to what is far, for as long as it is entered; while a fetcher of its own runs, this process has no network.

    Whoever is not root has no rights to be separated from the network, and fetches by itself.
    """

    def __init__(self, rules: Fetch) -> None:
        self._rules = rules
        self._bucket = Bucket(rules.bytes_per_second) if rules.bytes_per_second else None
        self._running: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._network: int | None = None

    def __enter__(self) -> Reach:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._network is not None:
            syscalls.enter_network_namespace(self._network)
            os.close(self._network)
            self._network = None
        if self._control is not None:
            # That is how it learns that it is not wanted any more.
            self._control.close()
            self._control = None
        if self._running is not None:
            try:
                self._running.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._running.kill()
                self._running.wait()
            self._running = None

    def line(self, source: Source | None = None) -> Line:
        """The line to a source, which leads nowhere else; without one, to whatever a person names."""
        certificates = _read_certificates(source.certificates) if source and source.certificates else ""
        carrier = _Carrier(self, self._rules.proxy, certificates) if os.geteuid() == 0 else None
        if source is None or not is_url(source.url):
            return Line(carrier, bucket=self._bucket)
        folders = folders_of(source)
        origins = frozenset(map(origin, (*folders, *source.redirects)))
        return Line(carrier, origins, folders, self._bucket)

    def line_to(self, who: Identity) -> Line:
        """The line to the one server that knows us."""
        certificates = _read_certificates(Path(who.ca)) if who.ca else ""
        carrier = _Carrier(self, self._rules.proxy, certificates) if os.geteuid() == 0 else None
        return Line(carrier, frozenset({who.origin}), bucket=self._bucket, identity=who)

    def connect(self) -> socket.socket:
        """A connection to the fetcher that systemd starts; where there is none, to one of our own."""
        if self._control is None:
            with suppress(FileNotFoundError, ConnectionRefusedError):
                return _connected(SOCKET)
            self._start()
        if self._control is None:
            raise AssertionError("no fetcher")
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"\0"], [theirs.fileno()])
            except OSError:
                ours.close()
                raise Failed("the process that fetches has ended; nothing was changed", "Try again.") from None
        return ours

    def _start(self) -> None:
        """Start a fetcher, and leave the network to it."""
        ours, theirs = socket.socketpair()
        isolated = ["-I"] if sys.flags.isolated else []
        number = theirs.fileno()
        with theirs:
            self._running = subprocess.Popen(
                [sys.executable, *isolated, "-m", "tbupdate.fetcher", str(number), self._rules.user],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if name in _PASSED_ON},
                # What interrupts us is not for it: it ends when we do.
                start_new_session=True,
            )
        self._control = ours
        ours.settimeout(PATIENCE)
        try:
            said = ours.recv(1000)
        except OSError as error:
            said = str(error).encode()
        if said != READY:
            why = said.decode("utf-8", "replace") or "it ended at once"
            raise Failed(f"what fetches for us could not be started: {why}", "See [fetch] in config.toml.")
        ours.settimeout(None)
        self._leave_network()

    def _leave_network(self) -> None:
        network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.leave_network_namespace()
        except OSError as error:
            os.close(network)
            log.info("this process keeps its network: %s", error.strerror)
        else:
            self._network = network


def folders_of(source: Source) -> tuple[str, ...]:
    """The folders in which a source's files are."""
    return tuple(url.rstrip("/") for url in (source.url, *source.mirrors))


def _connected(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    try:
        made.connect(path)
    except BaseException:
        made.close()
        raise
    return made


@functools.lru_cache(maxsize=1)
def _proxies() -> dict[str, str]:
    from urllib.request import getproxies  # noqa: PLC0415 - what it loads is of use only to who goes to the network

    return getproxies()


def _proxy(url: str, configured: str) -> str:
    """The proxy by which a URL is fetched: as configured, or as the environment says; empty for none."""
    if configured:
        return "" if configured == NO_PROXY else configured
    parts = urllib.parse.urlsplit(url)
    found = _proxies().get(parts.scheme, "")
    from urllib.request import proxy_bypass  # noqa: PLC0415 - as above

    if not found or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    return found if "://" in found else f"http://{found}"


def _read_certificates(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(CERTIFICATES_MAX + 1)
        if len(text) > CERTIFICATES_MAX:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    except OSError as error:
        raise Failed(
            f"the certificates {path} cannot be read: {error.strerror}; nothing was changed",
            "Correct that file, or its name in config.toml.",
        ) from None
    return base64.b64encode(text).decode()
