"""The pages that people steer a fleet from: what the API answers, as HTML, and forms for what it takes."""

from __future__ import annotations

from fastapi import APIRouter

from tbserver.pages import assets, devices, groups, logins, overview, people, releases, rollouts

PARTS = (assets, logins, overview, devices, groups, releases, rollouts, people)


def router() -> APIRouter:
    """All pages."""
    whole = APIRouter(include_in_schema=False)
    for part in PARTS:
        whole.include_router(part.router)
    return whole
