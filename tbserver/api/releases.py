"""Trusted keys, uploads, and the releases and artifacts that came of them."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import pydantic
from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from tbserver import artifacts, audit, demand, tending
from tbserver.access import Admin, Here, Operator, Viewer
from tbserver.api.contents import NewsShown, Sized, manifest_of, news_of, sizes_of
from tbserver.api.deltas import DeltaShown, deltas_of
from tbserver.api.shapes import Moment, Name, Number, Order, Shape
from tbserver.paging import Page, Paging, read_page
from tbserver.records import Artifact, Release, TrustedKey
from tbserver.refusals import NotThere, Refusal

router = APIRouter(tags=["releases"])
SIZE_MAX = 1 << 40


class Key(Shape):
    """A public key that answers for what is uploaded."""

    id: int
    """Its number."""
    name: str
    """Whose it is."""
    key_id: str
    """Its id."""
    kind: str
    """What it answers for: release or delivery."""
    created: Moment
    """When it came to be trusted."""


class NewKey(Order):
    """A public key, in PEM form, and what it answers for."""

    name: Name
    kind: Literal["release", "delivery"] = "release"
    pem: Annotated[str, pydantic.Field(max_length=10_000)]


class NewUpload(Order):
    """An artifact to be sent: its SHA-256 and its size in bytes."""

    digest: Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, pydantic.Field(ge=1, le=SIZE_MAX)]


class UploadState(Shape):
    """How far an upload is."""

    id: str
    digest: str
    size: int
    received: int


class ReleaseShown(Shape):
    """A tree that a release key answers for."""

    id: int
    """Its number."""
    tree: str
    """The digest of its tree."""
    name: str
    """What the system is called; empty where nobody said."""
    version: str
    """Its version; empty where nobody said."""
    epoch: int
    """Its epoch."""
    device_types: list[str]
    """The types of device that it is for; empty: for any."""
    size: int
    """The bytes that it takes on a device."""
    withdrawn: bool
    """Whether nobody gets it any more."""
    created: Moment
    """When it was uploaded first."""


class ArtifactShown(Shape):
    """An image that leads to a release."""

    id: int
    """Its number."""
    release_id: int
    """The number of the release that it leads to."""
    name: str
    """The name of its file."""
    digest: str
    """The SHA-256 of its bytes."""
    size: int
    """How many bytes it has."""
    base: str
    """The digest of the tree that it starts from; empty: it is a full image."""
    free: int
    """The bytes that must be free on a device for it."""
    encoders: list[str]
    """What a device must be able to decode with, by fingerprints."""
    signers: list[str]
    """Who signed it, by ids of keys."""
    made: str
    """How it came here: uploaded, or as a delta that this server made."""
    created: Moment
    """When it came here."""


class ReleaseWithArtifacts(Shape):
    """A release, and what is in it."""

    release: ReleaseShown
    """What it is."""
    manifest: dict[str, Any]
    """What its signer stated of it."""
    news: NewsShown | None
    """What is new in it; `null` for the first release for its devices."""
    sizes: list[Sized]
    """How large it is for each type of device."""
    artifacts: list[ArtifactShown]
    """What leads to it."""
    deltas: list[DeltaShown]
    """The deltas that do so, or could."""


@router.get("/keys")
def list_keys(server: Here, caller: Viewer, paging: Paging) -> Page[Key]:
    """The keys that are trusted."""
    with server.database.reading() as session:
        query = select(TrustedKey).where(TrustedKey.tenant_id == caller.tenant_id)
        rows, following = read_page(session, query, paging, [TrustedKey.id])
        return Page(items=[Key.model_validate(row) for row in rows], next=following)


@router.post("/keys", status_code=201)
def trust_key(server: Here, caller: Admin, given: NewKey) -> Key:
    """Trust a key from now on."""
    key = artifacts.read_key(server, given.name, given.pem)
    row = TrustedKey(
        tenant_id=caller.tenant_id,
        name=given.name,
        key_id=key.key_id.hex(),
        kind=given.kind,
        pem=given.pem,
        created=int(time.time()),
    )
    try:
        with server.database.writing() as session:
            session.add(row)
            session.flush()
            audit.note(session, caller.tenant_id, caller.name, "key.trust", row.key_id, name=row.name, kind=row.kind)
    except IntegrityError:
        raise Refusal("this key is trusted already", "Look at the list: it may have another name there.") from None
    return Key.model_validate(row)


@router.delete("/keys/{key_id}", status_code=204)
def distrust_key(server: Here, caller: Admin, key_id: Number) -> None:
    """Trust a key no more; what it answered for stays."""
    with server.database.writing() as session:
        query = delete(TrustedKey).where(TrustedKey.id == key_id, TrustedKey.tenant_id == caller.tenant_id)
        gone = session.scalar(query.returning(TrustedKey.key_id))
        if gone is None:
            raise NotThere("there is no such key")
        audit.note(session, caller.tenant_id, caller.name, "key.distrust", gone)


@router.post("/uploads", status_code=201)
def begin_upload(server: Here, caller: Operator, given: NewUpload) -> UploadState:
    """Begin an upload, or find out how far one is that broke off."""
    with server.database.writing() as session:
        return UploadState.model_validate(artifacts.begin(session, caller, given.digest, given.size))


async def bytes_of(request: Request) -> bytes:
    """The body as it is."""
    return await request.body()


@router.patch("/uploads/{upload_id}")
def send_part(
    server: Here,
    caller: Operator,
    upload_id: str,
    offset: Annotated[int, Query(ge=0, le=SIZE_MAX)],
    data: Annotated[bytes, Depends(bytes_of)],
) -> UploadState:
    """Send the bytes from `offset` on, 32 MiB at most."""
    return UploadState.model_validate(artifacts.add_part(server, caller, upload_id, offset, data))


@router.delete("/uploads/{upload_id}", status_code=204)
def drop_upload(server: Here, caller: Operator, upload_id: str) -> None:
    """Drop an upload."""
    artifacts.drop(server, caller, upload_id)


@router.post("/uploads/{upload_id}/finish", status_code=201)
def finish_upload(server: Here, caller: Operator, upload_id: str) -> ArtifactShown:
    """Make an artifact of what was sent, if keys that are trusted answer for it."""
    return ArtifactShown.model_validate(artifacts.finish(server, caller, upload_id))


@router.get("/releases")
def list_releases(server: Here, caller: Viewer, paging: Paging) -> Page[ReleaseShown]:
    """All releases, the newest first."""
    with server.database.reading() as session:
        query = select(Release).where(Release.tenant_id == caller.tenant_id)
        rows, following = read_page(session, query, paging, [Release.id], newest_first=True)
        return Page(items=[ReleaseShown.model_validate(row) for row in rows], next=following)


class ReleaseChange(Order):
    """Whether a release is withdrawn."""

    withdrawn: bool


@router.patch("/releases/{release_id}")
def change_release(server: Here, caller: Operator, release_id: Number, given: ReleaseChange) -> ReleaseShown:
    """Withdraw a release: its rollouts end, and no new one is made; or allow it again."""
    with server.database.writing() as session:
        row = tending.withdraw(session, caller, release_id, withdrawn=given.withdrawn)
        return ReleaseShown.model_validate(row)


@router.get("/releases/{release_id}")
def show_release(server: Here, caller: Viewer, release_id: Number) -> ReleaseWithArtifacts:
    """A release: what is in it, and the artifacts that lead to it."""
    with server.database.reading() as session:
        query = select(Release).where(Release.id == release_id, Release.tenant_id == caller.tenant_id)
        release = session.scalar(query)
        if release is None:
            raise NotThere("there is no such release")
        held = session.scalars(select(Artifact).where(Artifact.release_id == release_id).order_by(Artifact.id))
        facts = demand.facts_of(server, session, caller.tenant_id)
        return ReleaseWithArtifacts(
            release=ReleaseShown.model_validate(release),
            manifest=manifest_of(release),
            news=news_of(session, facts, release),
            sizes=sizes_of(session, facts, release),
            artifacts=[ArtifactShown.model_validate(row) for row in held],
            deltas=deltas_of(session, facts, caller.tenant_id, release_id),
        )
