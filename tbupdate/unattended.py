"""Decide what a device does next by itself: nothing, wait (and for what), deploy, or reboot. Pure."""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tbupdate.choosing import Update
from tbupdate.config import DAYS, Window
from tbupdate.consent import APPROVED, DECLINED, HOURS_MAX, Decision

DEPLOY = "deploy"
REBOOT = "reboot"


class Act(enum.Enum):
    """What to do now."""

    NOTHING = "nothing"
    WAIT = "wait"
    DEPLOY = DEPLOY
    REBOOT = REBOOT


@dataclass(frozen=True)
class Next:
    """What to do, and why not more."""

    act: Act
    why: str = ""


@dataclass(frozen=True)
class State:
    """How the device stands.

    `now` is the time in the zone of the maintenance windows, `decision` what a person said of the release that is
    offered, `trial` and `staged` are deployments by their ids, `inhibitors` say what holds a reboot back; `on_mains`:
    it has power from the grid, or no battery.
    """

    now: datetime
    ask: bool = False
    reboot: bool = False
    mains_only: bool = False
    windows: Sequence[Window] = ()
    decision: Decision | None = None
    trial: str | None = None
    staged: str | None = None
    inhibitors: Collection[str] = field(default=())
    on_mains: bool = True


def next_action(state: State, answer: Update | None) -> Next:
    """What the device does now; `answer` is what the sources offer, None if there is nothing new."""
    if state.trial is not None:
        return Next(Act.WAIT, f"{state.trial} runs on trial, and has to be committed first")
    if answer is None:
        if state.staged is not None and state.reboot:
            return _reboot(state)
        return Next(Act.NOTHING)
    return _deploy(state)


def _deploy(state: State) -> Next:
    decision = state.decision
    if decision is not None and decision.said == DECLINED:
        return Next(Act.NOTHING, "it was declined")
    now = state.now.timestamp()
    # Nobody can postpone for longer: then it was a clock that stood in the future.
    if decision is not None and now < decision.until <= now + HOURS_MAX * 3600:
        until = datetime.fromtimestamp(decision.until, state.now.tzinfo)
        return Next(Act.WAIT, f"it was postponed until {until:%Y-%m-%d %H:%M}")
    if state.ask and (decision is None or decision.said != APPROVED):
        return Next(Act.WAIT, "it waits for approval: tb-update approve")
    if state.mains_only and not state.on_mains:
        return Next(Act.WAIT, "it waits for mains power")
    closed = _closed(state, DEPLOY)
    return Next(Act.WAIT, closed) if closed else Next(Act.DEPLOY)


def _reboot(state: State) -> Next:
    if state.inhibitors:
        return Next(Act.WAIT, f"the reboot is held back: {', '.join(sorted(state.inhibitors))}")
    closed = _closed(state, REBOOT)
    return Next(Act.WAIT, closed) if closed else Next(Act.REBOOT)


def _closed(state: State, what: str) -> str:
    """Why it may not happen now, by the maintenance windows; empty if it may."""
    windows = [window for window in state.windows if what in window.allows]
    if not state.windows or any(_is_open(window, state.now) for window in windows):
        return ""
    if not windows:
        return f"no maintenance window allows a {what}"
    opens = min(_opens(window, state.now) for window in windows)
    return f"the {what} waits for the maintenance window on {opens:%Y-%m-%d at %H:%M}"


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
