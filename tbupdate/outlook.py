"""What a device does next and what it waits for, as it stands now: the same for whoever asks."""

from __future__ import annotations

import os
import zoneinfo
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tbupdate import consent, surroundings
from tbupdate.config import Config
from tbupdate.consent import Decision
from tbupdate.layout import STATE
from tbupdate.site import Site
from tbupdate.status import reboot_needed
from tbupdate.system import System
from tbupdate.unattended import Act, Next, State, next_action


@dataclass(frozen=True)
class Outlook:
    """The release that was offered last and is still to be decided, if there is one, and what happens next."""

    offered: Decision | None
    next: Next

    @property
    def waits(self) -> str:
        """What the device waits for, in words; empty if for nothing."""
        return self.next.why if self.next.act is not Act.NOTHING or self.offered is not None else ""

    def fields(self) -> dict[str, Any]:
        """The same for programs."""
        reason = self.next.reason.value if self.next.reason is not None else None
        offered = self.offered.model_dump(mode="json") | {"waits": self.waits} if self.offered else None
        return {"offered": offered, "next": {"act": self.next.act.value, "reason": reason, "words": self.waits}}


def find(site: Site, system: System, rules: Config) -> Outlook:
    """How it stands, by what the sources said last."""
    return look_ahead(system, rules, consent.offered(os.path.join(site.top, STATE), system))


def look_ahead(system: System, rules: Config, offered: Decision | None) -> Outlook:
    """How it stands, by what is offered."""
    return Outlook(offered, next_action(state_of(system, rules, offered), offered.tree if offered else None))


def state_of(system: System, rules: Config, decision: Decision | None) -> State:
    """What the decision hangs on; `decision` is what a person said of the release that is offered."""
    wanted = rules.upgrade
    runs = system.booted_id is not None
    zone = zoneinfo.ZoneInfo(wanted.zone) if wanted.zone else None
    ready = system.ready.record if system.ready is not None else None
    tree = ready.tree if ready is not None else None
    # What is gone back to need not be fetched; what runs only after a reboot may also be that.
    staged = system.staged or (system.default if reboot_needed(system) else None)
    return State(
        now=datetime.now().astimezone(zone),
        policy="ask" if decision is not None and decision.ask else wanted.policy,
        reboot=wanted.reboot and runs,
        mains_only=wanted.mains_only,
        idle_only=wanted.idle_only and runs,
        windows=rules.window,
        decision=decision,
        ready=decision.tree if decision is not None and decision.kept else tree,
        trial=system.trial.id if system.trial is not None else None,
        staged=staged.id if staged is not None else None,
        inhibitors=surroundings.inhibitors() if runs else (),
        on_mains=surroundings.on_mains(),
        in_use=wanted.idle_only and runs and surroundings.in_use(),
        held=decision.held if decision is not None else "",
    )
