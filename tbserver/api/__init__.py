"""The API under /api/v1: what pages and programs ask, and the shapes of the answers."""

from __future__ import annotations

from fastapi import APIRouter

from tbserver.api import (
    audits,
    deltas,
    devices,
    groups,
    logins,
    releases,
    rollouts,
    statements,
    tenants,
    tokens,
    users,
    webhooks,
)

PREFIX = "/api/v1"

PARTS = (logins, tenants, users, tokens, audits, devices, groups, releases, deltas, statements, rollouts, webhooks)


def router() -> APIRouter:
    """All routes of the API."""
    whole = APIRouter(prefix=PREFIX)
    for part in PARTS:
        whole.include_router(part.router)
    return whole
