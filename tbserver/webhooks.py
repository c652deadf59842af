"""Addresses that are told what is done: signed notices of the log, each until it arrives or for a day.

What is to be told is written down in the transaction that does it, so nothing that was done goes untold, and nothing is
told that was not done. Any number of processes tell: one takes a notice for a while, and it is free again if that
process is killed. So a notice may come twice, or after a later one; its id says which it is.

Messages are those of Standard Webhooks 1.0 (https://www.standardwebhooks.com): headers `webhook-id`,
`webhook-timestamp` and `webhook-signature`.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import hmac
import ipaddress
import json
import logging
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tbserver.database import Database
from tbserver.records import AuditEntry, Notice, Tenant, Webhook
from tbserver.refusals import NotValid
from tbserver.settings import Settings

log = logging.getLogger(__name__)
SECRET_PREFIX = "whsec_"  # noqa: S105 - what a secret begins with
SECONDS = 10.0
# For so long a notice belongs to the process that took it.
TAKEN_SECONDS = 60
# After ten seconds, then twice as long each time, an hour at most; a day in all.
FIRST_PAUSE, LAST_PAUSE, TRIES = 10, 3600, 30
# One look at what is due sends so many, and then lets others.
AT_ONCE = 100


@dataclass(frozen=True)
class Message:
    """A notice as it is sent."""

    notice_id: int
    webhook_id: int
    url: str
    secret: str
    body: bytes
    tries: int

    def headers(self, now: int) -> dict[str, str]:
        """What says who sends it, and when."""
        name = f"tb-{self.notice_id}"
        key = base64.b64decode(self.secret.removeprefix(SECRET_PREFIX))
        signed = hmac.digest(key, b".".join((name.encode(), str(now).encode(), self.body)), hashlib.sha256)
        return {
            "content-type": "application/json",
            "user-agent": "tb-server",
            "webhook-id": name,
            "webhook-timestamp": str(now),
            "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
        }


def create_secret() -> str:
    """A secret that a receiver checks signatures by."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check(url: str, settings: Settings) -> None:
    """Refuse an address that is none, or one that may not be told; NotValid. Names are looked up when it is told."""
    try:
        address = httpx2.URL(url)
    except httpx2.InvalidURL:
        address = httpx2.URL("")
    if address.scheme not in ("https", "http") or not address.host or address.userinfo:
        raise NotValid("that is no address to be told", "Name one such as https://chat.example.org/hooks/1.")
    if address.scheme == "http" and not settings.private_webhooks:
        raise NotValid("what is told would be readable on its way", "Name an address that begins with https://.")


def note(session: Session, entry: AuditEntry) -> None:
    """Let those be told of an entry of the log who want to know."""
    hooks = session.scalars(select(Webhook).where(Webhook.tenant_id == entry.tenant_id).order_by(Webhook.id)).all()
    wanted = [hook for hook in hooks if any(fnmatch.fnmatchcase(entry.action, one) for one in hook.actions)]
    if wanted:
        # It has an id now.
        session.flush()
        session.add_all(Notice(webhook_id=hook.id, audit_id=entry.id, tries=0, due=entry.at) for hook in wanted)


def tell(database: Database, settings: Settings) -> None:
    """Send what is due."""
    for _ in range(AT_ONCE):
        message = _take(database)
        if message is None:
            return
        _settle(database, message, _send(message, settings))


def _take(database: Database) -> Message | None:
    now = int(time.time())
    query = select(Notice).where(Notice.due <= now).order_by(Notice.due, Notice.id).limit(1)
    with database.reading() as session:
        if session.scalar(query) is None:
            return None
    with database.writing() as session:
        notice = session.scalar(query.with_for_update(skip_locked=True))
        if notice is None:
            return None
        notice.due = now + TAKEN_SECONDS
        hook = session.get_one(Webhook, notice.webhook_id)
        entry = session.get_one(AuditEntry, notice.audit_id)
        tenant = session.get_one(Tenant, entry.tenant_id)
        body = json.dumps(_said(entry, tenant.name), sort_keys=True).encode()
        return Message(notice.id, hook.id, hook.url, hook.secret, body, notice.tries)


def _said(entry: AuditEntry, tenant: str) -> dict[str, Any]:
    return {
        "format_version": 1,
        "type": entry.action,
        "timestamp": datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": {
            "id": entry.id,
            "tenant": tenant,
            "who": entry.who,
            "subject": entry.subject,
            "details": entry.details,
        },
    }


def _send(message: Message, settings: Settings) -> str:
    """Why it did not arrive; empty if it did."""
    url = httpx2.URL(message.url)
    headers = message.headers(int(time.time())) | {"host": url.netloc.decode("ascii")}
    try:
        there = url.copy_with(host=_find(url.host, url.port or (443 if url.scheme == "https" else 80), settings))
        with httpx2.Client(timeout=SECONDS, trust_env=False, follow_redirects=False) as client:
            extensions = {"sni_hostname": url.host}
            with client.stream("POST", there, content=message.body, headers=headers, extensions=extensions) as answer:
                return "" if answer.is_success else f"it answered {answer.status_code}"
    except (httpx2.HTTPError, OSError) as error:
        return f"{error}"[:200] or type(error).__name__


def _find(host: str, port: int, settings: Settings) -> str:
    """The address that a name stands for now. It is looked up once, so that it cannot stand for another one after."""
    found: Iterable[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(one[4][0]) for one in found]
    for address in addresses:
        # Who may name an address here need not be somebody who may reach what is behind it.
        if not settings.private_webhooks and not ipaddress.ip_address(address.partition("%")[0]).is_global:
            raise OSError(
                f"{host} is a private address ({address}), which this server tells nothing (see --private-webhooks)"
            )
    return addresses[0]


def _settle(database: Database, message: Message, fault: str) -> None:
    """Forget a notice that arrived; another one is due later, until it is given up."""
    now = int(time.time())
    tries = message.tries + 1
    with database.writing() as session:
        hook = session.get(Webhook, message.webhook_id, with_for_update=True)
        if hook is None:
            return
        gone = f"{fault}; a notice was given up" if fault and tries >= TRIES else fault
        hook.told, hook.fault = now, gone
        if not fault or tries >= TRIES:
            session.execute(delete(Notice).where(Notice.id == message.notice_id))
            return
        notice = session.get(Notice, message.notice_id)
        if notice is not None:
            notice.tries, notice.due = tries, now + min(FIRST_PAUSE << min(message.tries, 16), LAST_PAUSE)
    log.warning("webhook %s was not told: %s", message.webhook_id, fault)
