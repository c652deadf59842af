"""The tables of rollouts: how far each is, what each device is to do for it, and what devices said."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from tbserver.records.base import Base, Id, own_key, tenant, to


class Rollout(Base):
    """A release on its way to devices. `plan` is `rollout.Plan`, and never changes; `state` and `phase` tell how far.

    `reason` says in words why it stands where it stands. `undoes` is the rollout that this one takes back. Devices up
    to the id `enlisted` were looked at; those that came later still join.
    """

    __tablename__ = "rollout"
    __table_args__ = (Index(None, "tenant_id", "id"), Index(None, "tenant_id", "state", "id"))
    id: Mapped[int] = own_key()
    tenant_id: Mapped[int] = tenant()
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
    created_by: Mapped[int] = to("account.id")
    approved_by: Mapped[int | None] = mapped_column(Id, ForeignKey("account.id"))
    created: Mapped[int]
    started: Mapped[int | None]
    ended: Mapped[int | None]


class Progress(Base):
    """How far a rollout was at a moment: how many devices were at which stage (see `rollout.Counts`)."""

    __tablename__ = "progress"
    rollout_id: Mapped[int] = to("rollout.id", key=True)
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
    id: Mapped[int] = own_key()
    tenant_id: Mapped[int] = tenant()
    rollout_id: Mapped[int] = to("rollout.id")
    device_id: Mapped[int] = to("device.id")
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
    id: Mapped[int] = own_key()
    tenant_id: Mapped[int] = tenant()
    device_id: Mapped[int] = to("device.id")
    assignment_id: Mapped[int | None] = mapped_column(Id)
    name: Mapped[str | None] = mapped_column(String(64))
    at: Mapped[int]
    execution: Mapped[str] = mapped_column(String(16))
    finished: Mapped[str] = mapped_column(String(16))
    code: Mapped[int | None]
    details: Mapped[list[str]]
