"""People and what acts for them: accounts, tokens, and the log of all that was done."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from fastapi import APIRouter, Request, Response
from fastapi import Form as Sent

from tbserver.access import Admin, Here, Viewer
from tbserver.accounts import Caller, Role
from tbserver.api import audits, devices, tenants, tokens, users, webhooks
from tbserver.api.shapes import Number
from tbserver.pages.sheet import Form, go, show, take
from tbserver.paging import Asked, Paging
from tbserver.server import Server

router = APIRouter()
RoleWord = Literal["viewer", "operator", "approver", "admin"]
# An empty field of a form is nothing said.
Days = Annotated[int | None, pydantic.BeforeValidator(lambda text: text or None)]
MOST = Asked(limit=500)


class NewUser(Form):
    """An account to be made."""

    name: str
    role: RoleWord


class Change(Form):
    """Another role, or an account closed or opened again."""

    role: RoleWord | None = None
    disabled: Literal["yes", "no"] | None = None


class Agreed(Form):
    """What is agreed on in a tenant: an empty box is nothing said."""

    approval: Literal["yes"] | None = None


class NewToken(Form):
    """A token to be made."""

    name: str
    role: RoleWord
    days: Days = None


class NewHook(Form):
    """An address to be told what is done."""

    name: str
    url: str
    actions: str = "rollout.*"


class NewDeviceToken(Form):
    """A token for devices to be made."""

    name: str
    kind: Literal["gateway", "enrolment"]
    controller: str = ""
    days: Days = None


@router.get("/audit")
def list_audit(server: Here, request: Request, caller: Viewer, paging: Paging) -> Response:
    """What was done, the newest first."""
    return show(request, caller, "audit.html", found=audits.list_audit(server, caller, paging))


@router.get("/users")
def list_users(server: Here, request: Request, caller: Admin, paging: Paging) -> Response:
    """All accounts."""
    about = {"found": users.list_users(server, caller, paging), "tenant": tenants.show_tenant(server, caller)}
    return show(request, caller, "users.html", 200, **about)


@router.post("/tenant")
def change_tenant(server: Here, caller: Admin, given: Annotated[Agreed, Sent()]) -> Response:
    """Say whether a second person has to approve of each rollout."""
    tenants.change_tenant(server, caller, tenants.Change(approval=given.approval == "yes"))
    return go("/users")


@router.post("/users")
def create_user(server: Here, request: Request, caller: Admin, given: Annotated[NewUser, Sent()]) -> Response:
    """Make an account; its first password is shown once."""
    made = users.create_user(server, caller, take(users.NewUser, name=given.name, role=given.role))
    return show(request, caller, "secret.html", 201, what="password", name=made.user.name, secret=made.password)


@router.post("/users/{user_id}")
def change_user(server: Here, caller: Admin, user_id: Number, given: Annotated[Change, Sent()]) -> Response:
    """Give an account another role, close it, or open it again."""
    disabled = None if given.disabled is None else given.disabled == "yes"
    users.change_user(server, caller, user_id, take(users.Change, role=given.role, disabled=disabled))
    return go("/users")


@router.post("/users/{user_id}/password")
def reset_password(server: Here, request: Request, caller: Admin, user_id: Number) -> Response:
    """Make a new password for an account, which is shown once."""
    made = users.reset_password(server, caller, user_id)
    return show(request, caller, "secret.html", what="password", name="", secret=made.password)


@router.post("/webhooks")
def create_webhook(server: Here, request: Request, caller: Admin, given: Annotated[NewHook, Sent()]) -> Response:
    """Let an address be told what is done; its secret is shown once."""
    wanted = take(webhooks.NewHook, name=given.name, url=given.url, actions=given.actions.replace(",", " ").split())
    made = webhooks.create_webhook(server, caller, wanted)
    return show(request, caller, "secret.html", 201, what="secret", name=made.webhook.name, secret=made.secret)


@router.post("/webhooks/{webhook_id}/remove")
def remove_webhook(server: Here, caller: Admin, webhook_id: Number) -> Response:
    """Let an address be told nothing more."""
    webhooks.remove_webhook(server, caller, webhook_id)
    return go("/tokens")


@router.get("/tokens")
def list_tokens(server: Here, request: Request, caller: Viewer) -> Response:
    """The tokens that one may see."""
    about: dict[str, Any] = {
        "roles": [role.word for role in Role if role <= caller.role],
        "for_devices": _of_devices(server, caller),
        "hooks": webhooks.list_webhooks(server, caller, MOST).items if caller.role >= Role.ADMIN else [],
    }
    return show(request, caller, "tokens.html", found=tokens.list_tokens(server, caller, MOST), **about)


def _of_devices(server: Server, caller: Caller) -> list[devices.DeviceTokenShown]:
    return devices.list_device_tokens(server, caller, MOST).items if caller.role >= Role.ADMIN else []


@router.post("/tokens")
def create_token(server: Here, request: Request, caller: Viewer, given: Annotated[NewToken, Sent()]) -> Response:
    """Make a token, which is shown once."""
    made = tokens.create_token(server, caller, take(tokens.NewToken, name=given.name, role=given.role, days=given.days))
    return show(request, caller, "secret.html", 201, what="token", name=made.token.name, secret=made.secret)


@router.post("/tokens/{token_id}/revoke")
def revoke_token(server: Here, caller: Viewer, token_id: Number) -> Response:
    """End a token."""
    tokens.revoke_token(server, caller, token_id)
    return go("/tokens")


@router.post("/device-tokens")
def create_device_token(
    server: Here, request: Request, caller: Admin, given: Annotated[NewDeviceToken, Sent()]
) -> Response:
    """Make a token for devices, which is shown once."""
    wanted = take(
        devices.NewDeviceToken, kind=given.kind, name=given.name, controller=given.controller or None, days=given.days
    )
    made = devices.create_device_token(server, caller, wanted)
    return show(request, caller, "secret.html", 201, what="token", name=made.token.name, secret=made.secret)


@router.post("/device-tokens/{device_token_id}/revoke")
def revoke_device_token(server: Here, caller: Admin, device_token_id: Number) -> Response:
    """End a token for devices."""
    devices.revoke_device_token(server, caller, device_token_id)
    return go("/tokens")
