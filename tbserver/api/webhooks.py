"""Addresses that are told what is done."""

from __future__ import annotations

import time
from typing import Annotated

import pydantic
from fastapi import APIRouter
from sqlalchemy import delete, func, select

from tbserver import audit, webhooks
from tbserver.access import Admin, Here
from tbserver.api.shapes import Moment, Name, Number, Order, Shape
from tbserver.paging import Page, Paging, read_page
from tbserver.records import Notice, Webhook
from tbserver.refusals import NotThere, Refusal

router = APIRouter(tags=["webhooks"])
MOST = 20
Pattern = Annotated[str, pydantic.StringConstraints(pattern=r"^[a-z*][a-z.*-]{0,63}$")]


class Hook(Shape):
    """An address that is told what is done."""

    id: int
    """Its number."""
    name: str
    """Its name."""
    url: str
    """The address."""
    actions: list[str]
    """Of which actions it is told."""
    created: Moment
    """When it was made."""
    told: Moment | None
    """When it was told last, or `null`."""
    fault: str
    """Why it was not told when it last should have been; else empty."""


class NewHook(Order):
    """An address to be told what is done: entries of the log whose action fits one of `actions`."""

    name: Name
    url: Annotated[str, pydantic.StringConstraints(max_length=500)]
    actions: Annotated[tuple[Pattern, ...], pydantic.Field(min_length=1, max_length=20)] = ("rollout.*",)


class NewHookMade(Shape):
    """The address, and the secret to check signatures by, which is shown here only."""

    webhook: Hook
    """The address."""
    secret: str
    """What signatures are checked by."""


@router.get("/webhooks")
def list_webhooks(server: Here, caller: Admin, paging: Paging) -> Page[Hook]:
    """All addresses that are told what is done."""
    with server.database.reading() as session:
        query = select(Webhook).where(Webhook.tenant_id == caller.tenant_id)
        rows, following = read_page(session, query, paging, [Webhook.id])
        return Page(items=[Hook.model_validate(row) for row in rows], next=following)


@router.post("/webhooks", status_code=201)
def create_webhook(server: Here, caller: Admin, given: NewHook) -> NewHookMade:
    """Let an address be told."""
    webhooks.check(given.url, server.settings)
    secret = webhooks.create_secret()
    with server.database.writing() as session:
        if (session.scalar(select(func.count(Webhook.id)).where(Webhook.tenant_id == caller.tenant_id)) or 0) >= MOST:
            raise Refusal(f"there are {MOST} addresses already", "Remove one that is not needed any more.")
        row = Webhook(
            tenant_id=caller.tenant_id,
            name=given.name,
            url=given.url,
            secret=secret,
            actions=list(given.actions),
            created=int(time.time()),
        )
        session.add(row)
        session.flush()
        audit.note(session, caller.tenant_id, caller.name, "webhook.create", given.name, id=row.id, url=given.url)
        return NewHookMade(webhook=Hook.model_validate(row), secret=secret)


@router.delete("/webhooks/{webhook_id}", status_code=204)
def remove_webhook(server: Here, caller: Admin, webhook_id: Number) -> None:
    """Let an address be told nothing more, also of what it was not told yet."""
    with server.database.writing() as session:
        found = session.scalar(
            select(Webhook).where(Webhook.id == webhook_id, Webhook.tenant_id == caller.tenant_id).with_for_update()
        )
        if found is None:
            raise NotThere("there is no such webhook")
        session.execute(delete(Notice).where(Notice.webhook_id == found.id))
        session.delete(found)
        session.flush()
        audit.note(session, caller.tenant_id, caller.name, "webhook.remove", found.name, id=webhook_id)
