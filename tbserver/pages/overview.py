"""The first page: how the fleet stands."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tbserver import tallies
from tbserver.access import Here, Viewer
from tbserver.api import audits, devices, rollouts
from tbserver.pages.sheet import show
from tbserver.paging import Asked
from tbserver.rollout import ENDED, State

router = APIRouter()
LATEST = 8
SHOWN = 8


@router.get("/")
def overview(server: Here, request: Request, caller: Viewer) -> Response:
    """What devices run, how they are, and what is on its way to them."""
    counted = devices.count_devices(server, caller)
    made = rollouts.list_rollouts(server, caller, Asked(limit=LATEST))
    present = [one for one in made.items if State(one.state) not in ENDED]
    return show(
        request,
        caller,
        "overview.html",
        states=counted.states,
        total=sum(counted.states.values()),
        releases=tallies.largest(counted.releases, SHOWN),
        rollouts=[rollouts.show_rollout(server, caller, one.id) for one in present or made.items[:1]],
        entries=audits.list_audit(server, caller, Asked(limit=LATEST)).items,
    )
