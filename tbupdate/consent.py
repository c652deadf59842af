"""What a person said of the release that is offered, as it is kept until another one is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pydantic

from tbdiff.errors import Failed
from tbdiff.output import appearing

PLACE = "consent.json"
APPROVED = "approved"
DECLINED = "declined"
POSTPONED = "postponed"
_MAX = 1 << 16


class Decision(pydantic.BaseModel):
    """The release that was offered last, and what was said of it; `until` is when a postponed one is taken up again.

    `called` and `bytes` are for people; `until` is in seconds since the epoch; `waits` is what it waits for, in words.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    tree: str
    called: str = ""
    bytes: int = 0
    said: Literal["", "approved", "declined", "postponed"] = ""
    until: float = 0
    waits: str = ""


def read(state: str) -> Decision | None:
    """What was written down last; None if nothing was, or it is lost."""
    try:
        with open(os.path.join(state, PLACE), "rb") as file:
            return Decision.model_validate_json(file.read(_MAX))
    except (OSError, pydantic.ValidationError):
        return None


def write(state: str, decision: Decision | None) -> None:
    """Write it down, or forget what there was."""
    place = Path(state, PLACE)
    try:
        if decision is None:
            place.unlink(missing_ok=True)
            return
        with appearing(place) as file:
            file.write(decision.model_dump_json().encode() + b"\n")
    except OSError as error:
        raise Failed(f"{place} cannot be written: {error.strerror}; it was left as it was") from None
