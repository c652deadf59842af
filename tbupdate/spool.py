"""Reports to the server, kept on the disk in their order until they are delivered."""

from __future__ import annotations

import logging
import os
import re
import secrets
from pathlib import Path

import pydantic

from tbdiff.errors import Rejected
from tbdiff.output import replacing
from tbdiff.source import read_plain
from tbupdate.ddi import Client
from tbupdate.protocol import ActionId, Execution, Feedback, Finished, Result, Status, details

log = logging.getLogger(__name__)

PLACE = "reports"
# So many are kept, and so long is one at most, in bytes.
KEPT_MAX, REPORT_MAX = 128, 1 << 17
_NAME = re.compile(r"([0-9]{8})(-end)?\.json")


class Report(pydantic.BaseModel):
    """A report on an action, and under which of its addresses it is told (`deploymentBase` or `cancelAction`)."""

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, extra="ignore")

    kind: str = pydantic.Field(pattern="^(deploymentBase|cancelAction)$")
    action: ActionId
    feedback: Feedback

    @property
    def ends(self) -> bool:
        """Whether the action is over with it."""
        return self.feedback.status.execution == "closed"


def report(
    action: str,
    execution: Execution,
    finished: Finished,
    lines: list[str],
    now: float,
    kind: str = "deploymentBase",
) -> Report:
    """A new report; `now` in seconds since 1970."""
    status = Status(execution=execution, details=details(lines), result=Result(finished=finished))
    name = secrets.token_hex(16)
    return Report(
        kind=kind, action=action, feedback=Feedback(id=action, timestamp=int(now * 1000), report=name, status=status)
    )


class Spool:
    """The reports of a device. What the disk has no room for is held in memory, and lost with it."""

    def __init__(self, state: str) -> None:
        self._place = Path(state, PLACE)
        self._held: list[Report] = []

    def add(self, new: Report) -> None:
        """Keep a report until it is delivered."""
        names = self._names()
        if len(names) >= KEPT_MAX:
            # How an action ended is worth more than how it was going.
            self._remove(next((name for name in names if "-end" not in name), names[0]))
        number = int(names[-1][:8]) + 1 if names else 1
        place = self._place / f"{number:08}{'-end' if new.ends else ''}.json"
        try:
            if self._held:
                raise OSError(0, "what came before it has no room either")
            self._place.mkdir(mode=0o700, exist_ok=True)
            with replacing(place) as file:
                file.write(new.model_dump_json().encode())
        except OSError as error:
            log.warning("a report could not be written down: %s", error.strerror)
            self._held.append(new)

    def deliver(self, client: Client) -> None:
        """Deliver all that is kept, in order. Failed: the rest stays until the next time."""
        for name in self._names():
            known = self._read(name)
            if known is not None:
                _tell(client, known)
            self._remove(name)
        while self._held:
            _tell(client, self._held[0])
            del self._held[0]

    def waiting(self) -> int:
        """How many reports are kept."""
        return len(self._names()) + len(self._held)

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._place) if _NAME.fullmatch(name))
        except OSError:
            return []

    def _read(self, name: str) -> Report | None:
        try:
            return Report.model_validate_json(read_plain(os.fspath(self._place / name), REPORT_MAX))
        except (OSError, pydantic.ValidationError):
            # A cut left nothing that is half; then something else did.
            log.warning("the report %s cannot be read, and is left out", name)
            return None

    def _remove(self, name: str) -> None:
        try:
            (self._place / name).unlink()
        except OSError as error:
            # It is told again, and has a name by which the server knows it.
            log.warning("the report %s cannot be removed: %s", name, error.strerror)


def _tell(client: Client, known: Report) -> None:
    try:
        if not client.tell(f"{known.kind}/{known.action}/feedback", known.feedback.to_json()):
            log.info("nobody waits any more for a report on action %s", known.action)
    except Rejected as rejected:
        log.warning("%s", rejected)
