"""What a person said of the release that is offered, as it is kept until another one is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal

import pydantic

from tbdiff.errors import Failed, NothingToDo, Rejected
from tbdiff.manifest import Count
from tbdiff.output import replacing
from tbdiff.source import read_plain
from tbupdate.system import System

PLACE = "consent.json"
APPROVED: Final = "approved"
DECLINED: Final = "declined"
POSTPONED: Final = "postponed"
_MAX = 1 << 16
HOURS_MAX = 24 * 90


class Decision(pydantic.BaseModel):
    """The release that was offered last, and what was said of it; `until` is when a postponed one is taken up again.

    `called` and `bytes` are for people; `until` is in seconds since the epoch. The server that orders it may want a
    person to be asked (`ask`), or it to be held back for a reason (`held`); and it may be one to go back to (`kept`).
    """

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, extra="ignore")

    tree: str
    called: str = ""
    bytes: Count = 0
    said: Literal["", "approved", "declined", "postponed"] = ""
    until: Annotated[float, pydantic.Field(ge=0, lt=1 << 37)] = 0
    ask: bool = False
    held: str = ""
    kept: bool = False


def read(state: str) -> Decision | None:
    """What was written down last; None if nothing was, or it is lost."""
    try:
        return Decision.model_validate_json(read_plain(os.path.join(state, PLACE), _MAX))
    except (OSError, pydantic.ValidationError):
        return None


def offered(state: str, system: System) -> Decision | None:
    """The same, as long as it is still to be decided: what was deployed since is not."""
    decision = read(state)
    here = {one.record.tree for one in system.deployments if one.record is not None and one != system.ready}
    if decision is not None and decision.kept:
        here = {system.default.record.tree} if system.default is not None and system.default.record else set()
    return decision if decision is not None and decision.tree not in here else None


def answer(state: str, system: System, said: str, until: float = 0, tree: str | None = None) -> Decision:
    """Write down what a person says of the release that is offered; with `tree`, only if it is still that one."""
    offer = offered(state, system)
    if offer is None:
        raise NothingToDo("nothing is offered to be decided", "To ask: tb-update upgrade --unattended")
    if tree is not None and tree != offer.tree:
        raise Rejected(f"another release is offered by now, {offer.called}; nothing was decided", "Look again.")
    decided = Decision.model_validate(offer.model_dump() | {"said": said, "until": until})
    write(state, decided)
    return decided


def write(state: str, decision: Decision | None) -> None:
    """Write it down, or forget what there was. What is there already needs no room on a full disk."""
    place = Path(state, PLACE)
    if decision == read(state):
        return
    try:
        if decision is None:
            place.unlink(missing_ok=True)
            return
        with replacing(place) as file:
            file.write(decision.model_dump_json().encode() + b"\n")
    except OSError as error:
        raise Failed(
            f"{place} cannot be written: {error.strerror}; it was left as it was", "See: tb-update doctor"
        ) from None
