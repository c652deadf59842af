"""Logging in and out, and one's own password."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tbserver import accounts, peers
from tbserver.access import Anybody, Here, check_origin, give_cookie, take_cookie
from tbserver.api.shapes import Order, Shape
from tbserver.records import Login

router = APIRouter(tags=["login"])


class Credentials(Order):
    """Who wants to log in."""

    tenant: str = accounts.DEFAULT_TENANT
    name: str
    password: str


class NewPassword(Order):
    """One's own password, and what it shall be."""

    old: str
    new: str


class LoggedIn(Shape):
    """A login: `csrf` goes into the header X-CSRF-Token of all that changes things."""

    csrf: str


class Me(Shape):
    """Who asks, and whether the password has to be changed before anything else."""

    tenant: str
    name: str
    role: str
    must_change: bool
    csrf: str | None


@router.post("/login")
def log_in(server: Here, request: Request, response: Response, given: Credentials) -> LoggedIn:
    """Log in with a password; the cookie that comes back is good for a day, and for two hours without use."""
    check_origin(request, server)
    address = peers.address_of(server.settings, request)
    login, secret = accounts.log_in(server.database, given.tenant, given.name, given.password, address)
    return _given(response, login, secret)


def _given(response: Response, login: Login, secret: str) -> LoggedIn:
    give_cookie(response, secret)
    return LoggedIn(csrf=login.csrf)


@router.get("/me")
def who_am_i(caller: Anybody) -> Me:
    """Who asks."""
    return Me(
        tenant=caller.tenant,
        name=caller.name,
        role=caller.role.word,
        must_change=caller.must_change,
        csrf=caller.csrf,
    )


@router.post("/logout", status_code=204)
def log_out(server: Here, caller: Anybody, response: Response) -> None:
    """End this login."""
    with server.database.writing() as session:
        accounts.log_out(session, caller)
    take_cookie(response)


@router.put("/me/password")
def change_password(server: Here, caller: Anybody, response: Response, given: NewPassword) -> LoggedIn:
    """Change one's own password; all other logins of the account end."""
    login, secret = accounts.change_password(server.database, caller, given.old, given.new)
    return _given(response, login, secret)
