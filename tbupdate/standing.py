"""How this device stands with its server, as it is kept between runs: what it works on, and when it asks again."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import pydantic

from tbdiff.index import ListedImage, Release
from tbdiff.output import replacing
from tbdiff.source import read_plain
from tbupdate.protocol import SLEEP_MOST, ActionId

log = logging.getLogger(__name__)

PLACE = "server.json"
_MAX = 1 << 20
# Seconds until a server that did not answer is asked again: at first, and at most.
PAUSE, PAUSE_MOST = 60.0, 3600.0
SPREAD = 0.25
# So often is one action tried, when fetching or applying fails.
TRIES = 5

Moment = Annotated[float, pydantic.Field(ge=0, lt=1 << 37)]


class Heads(pydantic.BaseModel):
    """What verified heads of an action's images said, and where these are; `of` is a digest of what that hangs on."""

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, extra="ignore")

    of: str
    images: tuple[tuple[Release, ListedImage, str], ...]


class Work(pydantic.BaseModel):
    """The action that this device is at, and the tree that it leads to; `tries` that failed, and what was told last.

    While it waits, `heads` need not be fetched again with each poll.
    """

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, extra="ignore")

    action: ActionId
    tree: str = ""
    tries: Annotated[int, pydantic.Field(ge=0)] = 0
    told: str = ""
    heads: Heads | None = None


class Standing(pydantic.BaseModel):
    """All of it.

    `again` is when the server is to be asked next, in seconds since 1970, and `failures` how often in a row it did not
    answer; `described` and `runs` are digests of what was told last, `command` is the last one obeyed.
    """

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, extra="ignore")

    work: Work | None = None
    failures: Annotated[int, pydantic.Field(ge=0, lt=1 << 31)] = 0
    again: Moment = 0
    described: str = ""
    runs: str = ""
    command: ActionId = "0"

    def may_ask(self, now: float) -> bool:
        """Whether it is time: only a server that did not answer is waited for."""
        return self.failures == 0 or self.left(now) <= 0

    def left(self, now: float) -> float:
        """Seconds until the server is to be asked next; a moment further off than any is of a clock that was wrong."""
        left = self.again - now
        return left if 0 < left <= SLEEP_MOST * (1 + SPREAD) else 0

    def answered(self, now: float, sleep: float, dice: float) -> Standing:
        """The same after an answer; `dice` (0 to 1) keeps devices from asking together."""
        return self.model_copy(update={"failures": 0, "again": _later(now, _spread(sleep, dice))})

    def unanswered(self, now: float, dice: float) -> Standing:
        """The same after none."""
        pause = min(PAUSE * 2.0 ** min(self.failures, 10), PAUSE_MOST)
        return self.model_copy(update={"failures": self.failures + 1, "again": _later(now, _spread(pause, dice))})


def _spread(seconds: float, dice: float) -> float:
    return seconds * (1 - SPREAD + 2 * SPREAD * dice)


def _later(now: float, seconds: float) -> float:
    return min(max(now + seconds, 0), (1 << 37) - 1)


def read(state: str) -> Standing:
    """What was written down last; nothing where that was lost."""
    try:
        return Standing.model_validate_json(read_plain(os.path.join(state, PLACE), _MAX))
    except (OSError, pydantic.ValidationError):
        return Standing()


def write(state: str, new: Standing) -> None:
    """Write it down, if there is room: a full disk must not keep a device from an update."""
    if new == read(state):
        return
    try:
        with replacing(Path(state, PLACE)) as file:
            file.write(new.model_dump_json().encode() + b"\n")
    except OSError as error:
        log.warning("how this device stands with its server could not be written down: %s", error.strerror)
