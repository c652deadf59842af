"""What a server was started with: nothing of it changes while it runs."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from tbdiff.errors import Rejected

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LISTEN = "127.0.0.1:8480"
DELIVERY_KEY = "delivery.key"


@dataclass(frozen=True)
class DeltaMaking:
    """How deltas are made here: by so many makers at a time (0: none are), each within these limits.

    `effort` and `encoders` are those of `tbdiff delta`. `seconds` and `memory` (bytes) bound one maker, `budget`
    (bytes) all deltas that the servers on this database made.
    """

    makers: int = 1
    effort: str = "default"
    encoders: str = "common"
    seconds: int = 3600
    memory: int = 1 << 30
    budget: int = 10 << 30


@dataclass(frozen=True)
class Settings:
    """`data` is a directory; `database` and `artifacts` are addresses, by default of places in it.

    `url` is where devices and people reach it (empty: as they say themselves). `proxies` are those whose word counts
    about who is behind them. `poll_seconds` is how often a device asks. With `private_webhooks` also addresses of the
    own network are told what is done, and without TLS. `delivery_key` is the file of the key that signs deltas, by
    default in `data`.
    """

    data: Path
    database: str = ""
    artifacts: str = ""
    url: str = ""
    proxies: tuple[Network, ...] = ()
    poll_seconds: int = 300
    private_webhooks: bool = False
    delivery_key: Path | None = None
    making: DeltaMaking = DeltaMaking()

    @property
    def database_url(self) -> str:
        """Where the records are."""
        return self.database or f"sqlite:///{(self.data / 'records.sqlite').absolute()}"

    @property
    def artifacts_url(self) -> str:
        """Where the artifacts are."""
        return self.artifacts or (self.data / "artifacts").absolute().as_uri()

    @property
    def key(self) -> Path:
        """Where the delivery key is, or will be."""
        return self.delivery_key or self.data / DELIVERY_KEY

    @property
    def scratch(self) -> Path:
        """Where things are put together; what is in it is worth nothing after a restart."""
        return self.data / "scratch"


def parse_networks(given: tuple[str, ...]) -> tuple[Network, ...]:
    """Addresses and networks such as 10.0.0.0/8."""
    try:
        return tuple(ipaddress.ip_network(one) for one in given)
    except ValueError as error:
        raise Rejected(f"that is no address of a proxy: {error}", "Name one such as 127.0.0.1 or 10.0.0.0/8.") from None


def parse_listen(given: str) -> tuple[str, int]:
    """HOST:PORT in two."""
    host, _, port = given.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise Rejected(f"{given} is nowhere to listen", "Say HOST:PORT, such as 0.0.0.0:8480 or [::]:8480.")
    return host.strip("[]"), int(port)
