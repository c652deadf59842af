"""Decide what a device does next by itself: nothing, wait (and for what), fetch, deploy, or reboot. Pure."""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tbupdate.config import DAYS, Policy, Window
from tbupdate.consent import APPROVED, DECLINED, HOURS_MAX, Decision

FETCH = "fetch"
DEPLOY = "deploy"
REBOOT = "reboot"


class Act(enum.Enum):
    """What to do now."""

    NOTHING = "nothing"
    WAIT = "wait"
    FETCH = FETCH
    DEPLOY = DEPLOY
    REBOOT = REBOOT


class Reason(enum.Enum):
    """What a device waits for: one word for programs, in JSON and as a label of metrics."""

    TRIAL = "trial"
    DECLINED = "declined"
    POSTPONED = "postponed"
    APPROVAL = "approval"
    SERVER = "server"
    MAINS = "mains"
    IN_USE = "in-use"
    FETCH_WINDOW = "fetch-window"
    DEPLOY_WINDOW = "deploy-window"
    REBOOT_WINDOW = "reboot-window"
    INHIBITED = "inhibited"


_WINDOWS = {FETCH: Reason.FETCH_WINDOW, DEPLOY: Reason.DEPLOY_WINDOW, REBOOT: Reason.REBOOT_WINDOW}


@dataclass(frozen=True)
class Next:
    """What to do, and why not more: in words, the same wherever they are shown, and in one word."""

    act: Act
    why: str = ""
    reason: Reason | None = None


@dataclass(frozen=True)
class State:
    """How the device stands.

    `now` is the time in the zone of the maintenance windows, `decision` what a person said of the release that is
    offered, `ready` the tree of one that was fetched and is complete but not switched to, `trial` and `staged` are
    deployments by their ids, `inhibitors` say what holds a reboot back; `on_mains`: it has power from the grid, or no
    battery; `in_use`: somebody works with it, or it does by itself. `held` says why the server that orders it wants it
    to wait.
    """

    now: datetime
    policy: Policy = "auto"
    reboot: bool = False
    mains_only: bool = False
    idle_only: bool = False
    windows: Sequence[Window] = ()
    decision: Decision | None = None
    ready: str | None = None
    trial: str | None = None
    staged: str | None = None
    inhibitors: Collection[str] = field(default=())
    on_mains: bool = True
    in_use: bool = False
    held: str = ""


def next_action(state: State, offered: str | None) -> Next:
    """What the device does now; `offered` is the tree of what the sources offer, None if there is nothing new."""
    if state.trial is not None:
        return Next(Act.WAIT, f"{state.trial} runs on trial, and has to be committed first", Reason.TRIAL)
    if offered is not None:
        return _upgrade(state, offered)
    if state.staged is not None and state.reboot:
        return _reboot(state)
    return Next(Act.NOTHING)


def _upgrade(state: State, offered: str) -> Next:  # noqa: PLR0911 - a table of states, one after the other
    decision = state.decision
    if decision is not None and decision.said == DECLINED:
        return Next(Act.NOTHING, "it was declined", Reason.DECLINED)
    now = state.now.timestamp()
    # Nobody can postpone for longer: then it was a clock that stood in the future.
    if decision is not None and now < decision.until <= now + HOURS_MAX * 3600:
        until = datetime.fromtimestamp(decision.until, state.now.tzinfo)
        return Next(Act.WAIT, f"it was postponed until {until:%Y-%m-%d %H:%M}", Reason.POSTPONED)
    approved = state.policy == "auto" or (decision is not None and decision.said == APPROVED)
    ready = state.ready == offered
    if not approved and (ready or state.policy == "ask"):
        what = "it is fetched and waits for approval" if ready else "it waits for approval"
        return Next(Act.WAIT, f"{what}: tb-update approve", Reason.APPROVAL)
    if state.held:
        return Next(Act.WAIT, state.held, Reason.SERVER)
    if state.mains_only and not state.on_mains:
        return Next(Act.WAIT, "it waits for mains power", Reason.MAINS)
    # Whoever says yes is there, and uses it.
    if state.idle_only and state.in_use and (decision is None or decision.said != APPROVED):
        return Next(Act.WAIT, "it waits until nobody uses the device", Reason.IN_USE)
    # A window of its own for what is fetched also lets it come before it may be deployed.
    ahead = any(FETCH in window.allows for window in state.windows)
    closed = _closed(state, DEPLOY)
    if not ready:
        closed_to_fetch = _closed(state, FETCH) if ahead else closed
        if closed_to_fetch is not None:
            return closed_to_fetch
        if not approved or closed is not None:
            return Next(Act.FETCH, "it is fetched by the next run")
    return closed or Next(Act.DEPLOY, "it is deployed by the next run")


def _reboot(state: State) -> Next:
    if state.inhibitors:
        return Next(Act.WAIT, f"the reboot is held back: {', '.join(sorted(state.inhibitors))}", Reason.INHIBITED)
    if state.idle_only and state.in_use:
        return Next(Act.WAIT, "the reboot waits until nobody uses the device", Reason.IN_USE)
    return _closed(state, REBOOT) or Next(Act.REBOOT, "the next run reboots")


def _closed(state: State, what: str) -> Next | None:
    """That it waits for a maintenance window; None if it need not."""
    windows = [window for window in state.windows if what in window.allows]
    if not state.windows or any(_is_open(window, state.now) for window in windows):
        return None
    if not windows:
        return Next(Act.WAIT, f"no maintenance window allows a {what}", _WINDOWS[what])
    opens = min(_opens(window, state.now) for window in windows)
    return Next(Act.WAIT, f"the {what} waits for the maintenance window on {opens:%Y-%m-%d at %H:%M}", _WINDOWS[what])


def _is_open(window: Window, now: datetime) -> bool:
    # One that began yesterday may last into today.
    return any(begin <= now < begin + timedelta(minutes=window.minutes) for begin in _beginnings(window, now, -8, 1))


def _opens(window: Window, now: datetime) -> datetime:
    return next(begin for begin in _beginnings(window, now, 0, 9) if begin > now)


def _beginnings(window: Window, now: datetime, first: int, last: int) -> list[datetime]:
    """When the window opens, on the days around now."""
    hour, minute = map(int, window.start.split(":"))
    midnight = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    days = [midnight + timedelta(days=n) for n in range(first, last)]
    return [day for day in days if DAYS[day.weekday()] in window.days]
