"""The application: all routes, what becomes of refusals, and what every answer carries."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

import tbdiff
from tbdiff.errors import Failed, Rejected, Stop
from tbserver import api
from tbserver.database import first_line, is_passing
from tbserver.limits import Limits
from tbserver.refusals import TooOften
from tbserver.server import Server

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
    app.include_router(api.router())
    app.middleware("http")(_dress)
    app.add_middleware(Limits)
    app.add_exception_handler(Stop, _refused)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(DBAPIError, _away)
    return app


async def _dress(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if request.url.path.startswith(api.PREFIX):
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def _said(status: int, why: str, remedy: str = "", **headers: str) -> JSONResponse:
    return JSONResponse({"error": why, "remedy": remedy}, status, headers)


def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Stop):
        raise error
    headers = {"Retry-After": str(error.wait)} if isinstance(error, TooOften) else {}
    if isinstance(error, Failed):
        log.error("%s %s: %s", request.method, request.url.path, error)
    status = getattr(error, "status", 409 if isinstance(error, Rejected) else 500)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _said(status, str(error), error.remedy, **headers)


def _not_valid(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _said(422, f"{where[:200]}: {first['msg']}"[:500])


def _plain(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": str(error.detail), "remedy": ""}, error.status_code, error.headers)


def _away(request: Request, error: Exception) -> Response:
    """The database does not answer: whoever asks may come again, and nothing was changed."""
    if not isinstance(error, DBAPIError) or not is_passing(error):
        raise error
    log.error("%s %s: the database does not answer: %s", request.method, request.url.path, first_line(error))
    return _said(503, "the database does not answer; nothing was changed", "", **{"Retry-After": str(RETRY_SECONDS)})
