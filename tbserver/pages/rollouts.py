"""Rollouts: planned, begun, watched as they go on, and steered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi import Form as Sent
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from tbdiff.errors import Stop
from tbserver import accounts
from tbserver.access import Approver, Here, Operator, Viewer, Watcher
from tbserver.accounts import Caller
from tbserver.api import releases, rollouts
from tbserver.api.rollouts import ListedTakers
from tbserver.api.shapes import Number
from tbserver.pages import charts, plans
from tbserver.pages.plans import NewRollout
from tbserver.pages.sheet import draw, go, show, take
from tbserver.paging import Asked, Paging
from tbserver.refusals import Refusal
from tbserver.rollout import ENDED, Plan, State
from tbserver.server import Server

router = APIRouter()
LOOK_SECONDS = 1.0
SHOWN = 20
# From the bottom of the picture to its top.
LAYERS = ("succeeded", "busy", "failed", "lost", "waiting")
# A browser asks again by itself; a login that has ended meanwhile shows then.
WATCH_SECONDS = 300
_STEERED: dict[str, Callable[[Server, Caller, int], rollouts.RolloutWhole]] = {
    "pause": rollouts.pause_rollout,
    "resume": rollouts.resume_rollout,
    "cancel": rollouts.cancel_rollout,
    "retry": rollouts.retry_rollout,
    "rollback": rollouts.take_rollout_back,
}


@router.get("/rollouts")
def list_rollouts(server: Here, request: Request, caller: Viewer, paging: Paging) -> Response:
    """All rollouts, the newest first."""
    found = rollouts.list_rollouts(server, caller, paging)
    return show(request, caller, "rollouts.html", found=found)


@router.get("/rollouts/new")
def plan_rollout(server: Here, request: Request, caller: Operator, release: Number = 0, filter: str = "") -> Response:
    """The form of a new rollout."""
    return _form(server, request, caller, NewRollout(release_id=release, filter=filter))


def _form(server: Server, request: Request, caller: Caller, given: NewRollout, **said: Any) -> Response:
    known = releases.list_releases(server, caller, Asked(limit=100)).items
    about = {"why": "", "remedy": "", "meant": None, "status": 200} | said
    return show(request, caller, "rollout_new.html", releases=known, given=given, **about)


@router.post("/rollouts")
def create_rollout(server: Here, request: Request, caller: Operator, given: Annotated[NewRollout, Sent()]) -> Response:
    """Look which devices a rollout would reach, or begin it."""
    try:
        if given.do == "look":
            meant = rollouts.count_meant(server, caller, given.filter, given.release_id)
            return _form(server, request, caller, given, meant=meant)
        said = {"name": given.name.strip(), "release_id": given.release_id, "filter": given.filter.strip()}
        made = rollouts.create_rollout(server, caller, take(rollouts.NewRollout, **said, plan=given.plan()))
    except Refusal as error:
        return _form(server, request, caller, given, why=str(error), remedy=error.remedy, status=error.status)
    return go(f"/rollouts/{made.rollout.id}")


@router.get("/rollouts/{rollout_id}")
def show_rollout(
    server: Here, request: Request, caller: Viewer, rollout_id: Number, asked: Annotated[ListedTakers, Query()]
) -> Response:
    """One rollout, how far it is, and its devices."""
    about = _live(server, caller, rollout_id)
    plan = Plan.model_validate(about["one"].plan)
    takers = rollouts.list_takers(server, caller, rollout_id, asked.model_copy(update={"limit": SHOWN}))
    return show(request, caller, "rollout.html", **about, plan=plans.describe(plan), takers=takers, asked=asked)


def _live(server: Server, caller: Caller, rollout_id: Number) -> dict[str, Any]:
    """What of a rollout changes while one looks at it."""
    whole = rollouts.show_rollout(server, caller, rollout_id)
    one, plan = whole.rollout, Plan.model_validate(whole.rollout.plan)
    return {
        "one": one,
        "is_over": State(one.state) in ENDED,
        "can": _offers(one, caller),
        "history": charts.areas(
            [point.at for point in whole.progress],
            [(name, [getattr(point, name) for point in whole.progress]) for name in LAYERS],
        ),
        "began": whole.progress[0].at if whole.progress else 0,
        "until": whole.progress[-1].at if whole.progress else 0,
        "phases": list(zip(whole.phases, map(plans.write_phase, plan.phases), strict=True)),
    }


def _offers(one: rollouts.RolloutShown, caller: Caller) -> list[str]:
    """What this person may do with a rollout as it stands."""
    if caller.role < accounts.Role.OPERATOR or one.undone_by is not None:
        return []
    steps = {
        State.APPROVAL: ["approve", "cancel"] if caller.role >= accounts.Role.APPROVER else ["cancel"],
        State.PREPARING: ["cancel"],
        State.RUNNING: ["pause", "cancel", "rollback"],
        State.PAUSED: ["resume", "cancel", "rollback"],
        State.STOPPED: ["retry", "rollback"],
        State.FINISHED: ["rollback"],
        State.CANCELLED: ["rollback"],
    }[State(one.state)]
    return [step for step in steps if step != "rollback" or one.undoes is None]


@router.get("/rollouts/{rollout_id}/events")
async def watch_rollout(server: Here, request: Request, caller: Watcher, rollout_id: Number) -> Response:
    """How a rollout goes on, told whenever something of it is new (server-sent events)."""

    def look() -> tuple[str, bool]:
        about = _live(server, caller, rollout_id)
        return draw(request, caller, "rollout_live.html", **about), about["is_over"]

    first = await run_in_threadpool(look)

    async def events() -> AsyncIterator[str]:
        said, over = first
        yield _event("progress", said)
        for _ in range(int(WATCH_SECONDS / LOOK_SECONDS)):
            if over or request.app.state.is_stopping():
                break
            await asyncio.sleep(LOOK_SECONDS)
            try:
                new, over = await run_in_threadpool(look)
            except Stop:
                break
            # Something is sent each time: whoever is gone is noticed.
            yield _event("progress", new) if new != said else ":\n\n"
            said = new
        yield _event("over", "") if over else "retry: 1000\n\n"

    return StreamingResponse(events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _event(name: str, text: str) -> str:
    lines = "".join(f"data: {line}\n" for line in (text.splitlines() or [""]))
    return f"event: {name}\n{lines}\n"


@router.post("/rollouts/{rollout_id}/approve")
def approve_rollout(server: Here, caller: Approver, rollout_id: Number) -> Response:
    """Let a rollout begin that somebody else made."""
    return go(f"/rollouts/{rollouts.approve_rollout(server, caller, rollout_id).rollout.id}")


@router.post("/rollouts/{rollout_id}/{step}")
def steer_rollout(
    server: Here, caller: Operator, rollout_id: Number, step: Literal["pause", "resume", "cancel", "retry", "rollback"]
) -> Response:
    """Pause a rollout, let it go on, end it, try again, or take it back."""
    return go(f"/rollouts/{_STEERED[step](server, caller, rollout_id).rollout.id}")
