"""Who is at the other end: the address, and what a trusted proxy in between says of it."""

from __future__ import annotations

import ipaddress

from starlette.requests import HTTPConnection

from tbserver.settings import Settings


def is_proxy(settings: Settings, connection: HTTPConnection) -> bool:
    """Whether the other end is a proxy that was named when the server was started."""
    return connection.client is not None and _is_among(settings, connection.client.host)


def address_of(settings: Settings, connection: HTTPConnection) -> str:
    """The address of who asks; behind trusted proxies the last one that none of them has."""
    here = connection.client.host if connection.client else ""
    if not is_proxy(settings, connection):
        return here
    said = [one.strip() for one in connection.headers.get("x-forwarded-for", "").split(",")]
    for one in reversed(said):
        if not one:
            break
        here = one[:64]
        if not _is_among(settings, one):
            break
    return here


def origin_of(settings: Settings, connection: HTTPConnection) -> str:
    """What who asks calls this server, such as https://updates.example.org."""
    if settings.url:
        return settings.url.rstrip("/")
    scheme = connection.url.scheme
    if is_proxy(settings, connection) and connection.headers.get("x-forwarded-proto") == "https":
        scheme = "https"
    return f"{scheme}://{connection.url.netloc}"


def _is_among(settings: Settings, address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in settings.proxies)
