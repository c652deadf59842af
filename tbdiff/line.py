"""The line over which bytes come: who fetches them, from which places, how fast, and where it may lead."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import ssl
    from socket import socket

PORTS = {"http": 80, "https": 443}
# So much may come at once where a rate is set, in seconds of it.
BURST = 0.25


class Carrier(Protocol):
    """Another process that goes to the network for this one: an HTTP proxy, also for https."""

    def connect(self) -> socket:
        """A connected stream socket, on which it is asked for one thing."""

    def headers(self, url: str) -> Mapping[str, str]:
        """What it has to be told for this address beside the request."""


class Bucket:
    """Bytes that may come: `rate` a second, and never more than a moment's at once."""

    def __init__(self, rate: int) -> None:
        self.step = max(1, int(rate * BURST))
        self._rate = rate
        self._free = time.monotonic()

    def take(self, size: int) -> None:
        """Wait until `size` bytes, which have come, were allowed."""
        now = time.monotonic()
        self._free = max(self._free, now - BURST) + size / self._rate
        if self._free > now:
            time.sleep(self._free - now)


@dataclass(frozen=True)
class Identity:
    """Who we are to one server, and nobody else: `headers` go to its `origin` only.

    Its certificate must be of the authority in the file `ca`, if one is named; ours is `certificate`, with its `key`.
    """

    origin: str
    headers: Mapping[str, str] = field(default_factory=dict)
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """How connections to that server are encrypted. OSError: a file is not there, or not what it should be."""
        import ssl  # noqa: PLC0415 - it is heavy, and most commands fetch nothing

        made = ssl.create_default_context(cafile=self.ca or None)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate:
            made.load_cert_chain(self.certificate, self.key or None, password="")
        return made


@dataclass(frozen=True)
class Line:
    """How URLs are fetched.

    `carrier` fetches them, or this process itself where there is none. `origins` are the only ones that are asked or
    that a server may send us to; None: any. What lies in one of `folders` lies in each of them: they are asked one
    after the other. `bucket` holds the rate. `identity` is shown to the server that it names.
    """

    carrier: Carrier | None = None
    origins: frozenset[str] | None = None
    folders: tuple[str, ...] = ()
    bucket: Bucket | None = None
    identity: Identity | None = None

    def places(self, url: str) -> list[str]:
        """All addresses of what is at `url`, itself first."""
        own = next((folder for folder in self.folders if f"{url}/".startswith(f"{folder}/")), None)
        if own is None:
            return [url]
        return [url, *(folder + url.removeprefix(own) for folder in self.folders if folder != own)]


DIRECT = Line()


def origin(url: str) -> str:
    """Scheme, host and port of a URL that was checked."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or PORTS[parts.scheme]}"
