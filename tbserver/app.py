"""The application: all routes, what becomes of refusals, and what every answer carries."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import tbdiff
from tbdiff.errors import Failed, Rejected, Stop
from tbserver import api, asking, ddi, pages, vitals
from tbserver.database import first_line, is_passing
from tbserver.limits import Limits
from tbserver.pages import sheet
from tbserver.refusals import TooOften
from tbserver.server import Server
from tbserver.store import AwayError

log = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
RETRY_SECONDS = 10


def create_app(server: Server) -> FastAPI:
    """The application over what a process was started with."""
    app = FastAPI(
        title="tb-server",
        version=tbdiff.__version__,
        openapi_url=f"{api.PREFIX}/openapi.json",
        # They would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.server = server
    app.state.is_stopping = lambda: False
    app.include_router(api.router())
    app.include_router(ddi.router)
    app.include_router(pages.router())
    app.include_router(vitals.router)
    app.add_exception_handler(asking.Unanswered, asking.unanswered)
    app.add_middleware(Limits)
    app.add_middleware(Dress)
    app.add_middleware(vitals.Served)
    app.add_exception_handler(Stop, _refused)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(DBAPIError, _away)
    app.add_exception_handler(AwayError, _store_away)
    return app


class Dress:
    """A layer around the application that puts on what every answer carries."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, and its answer with more headers."""

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                # What says otherwise of itself is the same for everybody.
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, tell if scope["type"] == "http" else send)


def _said(request: Request, status: int, why: str, remedy: str = "", **headers: str) -> Response:
    if _reads_pages(request):
        answer = sheet.wrong(request, status, why, remedy)
        answer.headers.update(headers)
        return answer
    return JSONResponse({"error": why, "remedy": remedy}, status, headers)


def _reads_pages(request: Request) -> bool:
    return sheet.is_wanted(request) and not request.url.path.startswith(api.PREFIX)


def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Stop):
        raise error
    headers = {"Retry-After": str(error.wait)} if isinstance(error, TooOften) else {}
    if isinstance(error, Failed):
        log.error("%s %s: %s", request.method, request.url.path, error)
    status = getattr(error, "status", 409 if isinstance(error, Rejected) else 500)
    if _reads_pages(request) and status in (401, 403):
        return sheet.refuse(request, error, status)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _said(request, status, str(error), error.remedy, **headers)


def _not_valid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _said(
        request, 422, f"{where[:200]}: {first['msg']}"[:500], "Nothing was changed. Correct that, and try again."
    )


def _plain(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    remedy = "See whether that is the right address." if error.status_code == 404 else ""
    return _said(request, error.status_code, str(error.detail), remedy, **(error.headers or {}))


def _away(request: Request, error: Exception) -> Response:
    """The database does not answer: whoever asks may come again, and nothing was changed."""
    if not isinstance(error, DBAPIError) or not is_passing(error):
        raise error
    log.error("%s %s: the database does not answer: %s", request.method, request.url.path, first_line(error))
    wait = {"Retry-After": str(RETRY_SECONDS)}
    return _said(request, 503, "the database does not answer; nothing was changed", "Try again soon.", **wait)


def _store_away(request: Request, error: Exception) -> Response:
    """The store of artifacts does not answer: the same."""
    return _said(request, 503, str(error), "Try again soon.", **{"Retry-After": str(RETRY_SECONDS)})
