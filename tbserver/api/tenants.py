"""One's own tenant, and what is agreed on there."""

from __future__ import annotations

from fastapi import APIRouter

from tbserver import audit
from tbserver.access import Admin, Here, Viewer
from tbserver.api.shapes import Order, Shape
from tbserver.records import Tenant

router = APIRouter(tags=["tenant"])


class TenantShown(Shape):
    """A tenant; with `approval` a second person has to approve of each rollout."""

    name: str
    approval: bool


class Change(Order):
    """What is to be different about a tenant."""

    approval: bool


@router.get("/tenant")
def show_tenant(server: Here, caller: Viewer) -> TenantShown:
    """One's own tenant."""
    with server.database.reading() as session:
        return TenantShown.model_validate(session.get_one(Tenant, caller.tenant_id))


@router.patch("/tenant")
def change_tenant(server: Here, caller: Admin, given: Change) -> TenantShown:
    """Say whether a second person has to approve of each rollout that is made from now on."""
    with server.database.writing() as session:
        row = session.get_one(Tenant, caller.tenant_id)
        row.approval = given.approval
        audit.note(session, caller.tenant_id, caller.name, "tenant.change", row.name, approval=given.approval)
        return TenantShown.model_validate(row)
