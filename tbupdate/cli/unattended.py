"""A device that looks after itself: one step of it, and what a person says of what is offered."""

from __future__ import annotations

import math
import os
import sys
import time
import zoneinfo
from datetime import datetime

import click

from tbdiff.errors import NothingToDo, Stop
from tbdiff.show import size
from tbupdate import consent, surroundings
from tbupdate.choosing import Update
from tbupdate.cli.conduct import glance, restart
from tbupdate.cli.deploying import Wishes
from tbupdate.cli.offers import ask, called, go
from tbupdate.cli.options import Settings, everywhere, settings
from tbupdate.cli.sites import working
from tbupdate.cli.terminal import print_json, print_lines, warn
from tbupdate.config import Config
from tbupdate.consent import APPROVED, DECLINED, POSTPONED, Decision
from tbupdate.layout import STATE
from tbupdate.reach import Reach
from tbupdate.site import Site
from tbupdate.system import System
from tbupdate.unattended import Act, Next, State, next_action

MINUTE, HOUR = 60, 3600
# A week.
EVERY_MAX = 7 * 24 * 60


def step(said: Settings, rules: Config) -> None:
    """What this device does now by itself; NothingToDo says what it waits for."""
    with Reach(rules.fetch) as reach:
        _step(said, rules, reach)


def _step(said: Settings, rules: Config, reach: Reach) -> None:
    fault: Stop | None = None
    with working(said, rules) as site:
        system = glance(site)
        try:
            found = ask(site, system, rules, reach, remember=True)
        except Stop as stop:
            # What keeps us from something new does not keep us from what is staged.
            found, fault = [], stop
        offered = found[0].update if found else None
        state = _state(site, system, rules, offered)
        what = next_action(state, offered)
        if offered is not None or isinstance(fault, NothingToDo):
            consent.write(_place(site), _note(offered, state.decision, what))
    match what.act:
        case Act.DEPLOY:
            go(found, said, rules, Wishes(), reach)
            _after_deploy(said, rules)
        case Act.REBOOT:
            restart(True)
        case _ if offered is not None:
            raise NothingToDo(f"{called(offered.release)} is there, but {what.why}")
        case Act.WAIT:
            raise NothingToDo(what.why)
        case _ if fault is not None:
            raise fault


def _after_deploy(said: Settings, rules: Config) -> None:
    with working(said, rules) as site:
        consent.write(_place(site), None)
        what = next_action(_state(site, glance(site), rules, None), None)
    if what.act is Act.WAIT:
        warn(what.why)
    restart(what.act is Act.REBOOT)


def _state(site: Site, system: System, rules: Config, offered: Update | None) -> State:
    """How the device stands, for the decision."""
    wanted = rules.upgrade
    decision = consent.read(_place(site))
    if decision is not None and (offered is None or decision.tree != offered.release.tree):
        decision = None
    runs = system.booted_id is not None
    zone = zoneinfo.ZoneInfo(wanted.zone) if wanted.zone else None
    return State(
        now=datetime.now().astimezone(zone),
        ask=wanted.policy == "ask",
        reboot=wanted.reboot and runs,
        mains_only=wanted.mains_only,
        windows=rules.window,
        decision=decision,
        trial=system.trial.id if system.trial is not None else None,
        staged=system.staged.id if system.staged is not None else None,
        inhibitors=surroundings.inhibitors() if runs else (),
        on_mains=surroundings.on_mains(),
    )


def _note(offered: Update | None, decision: Decision | None, what: Next) -> Decision | None:
    """What is written down of the offer: for `status`, and for what a person says next."""
    if offered is None or what.act is Act.DEPLOY:
        return decision
    known = decision or Decision(tree=offered.release.tree)
    fresh = {"called": called(offered.release), "bytes": offered.routes[0].size, "waits": what.why}
    return known.model_copy(update=fresh)


def _place(site: Site) -> str:
    return os.path.join(site.top, STATE)


@click.command()
@click.option(
    "--every", metavar="MINUTES", type=click.FloatRange(0.01, EVERY_MAX), default=60, help="How often; default: 60."
)
@everywhere
def agent(every: float) -> None:
    """Do `upgrade --unattended` again and again, in the foreground, until it is stopped."""
    if math.isnan(every):
        raise click.BadParameter("it is no number", param_hint="--every")
    said = settings()
    options = {"--top": said.top, "--boot": said.boot, "--config": said.config}
    given = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    flags = [flag for flag, set_ in (("--json", said.json), ("--verbose", said.verbose)) if set_]
    python = [sys.executable, *(["-I"] if sys.flags.isolated else []), "-m"]
    command = [*python, "tbupdate", "upgrade", "--unattended", *given, *flags]
    # What was loaded to read the command line is not needed to wait.
    verbose = "-v" if said.verbose else ""
    os.execv(sys.executable, [*python, "tbupdate.agent", verbose, str(every * MINUTE), *command])  # noqa: S606


@click.command()
@everywhere
def approve() -> None:
    """Agree to the release that is offered: it is deployed as soon as that is allowed."""
    _answer(APPROVED, "approved: it comes as soon as that is allowed")


@click.command()
@everywhere
def decline() -> None:
    """Do not take the release that is offered; the next one is offered again."""
    _answer(DECLINED, "it was declined")


@click.command()
@click.option("--hours", type=click.IntRange(1, consent.HOURS_MAX), default=24, help="For so long; default: 24.")
@everywhere
def postpone(hours: int) -> None:
    """Leave the release that is offered for later."""
    _answer(POSTPONED, f"postponed by {hours} hours", time.time() + hours * HOUR)


def _answer(what: str, waits: str, until: float = 0) -> None:
    said = settings()
    with working(said) as site:
        offer = consent.offered(_place(site), glance(site))
        if offer is None:
            raise NothingToDo("nothing is offered to be decided", "To ask: tb-update upgrade --unattended")
        consent.write(_place(site), offer.model_copy(update={"said": what, "until": until, "waits": waits}))
    if said.json:
        print_json({"done": what, "tree": offer.tree})
        return
    print_lines([f"{offer.called} ({size(offer.bytes)}) is {what}."])
