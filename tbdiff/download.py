"""The body of an HTTP response as a stream that is taken up again where a connection was cut."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import pydantic

from tbdiff.connection import BRISK, PACE
from tbdiff.entry import printable
from tbdiff.errors import Failed
from tbdiff.line import DIRECT, Line
from tbdiff.opener import check_address, open_url, reason

# One after the other without a byte in between; the pauses between them double.
TRIES = 6
PAUSE = 1.0
STEP = 1 << 18

T = TypeVar("T")


class ChangedError(Failed):
    """What is behind a URL is not what it was."""


Header = Annotated[str, pydantic.StringConstraints(pattern=r"^[ -~]{1,500}$")]


class Known(pydantic.BaseModel):
    """What tells the file behind a URL from another one: its size and its validators, as far as the server tells.

    `place` is the address of who told it, where that is not the URL itself.
    """

    model_config = pydantic.ConfigDict(defer_build=True, strict=True, frozen=True, extra="forbid")

    size: Annotated[int, pydantic.Field(ge=0, lt=1 << 63)] | None
    tag: Header | None
    modified: Header | None
    place: Header | None = None


class Download:
    """The body of an HTTP response. A byte that was read is not asked for again, however often the connection breaks.

    What goes on must be the same file: the server says so by its answer to `If-Range`, and by its validators. Another
    place of the line, which has validators of its own, goes on with a file of the same size: whether that is the same
    is for its reader to see.
    """

    def __init__(
        self,
        url: str,
        begun: Known | None = None,
        position: int = 0,
        *,
        line: Line = DIRECT,
        until: float | None = None,
    ) -> None:
        """Open `url`; or go on at `position` with the file that was `begun` in another run.

        `until` is the moment (of the monotonic clock) when all of it must have come.
        """
        check_address(url)
        self._url = url
        self._line = line
        self._until = until
        self._position = position
        self._response: Any = None
        self._size = begun.size if begun else None
        self._tag = begun.tag if begun else None
        self._modified = begun.modified if begun else None
        # Whose validators these are; and who may be asked, the first one next.
        self._told_by = (begun and begun.place) or url
        self._places = sorted(line.places(url), key=lambda place: place != self._told_by)
        self._change: ChangedError | None = None
        self._trying(lambda: None)

    @property
    def known(self) -> Known | None:
        """What the server told of the file; None if that is nothing to be kept."""
        place = None if self._told_by == self._url else self._told_by
        try:
            return Known(size=self._size, tag=self._tag, modified=self._modified, place=place)
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
        """Do something with an open response; where it fails, go on from the last byte, elsewhere or after a while."""
        problem: Exception = Failed("nobody was asked")
        for n in range(TRIES):
            if n:
                time.sleep(PAUSE * 2 ** (n - 1))
            for _ in range(len(self._places)):
                try:
                    if self._response is None:
                        self._open()
                    return act()
                except (Failed, FileNotFoundError) as error:
                    self.close()
                    if isinstance(error, ChangedError):
                        self._change = error
                    if len(self._places) == 1:
                        raise self._change or error from None
                    # It would say so again.
                    del self._places[0]
                except (OSError, http.client.HTTPException) as error:
                    self.close()
                    problem = error
                    self._places.append(self._places.pop(0))
        further = " any further" if self._position else ""
        raise Failed(f"{self._url} cannot be fetched{further}: {reason(problem)}", "Try again later.") from None

    def _read(self, size: int) -> bytes:
        # A read for all of it would wait for the last byte.
        data: bytes = self._response.read1(size)
        if not data and self._size is not None and self._position < self._size:
            raise ConnectionError("the connection was cut")
        self._position += len(data)
        return data

    def _open(self) -> None:
        place = self._places[0]
        headers = {"User-Agent": "tbdiff", "Accept-Encoding": "identity"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
            validator = self._validator
            if validator and place == self._told_by:
                # If the file was replaced meanwhile, its two halves do not belong together.
                headers["If-Range"] = validator
        try:
            pace = BRISK if len(self._places) > 1 else PACE
            self._response = open_url(place, self._line, headers=headers, until=self._until, pace=pace)
        except urllib.error.HTTPError as error:
            error.close()
            why = str(error.reason).partition("\n")[0]
            says = f"the server says {error.code} {printable(why.encode('utf-8', 'surrogateescape'))}"
            if error.code in (404, 410) and not self._position:
                raise FileNotFoundError(2, "the server does not have it", self._url) from None
            if error.code == 416 and self._position:
                raise self._changed(place) from None
            if error.code < 500 and error.code not in (408, 429):
                raise Failed(f"{place} cannot be fetched: {says}") from None
            raise ConnectionError(says) from None
        told = self._response.headers
        length = told.get("Content-Length") or ""
        length = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        if self._position:
            self._go_on(place, length)
        else:
            self._size, self._told_by = length, place
            self._tag, self._modified = told.get("ETag"), told.get("Last-Modified")

    @property
    def _validator(self) -> str | None:
        """What tells this file from another one byte by byte; a weak tag does not."""
        return self._tag if self._tag and not self._tag.startswith("W/") else self._modified

    def _go_on(self, place: str, length: int | None) -> None:
        """See that the new response is the rest of the same file; pass over what was read where it is all of it."""
        told = self._response.headers
        if self._response.status == 206:
            part = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", told.get("Content-Range") or "")
            size = None if part is None or part[2] == "*" else int(part[2])
            if part and int(part[1]) == self._position and self._is_same(place, size, certain=False):
                return
        elif self._is_same(place, length, certain=True):
            # A server that knows no ranges: it has to send all of it again.
            left = self._position
            while left and (data := self._response.read1(min(left, STEP))):
                left -= len(data)
            if left:
                raise ConnectionError("the connection was cut")
            return
        raise self._changed(place)

    def _is_same(self, place: str, size: int | None, *, certain: bool) -> bool:
        """Whether what `place` has is the file that was begun; if it must be certain, the server has to tell."""
        if place != self._told_by:
            return size is not None and size == self._size
        told = self._response.headers
        if told.get("ETag") != self._tag or told.get("Last-Modified") != self._modified:
            return False
        return bool(self._validator) if certain else size is None or self._size in (None, size)

    def _changed(self, place: str) -> ChangedError:
        self.close()
        return ChangedError(f"{place} changed while it was fetched; nothing was changed here", "Start again.")
