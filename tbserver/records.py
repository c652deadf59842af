"""The tables. Each row belongs to a tenant; moments are whole seconds since 1970.

What is counted for people is kept as counts (`Tally`), and what is listed can be read on from a key, so that nothing
becomes slower because there are many devices. Secrets are stored as digests.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite numbers rows by itself only where the key is an INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")
Moment = BigInteger


class Base(DeclarativeBase):
    """All tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {dict[str, Any]: JSON, list[str]: JSON, str: Text, int: BigInteger}


def _key() -> Mapped[int]:
    return mapped_column(Id, primary_key=True, autoincrement=True)


def _tenant(*, key: bool = False) -> Mapped[int]:
    return mapped_column(Id, ForeignKey("tenant.id"), primary_key=key)


def _to(column: str, *, key: bool = False) -> Mapped[int]:
    return mapped_column(Id, ForeignKey(column, ondelete="CASCADE"), primary_key=key)


class Tenant(Base):
    """A fleet and its people, who know nothing of the others on the same server.

    With `approval` a second person has to approve of each rollout.
    """

    __tablename__ = "tenant"
    id: Mapped[int] = _key()
    name: Mapped[str] = mapped_column(String(64), unique=True)
    approval: Mapped[bool] = mapped_column(default=False)
    created: Mapped[int]


class Account(Base):
    """A person. `password` is an argon2id hash; `must_change`: somebody else made it, for one login."""

    __tablename__ = "account"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    id: Mapped[int] = _key()
    tenant_id: Mapped[int] = _tenant()
    name: Mapped[str] = mapped_column(String(64))
    password: Mapped[str]
    role: Mapped[str] = mapped_column(String(16))
    must_change: Mapped[bool]
    disabled: Mapped[bool] = mapped_column(default=False)
    created: Mapped[int]


class Login(Base):
    """A login, by the digest of the secret in the cookie; `csrf` has to come with what changes things."""

    __tablename__ = "login"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[int] = _tenant()
    account_id: Mapped[int] = _to("account.id")
    csrf: Mapped[str] = mapped_column(String(64))
    created: Mapped[int]
    seen: Mapped[int]


class ApiToken(Base):
    """A token of a program that acts for a person, with that person's role at most."""

    __tablename__ = "api_token"
    __table_args__ = (Index(None, "tenant_id", "id"),)
    id: Mapped[int] = _key()
    tenant_id: Mapped[int] = _tenant()
    account_id: Mapped[int] = _to("account.id")
    name: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    created: Mapped[int]
    expires: Mapped[int | None]
    used: Mapped[int | None]


class Throttle(Base):
    """Failed logins of one account, one address, or both. It belongs to no tenant: a guess may name none."""

    __tablename__ = "throttle"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    failures: Mapped[int]
    since: Mapped[int]
    until: Mapped[int]


class AuditEntry(Base):
    """Who did what. The database itself refuses to change or to remove one."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "tenant_id", "id"),)
    id: Mapped[int] = _key()
    tenant_id: Mapped[int] = _tenant()
    at: Mapped[int]
    who: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(256))
    details: Mapped[dict[str, Any]]


class TrustedKey(Base):
    """A public key that answers for what is uploaded: `kind` is "release", or "delivery" for ways only."""

    __tablename__ = "trusted_key"
    __table_args__ = (UniqueConstraint("tenant_id", "key_id"),)
    id: Mapped[int] = _key()
    tenant_id: Mapped[int] = _tenant()
    name: Mapped[str] = mapped_column(String(64))
    key_id: Mapped[str] = mapped_column(String(16))
    kind: Mapped[str] = mapped_column(String(16))
    pem: Mapped[str]
    created: Mapped[int]


class Statements(Base):
    """The chain of trust statements of a tenant as devices get it, and the version of the last one."""

    __tablename__ = "statements"
    tenant_id: Mapped[int] = _tenant(key=True)
    version: Mapped[int]
    chain: Mapped[bytes] = mapped_column(LargeBinary)


class DeviceToken(Base):
    """A token that more than one device, or one that is not known yet, comes with.

    `kind` is "gateway" (acts for any device) or "enrolment" (makes one device known, `controller` if that is named;
    `used` is the digest of the token that the device chose with it, and `controller` then the device).
    """

    __tablename__ = "device_token"
    __table_args__ = (Index(None, "tenant_id", "id"),)
    id: Mapped[int] = _key()
    tenant_id: Mapped[int] = _tenant()
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    controller: Mapped[str | None] = mapped_column(String(128))
    used: Mapped[str | None] = mapped_column(String(64))
    created: Mapped[int]
    expires: Mapped[int | None]


class Device(Base):
    """A device, and how it stands.

    `controller` is its id in DDI, `token` the digest of its own token. `state` is what a list shows: new, idle,
    updating, failed. `tree`, `system` (its name) and `release` are what it says it runs, `health` how that does.
    `assignment_id` is what it is to do now, `installed_id` what it did last. `wants` is set while its attributes are
    wanted.
    """

    __tablename__ = "device"
    __table_args__ = (
        UniqueConstraint("tenant_id", "controller"),
        Index(None, "tenant_id", "id"),
        Index(None, "tenant_id", "state", "id"),
        Index(None, "tenant_id", "release", "id"),
        Index(None, "tenant_id", "seen", "id"),
    )
    id: Mapped[int] = _key()
    tenant_id: Mapped[int] = _tenant()
    controller: Mapped[str] = mapped_column(String(128))
    token: Mapped[str | None] = mapped_column(String(64))
    revoked: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str] = mapped_column(String(16))
    tree: Mapped[str] = mapped_column(String(64), default="")
    system: Mapped[str] = mapped_column(String(128), default="")
    release: Mapped[str] = mapped_column(String(128), default="")
    health: Mapped[str] = mapped_column(String(16), default="")
    address: Mapped[str] = mapped_column(String(64), default="")
    wants: Mapped[bool] = mapped_column(default=True)
    assignment_id: Mapped[int | None] = mapped_column(Id)
    installed_id: Mapped[int | None] = mapped_column(Id)
    created: Mapped[int]
    seen: Mapped[int]


class Attribute(Base):
    """What a device says of itself, one word at a time."""

    __tablename__ = "attribute"
    __table_args__ = (Index(None, "tenant_id", "key", "value", "device_id"),)
    device_id: Mapped[int] = _to("device.id", key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    tenant_id: Mapped[int] = _tenant()
    value: Mapped[str] = mapped_column(String(128))


class Group(Base):
    """Devices that a person put together by hand. (What has attributes in common needs no group.)"""

    __tablename__ = "device_group"
    __table_args__ = (UniqueConstraint("tenant_id", "name"), Index(None, "tenant_id", "id"))
    id: Mapped[int] = _key()
    tenant_id: Mapped[int] = _tenant()
    name: Mapped[str] = mapped_column(String(64))
    created: Mapped[int]


class Member(Base):
    """A device in a group."""

    __tablename__ = "member"
    __table_args__ = (Index(None, "device_id"),)
    group_id: Mapped[int] = _to("device_group.id", key=True)
    device_id: Mapped[int] = _to("device.id", key=True)
    tenant_id: Mapped[int] = _tenant()


class Release(Base):
    """A tree that a release key answers for; `statement` is what was signed. `requested` ones get deltas."""

    __tablename__ = "release"
    __table_args__ = (UniqueConstraint("tenant_id", "tree"), Index(None, "tenant_id", "id"))
    id: Mapped[int] = _key()
    tenant_id: Mapped[int] = _tenant()
    tree: Mapped[str] = mapped_column(String(64))
    statement: Mapped[bytes] = mapped_column(LargeBinary)
    name: Mapped[str] = mapped_column(String(200))
    version: Mapped[str] = mapped_column(String(128))
    epoch: Mapped[int]
    device_types: Mapped[list[str]]
    size: Mapped[int]
    withdrawn: Mapped[bool] = mapped_column(default=False)
    created: Mapped[int]


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
    id: Mapped[int] = _key()
    tenant_id: Mapped[int] = _tenant()
    release_id: Mapped[int] = _to("release.id")
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
    tenant_id: Mapped[int] = _tenant()
    account_id: Mapped[int] = _to("account.id")
    digest: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]
    received: Mapped[int]
    parts: Mapped[int]
    created: Mapped[int]


class Rollout(Base):
    """A release on its way to devices. `plan` is `rollout.Plan`, and never changes; `state` and `phase` tell how far.

    `reason` says in words why it stands where it stands. `undoes` is the rollout that this one takes back. Devices up
    to the id `enlisted` were looked at; those that came later still join.
    """

    __tablename__ = "rollout"
    __table_args__ = (Index(None, "tenant_id", "id"), Index(None, "tenant_id", "state", "id"))
    id: Mapped[int] = _key()
    tenant_id: Mapped[int] = _tenant()
    name: Mapped[str] = mapped_column(String(128))
    release_id: Mapped[int | None] = mapped_column(Id, ForeignKey("release.id"))
    undoes: Mapped[int | None] = mapped_column(Id, ForeignKey("rollout.id"))
    filter: Mapped[str]
    plan: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    phase: Mapped[int]
    reached: Mapped[int | None]
    seed: Mapped[str] = mapped_column(String(32))
    enlisted: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str]
    created_by: Mapped[int] = _to("account.id")
    approved_by: Mapped[int | None] = mapped_column(Id, ForeignKey("account.id"))
    created: Mapped[int]
    started: Mapped[int | None]
    ended: Mapped[int | None]


class Progress(Base):
    """How far a rollout was at a moment: how many devices were at which stage (see `rollout.Counts`)."""

    __tablename__ = "progress"
    rollout_id: Mapped[int] = _to("rollout.id", key=True)
    at: Mapped[int] = mapped_column(primary_key=True)
    waiting: Mapped[int]
    busy: Mapped[int]
    succeeded: Mapped[int]
    failed: Mapped[int]
    lost: Mapped[int]


class Assignment(Base):
    """What one device is to do for one rollout; its id is the action's in DDI.

    `release_id` is where it is to go, by an image or (`command` "rollback") as it was there before; `from_tree` what it
    ran when it was offered. `state` and `why` are the device's
    part of the rollout (see `rollout.Stage`). `asks` while a person at the device has to agree.
    """

    __tablename__ = "assignment"
    __table_args__ = (
        UniqueConstraint("rollout_id", "device_id"),
        Index(None, "tenant_id", "id"),
        Index(None, "device_id", "id"),
        Index(None, "rollout_id", "state", "id"),
        Index(None, "rollout_id", "phase", "state"),
    )
    id: Mapped[int] = _key()
    tenant_id: Mapped[int] = _tenant()
    rollout_id: Mapped[int] = _to("rollout.id")
    device_id: Mapped[int] = _to("device.id")
    release_id: Mapped[int | None] = mapped_column(Id, ForeignKey("release.id"))
    command: Mapped[str] = mapped_column(String(16), default="")
    phase: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    why: Mapped[str]
    from_tree: Mapped[str] = mapped_column(String(64), default="")
    asks: Mapped[bool] = mapped_column(default=False)
    attempts: Mapped[int] = mapped_column(default=0)
    offered: Mapped[int | None]
    reported: Mapped[int | None]
    ended: Mapped[int | None]


class Report(Base):
    """What a device said; `name` tells one that comes a second time."""

    __tablename__ = "report"
    __table_args__ = (
        Index(None, "device_id", "id"),
        Index(None, "assignment_id", "id"),
        UniqueConstraint("assignment_id", "name"),
    )
    id: Mapped[int] = _key()
    tenant_id: Mapped[int] = _tenant()
    device_id: Mapped[int] = _to("device.id")
    assignment_id: Mapped[int | None] = mapped_column(Id)
    name: Mapped[str | None] = mapped_column(String(64))
    at: Mapped[int]
    execution: Mapped[str] = mapped_column(String(16))
    finished: Mapped[str] = mapped_column(String(16))
    code: Mapped[int | None]
    details: Mapped[list[str]]


class Webhook(Base):
    """An address that is told of entries of the log whose action fits one of `actions`; `told` is when it last was."""

    __tablename__ = "webhook"
    __table_args__ = (Index(None, "tenant_id", "id"),)
    id: Mapped[int] = _key()
    tenant_id: Mapped[int] = _tenant()
    name: Mapped[str] = mapped_column(String(64))
    url: Mapped[str]
    # Not a digest: signatures are made with it.
    secret: Mapped[str] = mapped_column(String(64))
    actions: Mapped[list[str]]
    created: Mapped[int]
    told: Mapped[int | None]
    fault: Mapped[str] = mapped_column(default="")


class Notice(Base):
    """What a webhook is to be told, from `due` on."""

    __tablename__ = "notice"
    __table_args__ = (Index(None, "due", "id"), Index(None, "webhook_id"))
    id: Mapped[int] = _key()
    webhook_id: Mapped[int] = _to("webhook.id")
    audit_id: Mapped[int] = mapped_column(Id, ForeignKey("audit.id"))
    tries: Mapped[int]
    due: Mapped[int]


class Tally(Base):
    """A count that is kept, so that nobody has to count: of `subject` (such as "devices by state") those with `key`."""

    __tablename__ = "tally"
    tenant_id: Mapped[int] = _tenant(key=True)
    subject: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    count: Mapped[int]


class Making(Base):
    """A delta from the tree `base` to a release that is being made, or was tried and is not there.

    `state` is `deltas.Trial`. While it is made, `owner` names who makes it, who has to say so again before `until`;
    else it is not tried again before. `size` is what it had if it was made and not kept.
    """

    __tablename__ = "making"
    __table_args__ = (UniqueConstraint("release_id", "base"), Index(None, "tenant_id", "id"))
    id: Mapped[int] = _key()
    tenant_id: Mapped[int] = _tenant()
    release_id: Mapped[int] = _to("release.id")
    base: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    why: Mapped[str]
    size: Mapped[int]
    begun: Mapped[int]
    owner: Mapped[str] = mapped_column(String(32))
    until: Mapped[int]


class Wanted(Base):
    """How many devices that run the tree `base` rollouts may still bring to a release, as it was counted last.

    `base` is empty for those that run no release which is here. `waiting` of them have not begun.
    """

    __tablename__ = "wanted"
    release_id: Mapped[int] = _to("release.id", key=True)
    base: Mapped[str] = mapped_column(String(64), primary_key=True)
    devices: Mapped[int]
    waiting: Mapped[int]
