"""What one request may take: bytes, time, and headers; counted as they come, whatever was announced."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

BODY_MAX = 1 << 20
PART_MAX = 32 << 20
# A body has to come at this rate at least, after a grace.
BODY_SECONDS, BYTES_PER_SECOND = 30, 16 << 10
HEAD_SECONDS = 15
HEAD_MAX = 32 << 10
_REMEDIES = {
    408: "Send it again, over a better line.",
    413: "Send less at a time; an image goes as an upload, in parts.",
    431: "Send fewer headers, and shorter ones.",
}
_PART = re.compile(r"/api/v1/uploads/[^/]+")


class Limits:
    """A layer around the application that ends a body which is too long or takes too long."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, and its body within the limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = len(scope["raw_path"]) + len(scope["query_string"])
        if head + sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > HEAD_MAX:
            # What comes all at once no protocol has cut off.
            await _refuse(431, f"the head of a request may have {HEAD_MAX} bytes at most")(scope, receive, send)
            return
        most = PART_MAX if scope["method"] == "PATCH" and _PART.fullmatch(scope["path"]) else BODY_MAX
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or len(announced) > 18 or int(announced) > most:
            await _refuse(413, f"a request may have {most} bytes at most")(scope, receive, send)
            return
        body = _Body(receive, most)
        refused = False

        async def tell(message: Message) -> None:
            nonlocal refused
            # Whatever the application makes of a body that broke off: this is what was wrong with it.
            if body.ended is not None and message["type"] == "http.response.start":
                refused = True
                await _refuse(body.ended.status, str(body.ended))(scope, receive, send)
            if not refused:
                await send(message)

        try:
            await self._app(scope, body.receive, tell)
        except _Ended as error:
            await _refuse(error.status, str(error))(scope, receive, send)


class _Ended(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Body:
    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._came = 0
        self._end = asyncio.get_running_loop().time() + BODY_SECONDS
        self._complete = False
        self.ended: _Ended | None = None

    async def receive(self) -> Message:
        if self._complete:
            # What comes now is that the client went away; that may take as long as the answer.
            return await self._receive()
        wait = self._end + self._came / BYTES_PER_SECOND - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), max(wait, 0))
        except TimeoutError:
            raise self._end_with(408, "the request took too long to come") from None
        self._came += len(message.get("body", b""))
        if self._came > self._most:
            raise self._end_with(413, f"a request may have {self._most} bytes at most")
        self._complete = not message.get("more_body", False)
        return message

    def _end_with(self, status: int, why: str) -> _Ended:
        self.ended = _Ended(status, why)
        return self.ended


def _refuse(status: int, why: str) -> JSONResponse:
    return JSONResponse({"error": why, "remedy": _REMEDIES[status]}, status, {"connection": "close"})


class PromptProtocol(H11Protocol):
    """HTTP/1.1 for clients that say soon what they want: a connection on which nothing was asked for is closed."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client connects."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_SECONDS, self._check_asked)

    def data_received(self, data: bytes) -> None:
        """A part of a request comes: its head has to be complete some time after it began."""
        if self._timer is None and self._is_at_head():
            self._timer = self.loop.call_later(HEAD_SECONDS, self._check_asked)
        super().data_received(data)
        if self._timer is not None and not self._is_at_head():
            self._timer.cancel()
            self._timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _is_at_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _check_asked(self) -> None:
        self._timer = None
        if self._is_at_head() and not self.transport.is_closing():
            self.transport.close()
