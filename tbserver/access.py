"""Who may ask what: each route of the API names the role that it takes, and gets the caller or refuses."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Response

from tbserver import accounts, peers
from tbserver.accounts import LOGIN_SECONDS, Caller, Role
from tbserver.refusals import MustChange, NotAllowed, NotKnown
from tbserver.server import Server
from tbserver.tokens import is_same

# Browsers take a cookie of this name only from here, encrypted (or from this very machine), for the whole server.
COOKIE = "__Host-tb-login"
CSRF_HEADER = "x-csrf-token"
SAFE = ("GET", "HEAD")
FORM = "application/x-www-form-urlencoded"


def server_of(request: Request) -> Server:
    """What this process was started with."""
    server: Server = request.app.state.server
    return server


Here = Annotated[Server, Depends(server_of)]


async def csrf_of(request: Request) -> str:
    """What shows that a request comes from our own page: a header, or a field of the form that was sent."""
    if request.method in SAFE or request.headers.get("content-type", "").partition(";")[0] != FORM:
        return request.headers.get(CSRF_HEADER, "")
    said = (await request.form()).get("csrf", "")
    return said if isinstance(said, str) else ""


def known_caller(request: Request, server: Here, csrf: Annotated[str, Depends(csrf_of)]) -> Caller:
    """Who asks, by an API token or the cookie of a login; NotKnown or NotAllowed."""
    return _identified(request, server, csrf, touches=True)


def known_watcher(request: Request, server: Here) -> Caller:
    """The same for what a page asks by itself: that keeps no login alive which nobody uses."""
    return _identified(request, server, "", touches=False)


def _identified(request: Request, server: Server, csrf: str, *, touches: bool) -> Caller:
    said = request.headers.get("authorization", "")
    if said:
        word, _, secret = said.partition(" ")
        if word.lower() != "bearer" or not secret:
            raise NotKnown("there is no API token in the request", "Send the header: Authorization: Bearer TOKEN.")
        return _by_token(server, secret)
    secret = request.cookies.get(COOKIE, "")
    if not secret:
        raise NotKnown("you are not logged in", "Log in, or send an API token.")
    caller = _by_login(server, secret, touches=touches)
    if request.method not in SAFE:
        check_origin(request, server)
        if not is_same(csrf, caller.csrf):
            raise NotAllowed("the request did not come from our page; nothing was changed", "Load the page again.")
    return caller


def _by_token(server: Server, secret: str) -> Caller:
    with server.database.reading() as session:
        caller, used = accounts.caller_of_token(session, secret)
    if used is not None:
        with server.database.writing() as session:
            accounts.touch_token(session, used)
    return caller


def _by_login(server: Server, secret: str, *, touches: bool) -> Caller:
    with server.database.reading() as session:
        caller, is_due = accounts.caller_of_login(session, secret)
    if is_due and touches and caller.login:
        with server.database.writing() as session:
            accounts.touch_login(session, caller.login)
    return caller


def check_origin(request: Request, server: Server) -> None:
    """Refuse what a page of somebody else lets a browser send."""
    origin = request.headers.get("origin")
    fetched = request.headers.get("sec-fetch-site", "same-origin")
    if (origin is not None and origin != peers.origin_of(server.settings, request)) or fetched not in (
        "same-origin",
        "none",
    ):
        raise NotAllowed(
            "the request came from a page of somebody else; nothing was changed",
            "Do it on this server's own page. If you did, the server has to be told its address: --url, --proxy.",
        )


class Needs:
    """A dependency: the caller, who has this role or more; with `fresh` also one with a password to be changed."""

    def __init__(self, role: Role, *, fresh: bool = False) -> None:
        self.role = role
        self._fresh = fresh

    def __call__(self, caller: Annotated[Caller, Depends(known_caller)]) -> Caller:
        """The caller; NotAllowed."""
        if caller.must_change and not self._fresh:
            raise MustChange("your password was made by somebody else", "Change it first.")
        if caller.role < self.role:
            raise NotAllowed(f"this takes the role {self.role.word}, and yours is {caller.role.word}", "Ask an admin.")
        return caller


Anybody = Annotated[Caller, Depends(Needs(Role.VIEWER, fresh=True))]
Viewer = Annotated[Caller, Depends(Needs(Role.VIEWER))]
Operator = Annotated[Caller, Depends(Needs(Role.OPERATOR))]
Approver = Annotated[Caller, Depends(Needs(Role.APPROVER))]
Admin = Annotated[Caller, Depends(Needs(Role.ADMIN))]


def _watcher(caller: Annotated[Caller, Depends(known_watcher)]) -> Caller:
    return Needs(Role.VIEWER)(caller)


Watcher = Annotated[Caller, Depends(_watcher)]


def give_cookie(response: Response, secret: str) -> None:
    """Let a browser keep a login."""
    response.set_cookie(COOKIE, secret, max_age=LOGIN_SECONDS, secure=True, httponly=True, samesite="strict", path="/")


def take_cookie(response: Response) -> None:
    """Let a browser forget a login."""
    response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict", path="/")
