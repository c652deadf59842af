"""Logging in and out, and the choice of a password."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi import Form as Sent

from tbserver import accounts
from tbserver.access import Anybody, Here
from tbserver.api import logins
from tbserver.pages.sheet import Form, go, inside, show
from tbserver.refusals import Refusal

router = APIRouter()


class Credentials(Form):
    """Who wants to log in, and where to go then."""

    tenant: str = accounts.DEFAULT_TENANT
    name: str = ""
    password: str = ""
    next: str = "/"


class NewPassword(Form):
    """One's own password, and twice what it shall be."""

    old: str = ""
    new: str = ""
    again: str = ""


@router.get("/login")
def ask_who(request: Request, next: str = "/", tenant: str = accounts.DEFAULT_TENANT) -> Response:
    """The form in which one says who one is."""
    return show(request, None, "login.html", next=inside(next), tenant=tenant, name="", why="", remedy="")


@router.post("/login")
def log_in(server: Here, request: Request, given: Annotated[Credentials, Sent()]) -> Response:
    """Log in."""
    answer = go(inside(given.next))
    said = logins.Credentials(tenant=given.tenant, name=given.name, password=given.password)
    try:
        logins.log_in(server, request, answer, said)
    except Refusal as error:
        about = {"next": inside(given.next), "tenant": given.tenant, "name": given.name}
        return show(request, None, "login.html", error.status, why=str(error), remedy=error.remedy, **about)
    return answer


@router.post("/logout")
def log_out(server: Here, caller: Anybody) -> Response:
    """Log out."""
    answer = go("/login")
    logins.log_out(server, caller, answer)
    return answer


@router.get("/password")
def ask_password(request: Request, caller: Anybody) -> Response:
    """The form in which one chooses a password."""
    return show(request, caller, "password.html", why="", remedy="")


@router.post("/password")
def change_password(server: Here, request: Request, caller: Anybody, given: Annotated[NewPassword, Sent()]) -> Response:
    """Choose a password."""
    answer = go("/")
    try:
        if given.new != given.again:
            raise Refusal("the new password was written in two ways; it was not changed", "Write it twice alike.")
        logins.change_password(server, caller, answer, logins.NewPassword(old=given.old, new=given.new))
    except Refusal as error:
        return show(request, caller, "password.html", error.status, why=str(error), remedy=error.remedy)
    return answer
