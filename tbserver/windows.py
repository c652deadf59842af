"""Maintenance windows: when something may happen to a device, in the time zone that it is in. Pure."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Literal, get_args

import pydantic

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)


def _zone(name: str) -> str:
    if name and zone_of(name) is None:
        raise ValueError("not a time zone such as Europe/Berlin")
    return name


def zone_of(name: str) -> tzinfo | None:
    """The zone of that name; None if there is none."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None


class Window(pydantic.BaseModel):
    """On `days` from `start` on, for so many `minutes`; `zone` is that of devices that do not tell theirs."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    days: Annotated[tuple[Day, ...], pydantic.Field(min_length=1)] = DAYS
    start: Annotated[str, pydantic.StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    minutes: Annotated[int, pydantic.Field(ge=1, le=7 * 24 * 60)]
    zone: Annotated[str, pydantic.AfterValidator(_zone)] = "UTC"


def opens(window: Window, zone: str, now: int) -> datetime | None:
    """When it opens next for a device in that zone (empty, or none that is known: the window's own); None: it is open.

    Where clocks are put forward over its beginning it opens with the hour that follows.
    """
    where = (zone_of(zone) if zone else None) or zone_of(window.zone) or UTC
    moment = datetime.fromtimestamp(now, where)
    hour, minute = map(int, window.start.split(":"))
    following: datetime | None = None
    # One that began a week ago may last until now.
    for days in range(-8, 9):
        day = (moment + timedelta(days=days)).replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
        if DAYS[day.weekday()] not in window.days:
            continue
        begin = day.timestamp()
        if begin <= now < begin + window.minutes * 60:
            return None
        if begin > now and following is None:
            following = day
    if following is None:
        raise AssertionError("every week has each day")
    return following
