"""A server as programs see it: its API over HTTP, with refusals as errors of ours."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from tbdiff.errors import Failed, Rejected

PART = 8 << 20
SECONDS = 60.0
Progress = Callable[[int, int], None]


class Client:
    """A server at an address, asked with an API token. Errors: Rejected (it refused), Failed (it could not)."""

    def __init__(self, url: str, token: str) -> None:
        try:
            address = httpx2.URL(url)
        except httpx2.InvalidURL:
            address = httpx2.URL("")
        if address.scheme not in ("http", "https") or not address.host:
            raise Rejected(f"{url} is no address of a server", "Say one such as https://updates.example.org.")
        if address.scheme == "http" and not _is_here(address.host):
            raise Rejected(f"anybody on the way to {url} could read the token; it was not sent", "Say https://….")
        if not token.isascii() or not token.isprintable():
            raise Rejected("the token is none; it was not sent", "Take it as the server showed it.")
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx2.Client(base_url=f"{url.rstrip('/')}/api/v1", headers=headers, timeout=SECONDS)
        self._url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def ask(self, method: str, place: str, **said: Any) -> Any:
        """What the server answers; None if it only did it."""
        try:
            answer = self._http.request(method, place, **said)
        except httpx2.TransportError as error:
            raise Failed(
                f"{self._url} does not answer: {error or type(error).__name__}",
                "See whether that is the right address.",
            ) from None
        try:
            told = answer.json() if answer.content else None
        except ValueError:
            told = None
        if answer.is_success and (told is not None or not answer.content):
            return told
        why, remedy = (told.get("error"), told.get("remedy")) if isinstance(told, dict) else (None, None)
        if answer.is_client_error and isinstance(why, str):
            raise Rejected(why, remedy if isinstance(remedy, str) else "")
        raise Failed(
            f"{self._url} answered with {answer.status_code}" + (f": {why}" if isinstance(why, str) else ""),
            "See whether that is the right address; if it is, its log says why.",
        )

    def list(self, place: str, most: int, **asked: Any) -> Iterator[Any]:
        """The things of a list, page by page, as many as are wanted."""
        after: str | None = None
        while most > 0:
            params = {key: value for key, value in asked.items() if value} | {"limit": min(most, 500)}
            page = self.ask("GET", place, params=params | ({"after": after} if after else {}))
            yield from page["items"]
            most -= len(page["items"])
            after = page["next"]
            if after is None:
                return

    def upload(self, image: Path, progress: Progress) -> Any:
        """Send an image, from where an earlier try broke off; the artifact that it became."""
        size, digest = image.stat().st_size, hashlib.sha256()
        with image.open("rb") as file:
            while piece := file.read(PART):
                digest.update(piece)
            state = self.ask("POST", "/uploads", json={"digest": digest.hexdigest(), "size": size})
            while (begin := state["received"]) < size:
                progress(begin, size)
                file.seek(begin)
                place, part = f"/uploads/{state['id']}", file.read(PART)
                state = self.ask("PATCH", place, params={"offset": begin}, content=part)
        progress(size, size)
        return self.ask("POST", f"/uploads/{state['id']}/finish")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
