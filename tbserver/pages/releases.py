"""Releases, what leads to them, how they come here, and the keys that answer for them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from fastapi import Form as Sent

from tbserver import delivery
from tbserver.access import Admin, Here, Operator, Viewer
from tbserver.api import deltas, releases
from tbserver.api.shapes import Number
from tbserver.pages.sheet import Form, go, show, take
from tbserver.paging import Asked, Paging

router = APIRouter()


class NewKey(Form):
    """A public key that is to be trusted."""

    name: str
    kind: Literal["release", "delivery"]
    pem: str


class Change(Form):
    """Whether a release is withdrawn."""

    withdrawn: Literal["yes", "no"]


@router.get("/releases")
def list_releases(server: Here, request: Request, caller: Viewer, paging: Paging) -> Response:
    """All releases, the newest first."""
    found = releases.list_releases(server, caller, paging)
    keys = releases.list_keys(server, caller, Asked(limit=500)).items
    with server.database.reading() as session:
        known = deltas.made(server, session, caller.tenant_id)
    signer = delivery.known(server.settings)
    return show(request, caller, "releases.html", found=found, keys=keys, known=known, signer=signer)


@router.get("/releases/{release_id}")
def show_release(server: Here, request: Request, caller: Viewer, release_id: Number) -> Response:
    """A release, and what leads to it."""
    return show(request, caller, "release.html", whole=releases.show_release(server, caller, release_id))


@router.post("/releases/{release_id}")
def change_release(server: Here, caller: Operator, release_id: Number, given: Annotated[Change, Sent()]) -> Response:
    """Withdraw a release, or allow it again."""
    releases.change_release(server, caller, release_id, releases.ReleaseChange(withdrawn=given.withdrawn == "yes"))
    return go(f"/releases/{release_id}")


@router.post("/keys")
def trust_key(server: Here, caller: Admin, given: Annotated[NewKey, Sent()]) -> Response:
    """Trust a key from now on."""
    # Browsers send the ends of lines as the standard of forms has them.
    pem = given.pem.replace("\r\n", "\n").strip() + "\n"
    releases.trust_key(server, caller, take(releases.NewKey, name=given.name, kind=given.kind, pem=pem))
    return go("/releases#keys")


@router.post("/keys/{key_id}/distrust")
def distrust_key(server: Here, caller: Admin, key_id: Number) -> Response:
    """Trust a key no more."""
    releases.distrust_key(server, caller, key_id)
    return go("/releases#keys")
