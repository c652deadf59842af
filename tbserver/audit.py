"""Who did what: written in the transaction that does it, and never changed."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy.orm import Session

from tbserver import webhooks
from tbserver.records import AuditEntry

# Who did what no person asked for.
SERVER = "the server"


def note(session: Session, tenant_id: int, who: str, action: str, subject: str, **details: Any) -> None:
    """Add an entry. Never a secret: entries are there for ever, and are read by many."""
    entry = AuditEntry(
        tenant_id=tenant_id, at=int(time.time()), who=who[:128], action=action, subject=subject[:256], details=details
    )
    session.add(entry)
    webhooks.note(session, entry)
