"""The accounts of a tenant."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import select

from tbserver import accounts
from tbserver.access import Admin, Here
from tbserver.accounts import Role
from tbserver.api.shapes import Moment, Name, Number, Order, RoleWord, Shape
from tbserver.paging import Page, Paging, read_page
from tbserver.records import Account

router = APIRouter(tags=["users"])


class User(Shape):
    """An account."""

    id: int
    """Its number."""
    name: str
    """Its name."""
    role: str
    """What it may: viewer, operator, approver, or admin."""
    must_change: bool
    """Whether it has to choose a password first."""
    disabled: bool
    """Whether it is closed."""
    created: Moment
    """When it was made."""


class NewUser(Order):
    """An account to be made."""

    name: Name
    role: RoleWord


class NewUserMade(Shape):
    """The account, and the password for its first login, which is shown here only."""

    user: User
    """The account."""
    password: str
    """The password for its first login."""


class Change(Order):
    """What is to be different about an account."""

    role: RoleWord | None = None
    disabled: bool | None = None


class Password(Shape):
    """A password for one login, which is shown here only."""

    password: str


@router.get("/users")
def list_users(server: Here, caller: Admin, paging: Paging) -> Page[User]:
    """All accounts, by their numbers."""
    with server.database.reading() as session:
        query = select(Account).where(Account.tenant_id == caller.tenant_id)
        rows, following = read_page(session, query, paging, [Account.id])
        return Page(items=[User.model_validate(row) for row in rows], next=following)


@router.post("/users", status_code=201)
def create_user(server: Here, caller: Admin, given: NewUser) -> NewUserMade:
    """Make an account."""
    with server.database.writing() as session:
        account, password = accounts.create_account(
            session, caller.tenant_id, caller.name, given.name, Role.of(given.role)
        )
        return NewUserMade(user=User.model_validate(account), password=password)


@router.patch("/users/{user_id}")
def change_user(server: Here, caller: Admin, user_id: Number, given: Change) -> User:
    """Give an account another role, close it, or open it again."""
    with server.database.writing() as session:
        role = Role.of(given.role) if given.role else None
        return User.model_validate(accounts.change_account(session, caller, user_id, role, given.disabled))


@router.post("/users/{user_id}/password")
def reset_password(server: Here, caller: Admin, user_id: Number) -> Password:
    """Make a new password for an account; whoever is logged in with it is so no more."""
    with server.database.writing() as session:
        return Password(password=accounts.reset_password(session, caller, user_id))
