"""Tokens with which programs act for people."""

from __future__ import annotations

from typing import Annotated

import pydantic
from fastapi import APIRouter
from sqlalchemy import delete, select

from tbserver import accounts, audit
from tbserver.access import Here, Viewer
from tbserver.accounts import Role
from tbserver.api.shapes import Moment, Name, Number, Order, RoleWord, Shape
from tbserver.paging import Page, Paging, read_page
from tbserver.records import ApiToken
from tbserver.refusals import NotThere
from tbserver.tokens import ends

router = APIRouter(tags=["tokens"])
DAYS_MOST = 3650


class Token(Shape):
    """A token for programs; itself it is shown only when it is made."""

    id: int
    account_id: int
    name: str
    role: str
    created: Moment
    expires: Moment | None
    used: Moment | None


class NewToken(Order):
    """A token to be made: it can do no more than its role, and than who makes it; `days` until it ends."""

    name: Name
    role: RoleWord = Role.VIEWER.word
    days: Annotated[int, pydantic.Field(ge=1, le=DAYS_MOST)] | None = 365


class NewTokenMade(Shape):
    """The token, and what a program sends, which is shown here only."""

    token: Token
    secret: str


@router.get("/tokens")
def list_tokens(server: Here, caller: Viewer, paging: Paging) -> Page[Token]:
    """One's own tokens; an admin sees all of the tenant."""
    with server.database.reading() as session:
        query = select(ApiToken).where(ApiToken.tenant_id == caller.tenant_id)
        if caller.role < Role.ADMIN:
            query = query.where(ApiToken.account_id == caller.account_id)
        rows, following = read_page(session, query, paging, [ApiToken.id])
        return Page(items=[Token.model_validate(row) for row in rows], next=following)


@router.post("/tokens", status_code=201)
def create_token(server: Here, caller: Viewer, given: NewToken) -> NewTokenMade:
    """Make a token that acts for who makes it."""
    with server.database.writing() as session:
        token, secret = accounts.create_token(session, caller, given.name, Role.of(given.role), ends(given.days))
        return NewTokenMade(token=Token.model_validate(token), secret=secret)


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(server: Here, caller: Viewer, token_id: Number) -> None:
    """End a token, one's own; an admin any."""
    with server.database.writing() as session:
        query = delete(ApiToken).where(ApiToken.id == token_id, ApiToken.tenant_id == caller.tenant_id)
        if caller.role < Role.ADMIN:
            query = query.where(ApiToken.account_id == caller.account_id)
        name = session.scalar(query.returning(ApiToken.name))
        if name is None:
            raise NotThere("there is no such token")
        audit.note(session, caller.tenant_id, caller.name, "token.revoke", name, id=token_id)
