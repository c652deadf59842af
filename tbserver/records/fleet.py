"""The tables of devices: how they are known, what they say of themselves, groups of them, and counts."""

from __future__ import annotations

from sqlalchemy import Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from tbserver.records.base import Base, Id, own_key, tenant, to


class DeviceToken(Base):
    """A token that more than one device, or one that is not known yet, comes with.

    `kind` is "gateway" (acts for any device) or "enrolment" (makes one device known, `controller` if that is named;
    `used` is the digest of the token that the device chose with it, and `controller` then the device).
    """

    __tablename__ = "device_token"
    __table_args__ = (Index(None, "tenant_id", "id"),)
    id: Mapped[int] = own_key()
    tenant_id: Mapped[int] = tenant()
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
    id: Mapped[int] = own_key()
    tenant_id: Mapped[int] = tenant()
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
    device_id: Mapped[int] = to("device.id", key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    tenant_id: Mapped[int] = tenant()
    value: Mapped[str] = mapped_column(String(128))


class Group(Base):
    """Devices that a person put together by hand. (What has attributes in common needs no group.)"""

    __tablename__ = "device_group"
    __table_args__ = (UniqueConstraint("tenant_id", "name"), Index(None, "tenant_id", "id"))
    id: Mapped[int] = own_key()
    tenant_id: Mapped[int] = tenant()
    name: Mapped[str] = mapped_column(String(64))
    created: Mapped[int]


class Member(Base):
    """A device in a group."""

    __tablename__ = "member"
    __table_args__ = (Index(None, "device_id"),)
    group_id: Mapped[int] = to("device_group.id", key=True)
    device_id: Mapped[int] = to("device.id", key=True)
    tenant_id: Mapped[int] = tenant()


class AutoConfirm(Base):
    """A device at which nobody is asked, by whom and why, as it was said there."""

    __tablename__ = "auto_confirm"
    device_id: Mapped[int] = to("device.id", key=True)
    initiator: Mapped[str] = mapped_column(String(64))
    remark: Mapped[str]
    since: Mapped[int]


class Tally(Base):
    """A count that is kept, so that nobody has to count: of `subject` (such as "devices by state") those with `key`."""

    __tablename__ = "tally"
    tenant_id: Mapped[int] = tenant(key=True)
    subject: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    count: Mapped[int]
