"""The audit log."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlalchemy import select

from tbserver.access import Here, Viewer
from tbserver.api.shapes import Moment, Shape
from tbserver.paging import Page, Paging, read_page
from tbserver.records import AuditEntry

router = APIRouter(tags=["audit"])


class Entry(Shape):
    """Who did what to what, and when."""

    id: int
    """Its number."""
    at: Moment
    """When it was done."""
    who: str
    """The account, the device, or what acted by itself."""
    action: str
    """What was done, such as `rollout.pause`."""
    subject: str
    """To what, by its name."""
    details: dict[str, Any]
    """What else belongs to it, by the kind of action."""


@router.get("/audit")
def list_audit(server: Here, caller: Viewer, paging: Paging) -> Page[Entry]:
    """What was done, the newest first."""
    with server.database.reading() as session:
        query = select(AuditEntry).where(AuditEntry.tenant_id == caller.tenant_id)
        rows, following = read_page(session, query, paging, [AuditEntry.id], newest_first=True)
        return Page(items=[Entry.model_validate(row) for row in rows], next=following)
