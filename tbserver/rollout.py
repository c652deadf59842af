"""A rollout, decided: which device gets it, when, and why not yet, in words. Pure.

Three questions are answered, each from values alone: in which phase a device is (`spread`), what becomes of the
rollout as its devices report (`advance`), and what a device is told that asks (`answer`). None of them costs more
because there are many devices: the second looks at counts, the third at one device.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import pydantic

from tbserver.refusals import NotValid
from tbserver.windows import Window, opens

PHASES_MAX = 50
# What a device says of its health when a check failed that it cannot do without.
SICK = "failed"
Percent = Annotated[float, pydantic.Field(ge=0, le=100, allow_inf_nan=False)]


class Phase(pydantic.BaseModel):
    """A part of the devices, by percent of all or as a number; nothing of both: all that are left."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    percent: Annotated[float, pydantic.Field(gt=0, le=100)] | None = None
    devices: Annotated[int, pydantic.Field(ge=1)] | None = None

    @pydantic.model_validator(mode="after")
    def _one_of_both(self) -> Phase:
        if self.percent is not None and self.devices is not None:
            raise ValueError("a phase is a percentage or a number of devices, not both")
        return self


class Plan(pydantic.BaseModel):
    """How a release is brought to devices; it never changes.

    The next phase opens when `success` percent of the present one run the release and are healthy, and have done so
    for `soak_seconds`. When more than `errors` percent of what was open so far failed or was lost (but at least
    `errors_least` devices), the rollout stops and, with `on_errors` "rollback", is taken back. A device that does not
    say anything for `lost_seconds` after it was offered the release is lost. One that failed is offered it `retries`
    times more. Nothing is offered before `start`, nor outside of `window`. With `confirm` a person at the device is
    asked. `proof` "told": of a device that tells what it runs, and how it does, only that counts; "closed": that it
    says it is done.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    phases: Annotated[tuple[Phase, ...], pydantic.Field(min_length=1, max_length=PHASES_MAX)] = (Phase(),)
    success: Percent = 95
    soak_seconds: Annotated[int, pydantic.Field(ge=0, le=90 * 86400)] = 0
    errors: Percent = 5
    errors_least: Annotated[int, pydantic.Field(ge=1)] = 1
    on_errors: Literal["stop", "rollback"] = "stop"
    lost_seconds: Annotated[int, pydantic.Field(ge=60, le=90 * 86400)] = 86400
    retries: Annotated[int, pydantic.Field(ge=0, le=10)] = 0
    start: Annotated[int, pydantic.Field(ge=0, lt=1 << 37)] | None = None
    window: Window | None = None
    confirm: bool = False
    handling: Literal["attempt", "forced"] = "attempt"
    proof: Literal["told", "closed"] = "told"


_PHASE = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*%|(\d{1,9})|(rest)")


def read_phases(text: str) -> list[dict[str, Any]]:
    """Phases as people write them: numbers of devices, percentages, the rest."""
    found: list[dict[str, Any]] = []
    for part in text.split(","):
        one = _PHASE.fullmatch(part.strip().lower())
        if one is None:
            raise NotValid(f"the phase {part.strip()[:40]!r} is not understood", "Write parts such as: 10, 25 %, rest.")
        percent, devices, _ = one.groups()
        found.append({"percent": float(percent)} if percent else {"devices": int(devices)} if devices else {})
    return found


class State(enum.StrEnum):
    """How a rollout stands."""

    APPROVAL = "approval"
    PREPARING = "preparing"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FINISHED = "finished"
    CANCELLED = "cancelled"


ENDED = (State.STOPPED, State.FINISHED, State.CANCELLED)


class Stage(enum.StrEnum):
    """How one device stands in a rollout.

    `installed`: it says that it is done, but not yet that it runs it. `lost`: it has not been heard of since.
    `stopping`: it was asked to stop. `left`: it has nothing to do with this rollout any more.
    """

    WAITING = "waiting"
    OFFERED = "offered"
    RUNNING = "running"
    INSTALLED = "installed"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"
    LEFT = "left"


# It was offered, and is not over.
BUSY = (Stage.OFFERED, Stage.RUNNING, Stage.INSTALLED, Stage.STOPPING)
# It may still report.
OPEN = (*BUSY, Stage.LOST)


@dataclass(frozen=True)
class Counts:
    """How many devices of a phase are at which stage; those that left do not count."""

    waiting: int = 0
    busy: int = 0
    succeeded: int = 0
    failed: int = 0
    lost: int = 0

    @classmethod
    def of(cls, stages: dict[str, int]) -> Counts:
        """From the numbers of devices by their stages."""
        return cls(
            waiting=stages.get(Stage.WAITING, 0),
            busy=sum(stages.get(stage, 0) for stage in BUSY),
            succeeded=stages.get(Stage.SUCCEEDED, 0),
            failed=stages.get(Stage.FAILED, 0),
            lost=stages.get(Stage.LOST, 0),
        )

    @property
    def total(self) -> int:
        """All that count."""
        return self.waiting + self.busy + self.succeeded + self.failed + self.lost

    @property
    def bad(self) -> int:
        """Those that failed, and those that were not heard of again, which may be worse."""
        return self.failed + self.lost

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.waiting + other.waiting,
            self.busy + other.busy,
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.lost + other.lost,
        )


@dataclass(frozen=True)
class Standing:
    """How far a rollout is: its state, the last phase that is open, and when that was reached that opens the next."""

    state: State
    phase: int = 0
    reached: int | None = None
    reason: str = ""
    undo: bool = False


def sizes(plan: Plan, total: int) -> tuple[int, ...]:
    """How many of `total` devices are in each phase: all of them are in one."""
    found, left = [], total
    for phase in plan.phases:
        wanted = left
        if phase.devices is not None:
            wanted = phase.devices
        elif phase.percent is not None:
            # Rounded up: one percent of ten devices is one device, for a phase of none shows nothing.
            wanted = -int(-total * phase.percent // 100)
        found.append(min(wanted, left))
        left -= found[-1]
    found[-1] += left
    return tuple(found)


def rank(seed: str, device: str) -> bytes:
    """The place of a device among all: as if by chance, and always the same for a seed."""
    return hashlib.sha256(f"{seed}\0{device}".encode()).digest()[:16]


def spread(plan: Plan, seed: str, devices: Iterable[str]) -> dict[str, int]:
    """The phase of each device, at random, but always the same for a seed and the same devices."""
    ordered = sorted(devices, key=lambda device: rank(seed, device))
    found: dict[str, int] = {}
    begin = 0
    for number, size in enumerate(sizes(plan, len(ordered))):
        found.update(dict.fromkeys(ordered[begin : begin + size], number))
        begin += size
    return found


def advance(plan: Plan, standing: Standing, counts: Sequence[Counts], now: int) -> Standing:
    """What becomes of a rollout that runs, by the counts of its phases."""
    if standing.state is not State.RUNNING:
        return standing
    opened = sum(counts[: standing.phase + 1], Counts())
    stop = _too_many_errors(plan, opened)
    if stop:
        undo = plan.on_errors == "rollback"
        then = "it is taken back" if undo else "nothing more is offered"
        return Standing(State.STOPPED, standing.phase, None, f"{stop}; {then}", undo)
    if plan.start is not None and now < plan.start:
        return Standing(State.RUNNING, standing.phase, None, f"it starts at {_written(plan.start)}")
    if standing.phase == len(counts) - 1 and not opened.waiting + opened.busy:
        done = f"{opened.succeeded} of {opened.total} devices run it"
        return Standing(State.FINISHED, standing.phase, None, done)
    return _open_next(plan, standing, counts, now)


def _open_next(plan: Plan, standing: Standing, counts: Sequence[Counts], now: int) -> Standing:
    """The same, or in the next phase if the present one did well for long enough."""
    present, is_last = counts[standing.phase], standing.phase == len(counts) - 1
    needed = -int(-present.total * plan.success // 100)
    name = f"phase {standing.phase + 1} of {len(counts)}"
    if is_last or present.succeeded < needed:
        least = "" if is_last else f", and {needed} have to"
        why = f"{name}: {present.succeeded} of {present.total} devices run it{least}"
        return Standing(State.RUNNING, standing.phase, None, why)
    reached = standing.reached if standing.reached is not None else now
    if now < reached + plan.soak_seconds:
        why = f"{name} did well, and is watched until {_written(reached + plan.soak_seconds)}"
        return Standing(State.RUNNING, standing.phase, reached, why)
    return advance(plan, Standing(State.RUNNING, standing.phase + 1), counts, now)


def _too_many_errors(plan: Plan, opened: Counts) -> str:
    """Why there are too many; empty if there are not. Of devices that have not been offered it nothing is known."""
    if opened.bad < plan.errors_least or opened.bad * 100 <= plan.errors * opened.total:
        return ""
    lost = f", {opened.lost} of them were not heard of again" if opened.lost else ""
    return f"{opened.bad} of {opened.total} devices failed{lost}: more than {plan.errors:g} %"


@dataclass(frozen=True)
class Member:
    """A device of a rollout, as far as that matters.

    Its phase and stage, its time zone, what `other` rollout it is busy with, why the release is `unfit` for it.
    """

    phase: int
    stage: Stage
    attempts: int = 0
    zone: str = ""
    other: str = ""
    unfit: str = ""
    has_image: bool = True


@dataclass(frozen=True)
class Answer:
    """Whether a device gets the release (now, or still), and why or why not, in words."""

    offer: bool
    why: str


def answer(plan: Plan, standing: Standing, member: Member, now: int) -> Answer:
    """What a device is told that asks, and what people read of it."""
    # What a device is at it may bring to its end; only asking it to stop ends that.
    if member.stage in (Stage.OFFERED, Stage.RUNNING, Stage.LOST):
        return Answer(True, _BUSY_WORDS[member.stage])
    if member.stage is not Stage.WAITING:
        return Answer(False, _BUSY_WORDS.get(member.stage, member.stage.value))
    closed = _why_not(plan, standing, member, now)
    return Answer(not closed, closed or "it is offered when it asks next")


_BUSY_WORDS = {
    Stage.OFFERED: "it was offered, and has not begun",
    Stage.RUNNING: "it is at it",
    Stage.LOST: "it has not been heard of since it was offered",
    Stage.INSTALLED: "it says that it is done, and not yet that it runs it",
    Stage.STOPPING: "it was asked to stop, and has not answered",
    Stage.SUCCEEDED: "it runs it",
}
_STATE_WORDS = {
    State.APPROVAL: "the rollout waits for approval by a second person",
    State.PREPARING: "the rollout is being prepared",
    State.PAUSED: "the rollout is paused",
    State.STOPPED: "the rollout was stopped",
    State.FINISHED: "the rollout is over",
    State.CANCELLED: "the rollout was cancelled",
}


def _why_not(plan: Plan, standing: Standing, member: Member, now: int) -> str:
    """Why a device that waits does not get it yet; empty if it does."""
    if standing.state is not State.RUNNING:
        reason = f": {standing.reason}" if standing.state is State.STOPPED and standing.reason else ""
        return _STATE_WORDS[standing.state] + reason
    if plan.start is not None and now < plan.start:
        return f"the rollout starts at {_written(plan.start)}"
    if member.phase > standing.phase:
        return f"it is in phase {member.phase + 1}, and phase {standing.phase + 1} is not through"
    return _why_not_this(plan, member, now)


def _why_not_this(plan: Plan, member: Member, now: int) -> str:
    """Why a device that could have it does not get it yet."""
    if member.other:
        return f"it is busy with {member.other}"
    if member.unfit:
        return member.unfit
    if not member.has_image:
        return "no image leads from what it runs to the release"
    next_time = opens(plan.window, member.zone, now) if plan.window is not None else None
    if next_time is not None:
        return f"its maintenance window opens on {next_time:%Y-%m-%d at %H:%M} ({next_time.tzname()})"
    return ""


def after_failure(plan: Plan, attempts: int) -> Stage:
    """Where a device stands that has failed, having been offered it so many times."""
    return Stage.WAITING if attempts <= plan.retries else Stage.FAILED


def unproven(plan: Plan, told: str, health: str, wanted: str) -> str:
    """Why a device does not count that says it is done; empty if it does.

    `told` is the release that it says it runs and `health` how that does, each empty if it never said.
    """
    if plan.proof == "closed":
        return ""
    if told not in ("", wanted):
        return f"it runs {told}"
    return f"it runs {wanted}, and its health is: {health}" if health == SICK else ""


def misfit(types: Sequence[str], device_type: str) -> str:
    """Why a release for these types of device is not for one that says it is of that type; empty if it is."""
    if not types or not device_type or device_type in types:
        return ""
    return f"the release is for {', '.join(types)}, and this device is {device_type}"


def _written(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
