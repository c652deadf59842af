"""One HTTP exchange with the server of a device: bounded in time and length, and only ever with that server."""

from __future__ import annotations

import http.client
import time
import urllib.error
from dataclasses import dataclass

from tbdiff.entry import printable
from tbdiff.errors import Failed
from tbdiff.line import Line
from tbdiff.opener import open_url, reason
from tbupdate.protocol import MESSAGE_MAX

# All of an exchange, in seconds, from the look-up of the name to the last byte.
DEADLINE = 60.0
AGENT = "tb-update"


@dataclass(frozen=True)
class Answer:
    """What the server said: a status, and a body that is no longer than was allowed."""

    status: int
    body: bytes = b""


def exchange(
    url: str,
    line: Line,
    method: str = "GET",
    body: bytes | None = None,
    *,
    begin: int | None = None,
    limit: int = MESSAGE_MAX,
) -> Answer:
    """Ask once. Failed: there was no answer, or none that can be used. With `begin`, only so many first bytes."""
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if begin is not None:
        headers["Range"] = f"bytes=0-{begin - 1}"
        limit = begin
    try:
        with open_url(url, line, headers=headers, body=body, method=method, until=time.monotonic() + DEADLINE) as said:
            if said.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise Failed(
                    f"{url} is sent in another form than was asked for",
                    "The server, or a proxy before it, should not compress it (Content-Encoding).",
                )
            data: bytes = said.read(limit if begin else limit + 1)
            if len(data) > limit:
                raise Failed(
                    f"{url} answers with more than belongs there ({limit} bytes)",
                    "See whether that is the address of the server.",
                )
            # A length that is left says that the connection was cut; a chunked answer says so itself.
            if said.length and len(data) < limit:
                raise ConnectionError("the connection was cut")
            return Answer(said.status, data)
    except urllib.error.HTTPError as error:
        error.close()
        return Answer(error.code)
    except (OSError, http.client.HTTPException) as error:
        raise Failed(
            f"{url} does not answer: {reason(error)}", "Unattended runs try again by themselves; else try again later."
        ) from None


def refused(url: str, answer: Answer) -> Failed:
    """The error for a status that says no."""
    said = printable(http.client.responses.get(answer.status, "").encode())
    if answer.status in (401, 403):
        return Failed(
            f"{url} does not know this device ({answer.status} {said})",
            "Enrol it with: tb-update enrol; or see to its token or certificate.",
        )
    return Failed(
        f"{url} answers {answer.status} {said}".rstrip(),
        "Unattended runs try again by themselves; else try again later.",
    )
