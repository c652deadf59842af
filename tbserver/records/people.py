"""The tables of people: tenants, accounts, how they log in, what they did, and who is told of it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from tbserver.records.base import Base, Id, own_key, tenant, to


class Tenant(Base):
    """A fleet and its people, who know nothing of the others on the same server.

    With `approval` a second person has to approve of each rollout.
    """

    __tablename__ = "tenant"
    id: Mapped[int] = own_key()
    name: Mapped[str] = mapped_column(String(64), unique=True)
    approval: Mapped[bool] = mapped_column(default=False)
    created: Mapped[int]


class Account(Base):
    """A person. `password` is an argon2id hash; `must_change`: somebody else made it, for one login."""

    __tablename__ = "account"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    id: Mapped[int] = own_key()
    tenant_id: Mapped[int] = tenant()
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
    tenant_id: Mapped[int] = tenant()
    account_id: Mapped[int] = to("account.id")
    csrf: Mapped[str] = mapped_column(String(64))
    created: Mapped[int]
    seen: Mapped[int]


class ApiToken(Base):
    """A token of a program that acts for a person, with that person's role at most."""

    __tablename__ = "api_token"
    __table_args__ = (Index(None, "tenant_id", "id"),)
    id: Mapped[int] = own_key()
    tenant_id: Mapped[int] = tenant()
    account_id: Mapped[int] = to("account.id")
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
    id: Mapped[int] = own_key()
    tenant_id: Mapped[int] = tenant()
    at: Mapped[int]
    who: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(256))
    details: Mapped[dict[str, Any]]


class Webhook(Base):
    """An address that is told of entries of the log whose action fits one of `actions`; `told` is when it last was."""

    __tablename__ = "webhook"
    __table_args__ = (Index(None, "tenant_id", "id"),)
    id: Mapped[int] = own_key()
    tenant_id: Mapped[int] = tenant()
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
    id: Mapped[int] = own_key()
    webhook_id: Mapped[int] = to("webhook.id")
    audit_id: Mapped[int] = mapped_column(Id, ForeignKey("audit.id"))
    tries: Mapped[int]
    due: Mapped[int]
