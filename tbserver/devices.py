"""Devices: by what they are known, how they become so, and what they say of themselves."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tbserver import audit, tallies
from tbserver.records import Attribute, Device, DeviceToken, Release, Tenant
from tbserver.refusals import NotKnown, NotValid
from tbserver.tokens import digest, is_same
from tbupdate.protocol import ATTRIBUTES_MAX, ENROLMENT, GATEWAY, KEY_MAX, TARGET, VALUE_MAX

NEW, IDLE, UPDATING, FAILED = "new", "idle", "updating", "failed"
# A device that asks again and again is not written down each time.
SEEN_EVERY = 60
HEALTH_MAX = 16
_TREE = re.compile("[0-9a-f]{64}")
UNKNOWN = NotKnown("this device is not known here")


def identify(
    session: Session, tenant: str, controller: str, authorization: str, certified: str | None, *, registers: bool
) -> tuple[int, Device | None]:
    """The tenant and the device that asks; NotKnown. None: a device that is not known yet, and may register.

    `certified` is the name in the certificate that a trusted proxy has verified.
    """
    found = session.execute(
        select(Tenant.id, Device)
        .outerjoin(Device, (Device.tenant_id == Tenant.id) & (Device.controller == controller))
        .where(Tenant.name == tenant)
    ).one_or_none()
    if found is None:
        raise UNKNOWN
    tenant_id, device = found
    kind, _, secret = authorization.partition(" ")
    if device is not None and device.revoked:
        raise UNKNOWN
    if certified is not None and certified == controller and device is not None:
        return tenant_id, device
    if kind == TARGET and device is not None and is_same(digest(secret), device.token):
        return tenant_id, device
    if kind == GATEWAY and _is_gateway(session, tenant_id, secret) and (device is not None or registers):
        return tenant_id, device
    raise UNKNOWN


def _is_gateway(session: Session, tenant_id: int, secret: str) -> bool:
    token = session.scalar(
        select(DeviceToken).where(
            DeviceToken.digest == digest(secret), DeviceToken.tenant_id == tenant_id, DeviceToken.kind == "gateway"
        )
    )
    return token is not None and (token.expires is None or token.expires > time.time())


def register(session: Session, tenant_id: int, controller: str, token: str | None = None) -> Device:
    """A new device, or the one that another process registered at the same time."""
    now = int(time.time())
    device = Device(tenant_id=tenant_id, controller=controller, token=token, state=NEW, created=now, seen=0)
    try:
        with session.begin_nested():
            session.add(device)
            session.flush()
    except IntegrityError:
        return session.scalars(
            select(Device).where(Device.tenant_id == tenant_id, Device.controller == controller)
        ).one()
    tallies.add(session, tenant_id, tallies.DEVICES, {NEW: 1})
    tallies.add(session, tenant_id, tallies.RELEASES, {"": 1})
    return device


def enrol(session: Session, tenant: str, controller: str, authorization: str, chosen: str) -> None:
    """Make a device known by the token that it chose, with one that is good once; NotKnown.

    The same again is fine, as an answer may be lost; anything else with a token that was used is not.
    """
    kind, _, secret = authorization.partition(" ")
    query = (
        select(DeviceToken)
        .join(Tenant, Tenant.id == DeviceToken.tenant_id)
        .where(Tenant.name == tenant, DeviceToken.kind == "enrolment", DeviceToken.digest == digest(secret))
        .with_for_update(of=DeviceToken)
    )
    once = session.scalar(query) if kind == ENROLMENT else None
    if once is None or once.controller not in (None, controller):
        raise UNKNOWN
    if once.used is not None:
        if not is_same(once.used, digest(chosen)):
            raise UNKNOWN
        return
    if once.expires is not None and once.expires <= time.time():
        raise UNKNOWN
    device = register(session, once.tenant_id, controller)
    if once.controller is None and device.token is not None:
        # A token for any new device must not take over one that is known.
        raise UNKNOWN
    once.controller, once.used = controller, digest(chosen)
    device.token, device.revoked = digest(chosen), False
    audit.note(session, once.tenant_id, audit.SERVER, "device.enrol", controller, token=once.name)


def touch(session: Session, device: Device, address: str) -> None:
    """Write down that a device asked."""
    device.seen, device.address = int(time.time()), address[:64]
    if device.state == NEW:
        change_state(session, device, IDLE)


def change_state(session: Session, device: Device, state: str) -> None:
    """What a list shows of a device."""
    tallies.move(session, device.tenant_id, tallies.DEVICES, device.state, state)
    device.state = state


def describe(session: Session, device: Device, mode: str, said: Mapping[str, str | None]) -> None:
    """Take what a device says of itself; what is too long is cut, as no device would say it otherwise."""
    if any(not key or len(key) > KEY_MAX for key in said):
        raise NotValid(f"an attribute has a name of 1 to {KEY_MAX} characters")
    held = attributes(session, device)
    new = {} if mode == "replace" else dict(held)
    for key, value in said.items():
        if mode == "remove":
            new.pop(plain(key), None)
        else:
            new[plain(key)] = plain(value or "")[:VALUE_MAX]
    if len(new) > ATTRIBUTES_MAX:
        raise NotValid(f"a device has {ATTRIBUTES_MAX} attributes at most")
    gone = [key for key in held if new.get(key) != held[key]]
    session.execute(delete(Attribute).where(Attribute.device_id == device.id, Attribute.key.in_(gone)))
    session.add_all(
        Attribute(device_id=device.id, tenant_id=device.tenant_id, key=key, value=value)
        for key, value in new.items()
        if held.get(key) != value
    )
    device.wants = False
    device.health = new.get("health", "")[:HEALTH_MAX]
    if "release" in new:
        runs(session, device, new.get("name", ""), new["release"], new.get("tree", ""))


def attributes(session: Session, device: Device) -> dict[str, str]:
    """What a device said of itself."""
    query = select(Attribute.key, Attribute.value).where(Attribute.device_id == device.id)
    return {key: value for key, value in session.execute(query)}


def runs(session: Session, device: Device, system: str, version: str, tree: str = "") -> None:
    """Take which release a device says it runs, and its tree: if it does not say that, the one that is known."""
    device.system, version = plain(system)[:128], plain(version)[:128]
    known = session.scalars(
        select(Release.tree).where(Release.tenant_id == device.tenant_id, Release.version == version)
    ).all()
    if _TREE.fullmatch(tree):
        device.tree = tree
    elif version != device.release or not device.tree:
        device.tree = known[0] if len(known) == 1 else ""
    tallies.move(session, device.tenant_id, tallies.RELEASES, device.release, version)
    device.release = version


def plain(text: str) -> str:
    """Text as every database takes it."""
    return text.replace("\0", "\ufffd")
