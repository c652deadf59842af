"""The tables of releases: keys that answer for them, images that lead to them, and deltas that are made."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from tbserver.records.base import Base, own_key, tenant, to


class TrustedKey(Base):
    """A public key that answers for what is uploaded: `kind` is "release", or "delivery" for ways only."""

    __tablename__ = "trusted_key"
    __table_args__ = (UniqueConstraint("tenant_id", "key_id"),)
    id: Mapped[int] = own_key()
    tenant_id: Mapped[int] = tenant()
    name: Mapped[str] = mapped_column(String(64))
    key_id: Mapped[str] = mapped_column(String(16))
    kind: Mapped[str] = mapped_column(String(16))
    pem: Mapped[str]
    created: Mapped[int]


class Statements(Base):
    """The chain of trust statements of a tenant as devices get it, and the version of the last one."""

    __tablename__ = "statements"
    tenant_id: Mapped[int] = tenant(key=True)
    version: Mapped[int]
    chain: Mapped[bytes] = mapped_column(LargeBinary)


class Release(Base):
    """A tree that a release key answers for; `statement` is what was signed."""

    __tablename__ = "release"
    __table_args__ = (UniqueConstraint("tenant_id", "tree"), Index(None, "tenant_id", "id"))
    id: Mapped[int] = own_key()
    tenant_id: Mapped[int] = tenant()
    tree: Mapped[str] = mapped_column(String(64))
    statement: Mapped[bytes] = mapped_column(LargeBinary)
    name: Mapped[str] = mapped_column(String(200))
    version: Mapped[str] = mapped_column(String(128))
    epoch: Mapped[int]
    device_types: Mapped[list[str]]
    size: Mapped[int]
    withdrawn: Mapped[bool] = mapped_column(default=False)
    created: Mapped[int]

    @property
    def called(self) -> str:
        """Its version, or where it has none the beginning of its tree."""
        return self.version or self.tree[:12]


class Artifact(Base):
    """An image that leads to a release, as the object store holds it under its SHA-256 (`digest`).

    `image` is the digest of its way, `base` the tree that it starts from ("" for a full one), `made` who made it:
    "uploaded", or "delta" if this server did.
    """

    __tablename__ = "artifact"
    __table_args__ = (
        UniqueConstraint("tenant_id", "digest"),
        Index(None, "tenant_id", "id"),
        Index(None, "release_id", "base"),
    )
    id: Mapped[int] = own_key()
    tenant_id: Mapped[int] = tenant()
    release_id: Mapped[int] = to("release.id")
    name: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(String(64))
    md5: Mapped[str] = mapped_column(String(32))
    sha1: Mapped[str] = mapped_column(String(40))
    size: Mapped[int]
    image: Mapped[str] = mapped_column(String(64))
    base: Mapped[str] = mapped_column(String(64))
    free: Mapped[int]
    encoders: Mapped[list[str]]
    signers: Mapped[list[str]]
    made: Mapped[str] = mapped_column(String(16))
    created: Mapped[int]


class Upload(Base):
    """An artifact on its way in: `received` bytes of `size` are in the object store, in parts."""

    __tablename__ = "upload"
    __table_args__ = (Index(None, "tenant_id", "created"),)
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    tenant_id: Mapped[int] = tenant()
    account_id: Mapped[int] = to("account.id")
    digest: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]
    received: Mapped[int]
    parts: Mapped[int]
    created: Mapped[int]


class Claimed(Base):
    """Work on a release that one of many processes does (see `claims`).

    While it is done, `owner` names who does it, who has to say so again before `until`; else it is not tried again
    before. It was begun `begun` times; `why` says what went wrong.
    """

    __abstract__ = True
    id: Mapped[int] = own_key()
    tenant_id: Mapped[int] = tenant()
    release_id: Mapped[int] = to("release.id")
    state: Mapped[str] = mapped_column(String(16))
    why: Mapped[str]
    begun: Mapped[int]
    owner: Mapped[str] = mapped_column(String(32))
    until: Mapped[int]


class Making(Claimed):
    """A delta from the tree `base` to a release that is being made, or was tried and is not there.

    `state` is `deltas.Trial`. `size` is what it had if it was made and not kept.
    """

    __tablename__ = "making"
    __table_args__ = (UniqueConstraint("release_id", "base"), Index(None, "tenant_id", "id"))
    base: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]


class Comparison(Claimed):
    """What is new in a release against the one before it; `state` is `comparing.Stand`, `found` is `comparing.News`."""

    __tablename__ = "comparison"
    __table_args__ = (UniqueConstraint("release_id"),)
    since_id: Mapped[int] = to("release.id")
    found: Mapped[dict[str, Any]]


class Wanted(Base):
    """How many devices that run the tree `base` rollouts may still bring to a release, as it was counted last.

    `base` is empty for those that run no release which is here. `waiting` of them have not begun.
    """

    __tablename__ = "wanted"
    release_id: Mapped[int] = to("release.id", key=True)
    base: Mapped[str] = mapped_column(String(64), primary_key=True)
    devices: Mapped[int]
    waiting: Mapped[int]
