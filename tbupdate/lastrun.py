"""How the last unattended run ended, and when."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, get_args

import pydantic

from tbdiff.output import replacing
from tbdiff.source import read_plain

PLACE = "lastrun.json"
_MAX = 1 << 12

Result = Literal["nothing", "waiting", "fetched", "deployed", "rebooting", "rejected", "failed"]
RESULTS: tuple[Result, ...] = get_args(Result)


class LastRun(pydantic.BaseModel):
    """`time` is in seconds since 1970, by the device's clock; `reason` is what it waited for, in one word."""

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, extra="ignore")

    time: Annotated[float, pydantic.Field(ge=0, lt=1 << 37)]
    result: Result
    reason: str | None = None


def read(state: str) -> LastRun | None:
    """What was written down last; None if nothing was, or it is lost."""
    try:
        return LastRun.model_validate_json(read_plain(os.path.join(state, PLACE), _MAX))
    except (OSError, pydantic.ValidationError):
        return None


def write(state: str, last: LastRun) -> None:
    """Write it down; OSError where that cannot be."""
    with replacing(Path(state, PLACE)) as file:
        file.write(last.model_dump_json().encode() + b"\n")
