"""People and their programs: accounts, roles, logins, API tokens."""

from __future__ import annotations

import enum
import functools
import secrets
import threading
import time
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tbserver import audit, throttle
from tbserver.database import Database
from tbserver.records import Account, ApiToken, Login, Tenant
from tbserver.refusals import NotKnown, NotThere, NotValid, Refusal, TooOften
from tbserver.tokens import create_secret, digest, ends

DEFAULT_TENANT = "default"
FIRST_ACCOUNT = "admin"
PASSWORD_LEAST, PASSWORD_MOST = 12, 1000
IDLE_SECONDS, LOGIN_SECONDS = 2 * 3600, 24 * 3600
# A login or token that is used again and again is not written down each time.
SEEN_EVERY = 60
TOKEN_PREFIX = "tbapi_"  # noqa: S105 - it is what tells a token from a password
_HASHER = PasswordHasher()
# Each takes 64 MiB and a core for a moment; a few wait for each other, and the rest are sent away: those who answer
# them answer devices, too.
_HASHING = threading.BoundedSemaphore(2)
_LOGGING_IN = threading.BoundedSemaphore(8)
AGAIN_SECONDS = 5


class Role(enum.IntEnum):
    """Who may do what: each may all that those before it may."""

    VIEWER = 1
    OPERATOR = 2
    APPROVER = 3
    ADMIN = 4

    @property
    def word(self) -> str:
        """As it is stored and shown."""
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> Role:
        """The role of that word; ValueError if there is none."""
        try:
            return cls[word.upper()]
        except KeyError:
            raise ValueError(f"a role is one of {', '.join(role.word for role in cls)}") from None


@dataclass(frozen=True)
class Caller:
    """Who asks. `csrf` has to come with what changes things, from a browser; `login` is the digest of its cookie."""

    tenant_id: int
    tenant: str
    account_id: int
    name: str
    role: Role
    must_change: bool = False
    csrf: str | None = None
    login: str | None = None


def begin(session: Session) -> str | None:
    """Make the first tenant and its first account where there is none; its password, which is good for one login."""
    if session.scalar(select(Tenant.id).limit(1)) is not None:
        return None
    now = int(time.time())
    tenant = Tenant(name=DEFAULT_TENANT, created=now)
    try:
        with session.begin_nested():
            session.add(tenant)
            session.flush()
    except IntegrityError:
        # Another process was faster, and has told the password.
        return None
    _, password = create_account(session, tenant.id, audit.SERVER, FIRST_ACCOUNT, Role.ADMIN)
    return password


def create_account(session: Session, tenant_id: int, who: str, name: str, role: Role) -> tuple[Account, str]:
    """A new account and its password, which has to be changed at the first login."""
    password = secrets.token_urlsafe(15)
    account = Account(
        tenant_id=tenant_id,
        name=name,
        password=_hash(password),
        role=role.word,
        must_change=True,
        created=int(time.time()),
    )
    try:
        with session.begin_nested():
            session.add(account)
            session.flush()
    except IntegrityError:
        raise Refusal(f"there is an account {name} already", "Choose another name.") from None
    audit.note(session, tenant_id, who, "account.create", name, role=role.word)
    return account, password


def log_in(database: Database, tenant: str, name: str, password: str, address: str) -> tuple[Login, str]:
    """A new login and the secret for its cookie. What is wrong with a try nobody is told, nor by how long it took.

    Each try counts as a failure before anything is computed, so that many at once are no more than one after the other;
    and nothing is locked while it is computed. TooOften, also where very many try at this moment: that counts as none.
    """
    if not _LOGGING_IN.acquire(blocking=False):
        raise TooOften("very many log in at this moment", AGAIN_SECONDS)
    try:
        return _log_in(database, tenant, name, password, address)
    finally:
        _LOGGING_IN.release()


def _log_in(database: Database, tenant: str, name: str, password: str, address: str) -> tuple[Login, str]:
    now = int(time.time())
    held = throttle.keys(tenant, name, address)
    with database.writing() as session:
        throttle.check(session, list(held.values()), now)
        throttle.count_failure(session, held, now)
    named = (
        select(Account).join(Tenant, Tenant.id == Account.tenant_id).where(Tenant.name == tenant, Account.name == name)
    )
    with database.reading() as session:
        stored = session.scalar(named.with_only_columns(Account.password))
    right = _verify(stored or _nobodys_password(), password)
    newer = _hash(password) if right and stored and _HASHER.check_needs_rehash(stored) else stored
    with database.writing() as session:
        account = session.scalar(named.with_for_update(of=Account))
        if account is not None and right and account.password == stored and not account.disabled:
            throttle.forget(session, held)
            account.password = newer or account.password
            session.execute(delete(Login).where(Login.account_id == account.id, Login.created < now - LOGIN_SECONDS))
            audit.note(session, account.tenant_id, account.name, "login", account.name, address=address)
            return _begin_login(session, account, now)
        if account is not None:
            audit.note(session, account.tenant_id, audit.SERVER, "login.failed", account.name, address=address)
    raise NotKnown("there is no such account with this password", "Mind that capitals matter.")


def _begin_login(session: Session, account: Account, now: int) -> tuple[Login, str]:
    secret, kept = create_secret()
    login = Login(
        digest=kept,
        tenant_id=account.tenant_id,
        account_id=account.id,
        csrf=secrets.token_urlsafe(24),
        created=now,
        seen=now,
    )
    session.add(login)
    return login, secret


@functools.cache
def _nobodys_password() -> str:
    """A hash to verify against where there is no account, so that this takes as long as where there is one."""
    return _hash(secrets.token_urlsafe(15))


def _hash(password: str) -> str:
    with _HASHING:
        return _HASHER.hash(password)


def _verify(stored: str, password: str) -> bool:
    if len(password) > PASSWORD_MOST:
        return False
    with _HASHING:
        try:
            return _HASHER.verify(stored, password)
        except (VerifyMismatchError, InvalidHashError):
            return False


def caller_of_login(session: Session, secret: str) -> tuple[Caller, bool]:
    """Who has this cookie, and whether that is to be written down (`touch_login`); NotKnown if nobody has."""
    now = int(time.time())
    found = session.execute(
        select(Login, Account, Tenant.name)
        .join(Account, Account.id == Login.account_id)
        .join(Tenant, Tenant.id == Account.tenant_id)
        .where(Login.digest == digest(secret))
    ).one_or_none()
    if found is None:
        raise NotKnown("you are not logged in", "Log in.")
    login, account, tenant = found
    if account.disabled or login.seen < now - IDLE_SECONDS or login.created < now - LOGIN_SECONDS:
        raise NotKnown("your login has ended", "Log in again.")
    role = Role.of(account.role)
    caller = Caller(
        account.tenant_id, tenant, account.id, account.name, role, account.must_change, login.csrf, login.digest
    )
    return caller, login.seen < now - SEEN_EVERY


def touch_login(session: Session, kept: str) -> None:
    """Write down that a login is used."""
    session.execute(update(Login).where(Login.digest == kept).values(seen=int(time.time())))


def log_out(session: Session, caller: Caller) -> None:
    """End a login."""
    session.execute(delete(Login).where(Login.digest == caller.login))
    audit.note(session, caller.tenant_id, caller.name, "logout", caller.name)


def caller_of_token(session: Session, secret: str) -> tuple[Caller, int | None]:
    """Who has this API token, and the token's id where its use is to be written down; NotKnown if nobody has."""
    now = int(time.time())
    found = session.execute(
        select(ApiToken, Account, Tenant.name)
        .join(Account, Account.id == ApiToken.account_id)
        .join(Tenant, Tenant.id == Account.tenant_id)
        .where(ApiToken.digest == digest(secret))
    ).one_or_none()
    if found is None:
        raise NotKnown("this token is not known", "Ask for a new one.")
    token, account, tenant = found
    if account.disabled or account.must_change or (token.expires is not None and token.expires <= now):
        raise NotKnown("this token is not valid any more", "Ask for a new one.")
    role = min(Role.of(token.role), Role.of(account.role))
    caller = Caller(account.tenant_id, tenant, account.id, account.name, role)
    return caller, token.id if (token.used or 0) < now - SEEN_EVERY else None


def touch_token(session: Session, token_id: int) -> None:
    """Write down that a token is used."""
    session.execute(update(ApiToken).where(ApiToken.id == token_id).values(used=int(time.time())))


def change_password(database: Database, caller: Caller, old: str, new: str) -> tuple[Login, str]:
    """A new password; all logins of the account end, and one begins anew: it and the secret for its cookie."""
    if not PASSWORD_LEAST <= len(new) <= PASSWORD_MOST:
        raise NotValid(f"a password has {PASSWORD_LEAST} to {PASSWORD_MOST} characters", "Choose another one.")
    if new == old:
        raise NotValid("that is the present password", "Choose another one.")
    now = int(time.time())
    # Who took over a login must not guess here what is throttled there.
    held = throttle.keys(caller.tenant, caller.name, "change of password")
    with database.writing() as session:
        throttle.check(session, list(held.values()), now)
        throttle.count_failure(session, held, now)
        stored = session.scalar(select(Account.password).where(Account.id == caller.account_id)) or ""
    if not _verify(stored, old):
        raise Refusal("that is not the present password; it was not changed", "Try again.")
    made = _hash(new)
    with database.writing() as session:
        account = session.get_one(Account, caller.account_id, with_for_update=True)
        if account.password != stored:
            raise Refusal(
                "the password was changed by somebody else meanwhile; this one was not taken", "Log in again."
            )
        account.password, account.must_change = made, False
        throttle.forget(session, held)
        session.execute(delete(Login).where(Login.account_id == account.id))
        audit.note(session, caller.tenant_id, caller.name, "account.password", caller.name)
        return _begin_login(session, account, now)


def reset_password(session: Session, caller: Caller, account_id: int) -> str:
    """A new password for another one's account, which is good for one login; all its logins end."""
    account = get_account(session, caller, account_id)
    password = secrets.token_urlsafe(15)
    account.password, account.must_change = _hash(password), True
    session.execute(delete(Login).where(Login.account_id == account.id))
    audit.note(session, caller.tenant_id, caller.name, "account.reset", account.name)
    return password


def change_account(
    session: Session, caller: Caller, account_id: int, role: Role | None, disabled: bool | None
) -> Account:
    """Another role, or an account closed or opened again; the last admin stays one."""
    account = get_account(session, caller, account_id)
    if role is not None:
        account.role = role.word
    if disabled is not None:
        account.disabled = disabled
        session.execute(delete(Login).where(Login.account_id == account.id))
    session.flush()
    admins = select(func.count()).where(
        Account.tenant_id == caller.tenant_id, Account.role == Role.ADMIN.word, Account.disabled.is_(False)
    )
    if not session.scalar(admins):
        raise Refusal(
            "nobody could do what an admin does any more; nothing was changed", "Make another one admin first."
        )
    audit.note(
        session,
        caller.tenant_id,
        caller.name,
        "account.change",
        account.name,
        role=account.role,
        disabled=account.disabled,
    )
    return account


def get_account(session: Session, caller: Caller, account_id: int) -> Account:
    """An account of the caller's tenant, to be changed."""
    found = session.scalar(
        # All of a tenant: two admins must not take each other's role at the same time.
        select(Tenant.id).where(Tenant.id == caller.tenant_id).with_for_update()
    ) and session.scalar(select(Account).where(Account.id == account_id, Account.tenant_id == caller.tenant_id))
    if not found:
        raise NotThere("there is no such account")
    return found


def create_local_token(session: Session, tenant: str, name: str, role: Role, days: int) -> str:
    """A token for a program, with an account of its own that nobody logs in to; NotThere, or Refusal.

    For somebody at the machine itself, who could do anything to the records anyway.
    """
    there = session.scalar(select(Tenant).where(Tenant.name == tenant))
    if there is None:
        raise NotThere(f"there is no tenant {tenant}", "Name another with --tenant.")
    account, _ = create_account(session, there.id, audit.SERVER, name, role)
    account.must_change = False
    caller = Caller(there.id, "", account.id, name, role)
    return create_token(session, caller, name, role, ends(days))[1]


def create_token(session: Session, caller: Caller, name: str, role: Role, expires: int | None) -> tuple[ApiToken, str]:
    """A token that acts for the caller, with this role at most; and its secret, which is shown once."""
    secret, kept = create_secret(TOKEN_PREFIX)
    token = ApiToken(
        tenant_id=caller.tenant_id,
        account_id=caller.account_id,
        name=name,
        digest=kept,
        role=min(role, caller.role).word,
        created=int(time.time()),
        expires=expires,
    )
    session.add(token)
    session.flush()
    audit.note(session, caller.tenant_id, caller.name, "token.create", name, role=token.role, id=token.id)
    return token, secret
