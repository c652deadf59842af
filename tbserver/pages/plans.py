"""The plan of a rollout as a form asks for it, and as people read it. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import pydantic

from tbserver.api.shapes import Number
from tbserver.pages.sheet import Form
from tbserver.refusals import NotValid
from tbserver.rollout import Phase, Plan, read_phases


class NewRollout(Form):
    """What the form of a new rollout sends; moments are in UTC."""

    name: str = ""
    release_id: Number = 0
    filter: str = ""
    phases: str = "10 %, 50 %, rest"
    success: str = "95"
    errors: str = "5"
    on_errors: str = "rollback"
    soak_minutes: str = "0"
    lost_hours: str = "24"
    retries: str = "0"
    start: str = ""
    days: tuple[str, ...] = ()
    opens: str = ""
    hours: str = "4"
    confirm: Annotated[bool, pydantic.BeforeValidator(lambda said: said == "yes")] = False
    do: Literal["look", "start"] = "look"

    def plan(self) -> dict[str, Any]:
        """The plan as `Plan` reads it; NotValid if it is not understood at all."""
        said: dict[str, Any] = {
            "phases": read_phases(self.phases),
            "success": self.success,
            "errors": self.errors,
            "on_errors": self.on_errors,
            "soak_seconds": _number(self.soak_minutes, "the time to watch") * 60,
            "lost_seconds": _number(self.lost_hours, "the time without a word") * 3600,
            "retries": self.retries,
            "confirm": self.confirm,
        }
        if self.start:
            said["start"] = _moment(self.start)
        if self.days:
            minutes = _number(self.hours, "the length of the window") * 60
            said["window"] = {"days": self.days, "start": self.opens, "minutes": minutes}
        return said


def write_phase(phase: Phase) -> str:
    """A phase in words."""
    if phase.percent is not None:
        return f"{phase.percent:g} %"
    return f"{phase.devices} devices" if phase.devices is not None else "all that are left"


def describe(plan: Plan) -> list[tuple[str, str]]:
    """A plan in words: what, and how it is."""
    then = "it is taken back from all that have it" if plan.on_errors == "rollback" else "it stops"
    words = [
        ("Next phase", f"when {plan.success:g} % of a phase run the release{_for(plan.soak_seconds)}"),
        ("Too many errors", f"more than {plan.errors:g} % failed or went silent: {then}"),
        ("Silent", f"a device that says nothing for {_length(plan.lost_seconds)} counts as failed"),
    ]
    if plan.retries:
        words.append(("Tries", f"a device that failed is offered it {plan.retries} times more"))
    if plan.window is not None:
        one = plan.window
        words.append(
            ("Window", f"{', '.join(one.days)} from {one.start} for {_length(one.minutes * 60)}, {one.zone} or local")
        )
    if plan.confirm:
        words.append(("Consent", "a person at the device is asked"))
    return words


def _for(seconds: int) -> str:
    return f" for {_length(seconds)}" if seconds else ""


def _length(seconds: int) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit if seconds > size else unit[:-1]}"
    return f"{seconds} seconds"


def _number(text: str, what: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text.strip()):
        raise NotValid(f"{what} is a number, and {text[:20]!r} is none", "Write digits only, such as 10.")
    return int(text)


def _moment(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise NotValid(f"{text[:40]!r} is no moment", "Write one such as 2027-01-31T22:00.") from None
