"""The API under /api/v1: what pages and programs ask, and the shapes of the answers."""

from __future__ import annotations

from fastapi import APIRouter

from tbserver.api import audits, logins, tokens, users

PREFIX = "/api/v1"


def router() -> APIRouter:
    """All routes of the API."""
    whole = APIRouter(prefix=PREFIX)
    for part in (logins, users, tokens, audits):
        whole.include_router(part.router)
    return whole
