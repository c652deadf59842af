"""How often somebody may guess: per account from one address, per account, and per address."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tbserver.database import insert_into
from tbserver.records import Throttle
from tbserver.refusals import TooOften

# After how many failures one has to wait; one account from many addresses less soon, as others must not lock it easily.
FREE = {"both": 5, "account": 50, "address": 30}
FIRST_WAIT, LONGEST_WAIT = 2, 900
FORGOTTEN = 3600
SWEPT = 100


def keys(tenant: str, name: str, address: str) -> dict[str, str]:
    """What is counted for a try, by its kind."""
    network = _network(address)
    said = {"both": f"{tenant}\0{name}\0{network}", "account": f"{tenant}\0{name}", "address": network}
    return {kind: hashlib.sha256(f"{kind}\0{what}".encode()).hexdigest() for kind, what in said.items()}


def check(session: Session, held: Sequence[str], now: int) -> None:
    """Refuse a try that comes too soon, before anything is computed for it."""
    until = session.scalars(select(Throttle.until).where(Throttle.key.in_(held))).all()
    wait = max(until, default=0) - now
    if wait > 0:
        raise TooOften("there were too many failed logins", wait)


def count_failure(session: Session, held: dict[str, str], now: int) -> None:
    """Remember a failure; each one more doubles the wait."""
    for kind, key in sorted(held.items(), key=lambda item: item[1]):
        # Of two first failures at once one makes the row.
        new = insert_into(session, Throttle).values(key=key, failures=0, since=now, until=0)
        session.execute(new.on_conflict_do_nothing())
        row = session.get_one(Throttle, key, with_for_update=True)
        if row.since < now - FORGOTTEN:
            row.failures, row.until = 0, 0
        row.failures += 1
        row.since = now
        beyond = row.failures - FREE[kind]
        if beyond >= 0:
            row.until = now + min(FIRST_WAIT << min(beyond, 16), LONGEST_WAIT)
    old = select(Throttle.key).where(Throttle.since < now - FORGOTTEN).limit(SWEPT)
    session.execute(delete(Throttle).where(Throttle.key.in_(old)))


def forget(session: Session, held: dict[str, str]) -> None:
    """A try that was counted succeeded: the account's failures from there count no more, and this one nowhere."""
    session.execute(delete(Throttle).where(Throttle.key == held["both"]))
    for kind in ("account", "address"):
        row = session.get(Throttle, held[kind], with_for_update=True)
        if row is not None:
            row.failures -= 1
            row.until = row.until if row.failures >= FREE[kind] else 0


def _network(address: str) -> str:
    """The address; of IPv6 what one household has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
