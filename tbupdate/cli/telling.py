"""How the device stands, told to those who do not ask: the message of the day, metrics, the journal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tbdiff.console import safe
from tbdiff.errors import NothingToDo, Rejected, Stop
from tbdiff.output import replacing
from tbdiff.show import size
from tbupdate import lastrun, metrics, notices, outlook, trusted
from tbupdate.cli.conduct import glance
from tbupdate.cli.options import Settings
from tbupdate.cli.sites import readable, working
from tbupdate.cli.terminal import warn
from tbupdate.config import Config
from tbupdate.lastrun import LastRun, Result
from tbupdate.layout import STATE
from tbupdate.outlook import Outlook
from tbupdate.system import System
from tbupdate.unattended import Act

MOTD = Path("/run/motd.d/tb-update")
# After these it may stand differently. `upgrade --unattended` tells by itself, also where it ends with nothing to do.
AFTER = frozenset(
    {
        *("approve", "postpone", "decline", "deploy", "upgrade", "run", "snapshot", "commit", "rollback", "reset"),
        *("prune", "remove", "init", "trust", "health"),
    }
)


@contextmanager
def told(said: Settings, rules: Config) -> Iterator[list[Result]]:
    """Tell how an unattended run ended; the last of the list is what it has done."""
    done: list[Result] = ["nothing"]
    try:
        yield done
    except NothingToDo:
        refresh(said, rules, "nothing")
        raise
    except Stop as stop:
        refresh(said, rules, "rejected" if isinstance(stop, Rejected) else "failed")
        raise
    refresh(said, rules, done[-1])


def refresh(said: Settings, rules: Config | None = None, result: Result | None = None) -> None:
    """Tell how it stands now; what cannot be told has not made anything fail."""
    rules = rules or readable(said)
    if said.top is not None and not rules.metrics.textfile and result is None:
        return
    try:
        with working(said, rules) as site:
            system, state = glance(site), os.path.join(site.top, STATE)
            if not system.initialised:
                return
            shown = outlook.find(site, system, rules)
            if result is not None:
                _remember(state, shown, result)
            if rules.metrics.textfile:
                text = metrics.render(system, shown, lastrun.read(state), _known(state, rules))
                metrics.write(Path(rules.metrics.textfile), text)
            if system.booted_id is not None:
                put_motd(MOTD, motd(system, shown))
    except OSError as error:
        warn(f"how the device stands could not be told: {error}")
    except Stop as stop:
        warn(f"how the device stands could not be told: {stop}")


def _remember(state: str, shown: Outlook, result: Result) -> None:
    reason = shown.next.reason.value if shown.next.reason is not None else None
    before = lastrun.read(state)
    if result == "nothing" and shown.next.act is Act.WAIT:
        result = "waiting"
    if reason is not None and (before is None or before.reason != reason):
        notices.tell("waiting", shown.waits, reason=reason)
    lastrun.write(state, LastRun(time=max(0.0, time.time()), result=result, reason=reason))


def _known(state: str, rules: Config) -> trusted.Trusted | None:
    try:
        return trusted.load(state, rules)
    except Stop:
        return None


def motd(system: System, shown: Outlook) -> str:
    """What a person should know who logs in; empty if nothing."""
    lines = []
    if shown.offered is not None:
        lines.append(f"An update is there: {shown.offered.called} ({size(shown.offered.bytes)}); {shown.waits}")
    elif shown.waits:
        lines.append(f"tb-update: {shown.waits}")
    elif system.staged is not None:
        lines.append(f"tb-update: {system.staged.id} runs after the next reboot")
    return "".join(f"{safe(line)}\n" for line in lines)


def put_motd(place: Path, text: str) -> None:
    """Write it, or take it away where there is nothing to say."""
    if not text:
        place.unlink(missing_ok=True)
        return
    place.parent.mkdir(mode=0o755, exist_ok=True)
    with replacing(place) as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text.encode())
