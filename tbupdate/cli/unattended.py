"""A device that looks after itself: one step of it, and what a person says of what is offered."""

from __future__ import annotations

import math
import os
import sys
import time

import click

from tbdiff.errors import NothingToDo, Stop
from tbdiff.show import size
from tbupdate import config, consent, fetching, notices, outlook, trusted
from tbupdate.cli.conduct import changing, glance, now, restart
from tbupdate.cli.deploying import Wishes, take_up
from tbupdate.cli.offers import Found, ask, called, go, is_ready
from tbupdate.cli.options import Settings, everywhere, settings
from tbupdate.cli.sites import working
from tbupdate.cli.telling import told
from tbupdate.cli.terminal import print_json, print_lines, warn
from tbupdate.config import Config
from tbupdate.consent import APPROVED, DECLINED, POSTPONED, Decision
from tbupdate.lastrun import Result
from tbupdate.layout import STATE
from tbupdate.outlook import state_of
from tbupdate.perform import perform
from tbupdate.reach import Reach
from tbupdate.site import Site
from tbupdate.system import System
from tbupdate.unattended import Act, next_action

MINUTE, HOUR = 60, 3600
# A week.
EVERY_MAX = 7 * 24 * 60


def step(said: Settings, rules: Config) -> None:
    """What this device does now by itself; NothingToDo says what it waits for."""
    with told(said, rules) as done, Reach(rules.fetch) as reach:
        _step(said, rules, reach, done)


def _step(said: Settings, rules: Config, reach: Reach, done: list[Result]) -> None:
    fault: Stop | None = None
    with working(said, rules) as site:
        system = glance(site)
        try:
            found = ask(site, system, rules, reach, remember=True)
            _tell_found(site, found[0])
        except Stop as stop:
            # What keeps us from something new does not keep us from what is staged.
            found, fault = [], stop
        offer = found[0] if found else None
        decision = _decision(site, offer)
        if offer is not None or isinstance(fault, NothingToDo):
            consent.write(_place(site), decision)
            if system.ready is not None and (
                offer is None or not is_ready(system, offer) or (decision is not None and decision.said == DECLINED)
            ):
                system = _drop(site)
        elif system.ready is not None:
            # What was fetched can be taken up without a source.
            decision = _kept(site, system, rules)
        what = next_action(state_of(system, rules, decision), decision.tree if decision else None)
    match what.act:
        case Act.FETCH:
            go(found, said, rules, Wishes(fetch=True), reach)
            done.append("fetched")
            _after(said, rules)
        case Act.DEPLOY if not found:
            take_up(said, rules)
            done.append("deployed")
            _after(said, rules)
        case Act.DEPLOY:
            go(found, said, rules, Wishes(), reach)
            done.append("deployed")
            _after(said, rules)
        case Act.REBOOT:
            done.append("rebooting")
            restart(True)
        case _ if offer is not None:
            raise NothingToDo(f"{called(offer.update.release)} is there, but {what.why}")
        case Act.WAIT:
            raise NothingToDo(what.why)
        case _ if fault is not None:
            raise fault


def _after(said: Settings, rules: Config) -> None:
    """What was fetched may wait for something, and what was deployed for a reboot."""
    with working(said, rules) as site:
        what = outlook.find(site, glance(site), rules).next
    if what.act is Act.WAIT:
        warn(what.why)
    restart(what.act is Act.REBOOT)


def _decision(site: Site, offer: Found | None) -> Decision | None:
    """What a person said of what is offered; another release is another question."""
    if offer is None:
        return None
    known = consent.read(_place(site))
    if known is None or known.tree != offer.update.release.tree:
        known = Decision(tree=offer.update.release.tree)
    return known.model_copy(update={"called": called(offer.update.release), "bytes": offer.update.routes[0].size})


def _tell_found(site: Site, found: Found) -> None:
    """Each release is news once."""
    before = consent.read(_place(site))
    if before is None or before.tree != found.update.release.tree:
        name = called(found.update.release)
        notices.tell("found", f"{name} is offered", release=found.update.release.release)


def _kept(site: Site, system: System, rules: Config) -> Decision | None:
    """What a person said of what was fetched before, if the same keys are trusted as then."""
    known = consent.offered(_place(site), system)
    record = system.ready.record if system.ready is not None else None
    trusted_then = system.ready_by == trusted.load(_place(site), rules).ring.fingerprint
    return known if known and record and record.tree == known.tree and trusted_then else None


def _drop(site: Site) -> System:
    """What was fetched and is offered no longer makes room."""
    with changing(site) as system:
        plan = fetching.plan_drop(system, now())
        if plan is not None:
            for warning in perform(plan, site, now()):
                warn(warning)
        return site.survey()


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
    _answer(APPROVED)


@click.command()
@everywhere
def decline() -> None:
    """Do not take the release that is offered; the next one is offered again."""
    _answer(DECLINED)


@click.command()
@click.option("--hours", type=click.IntRange(1, consent.HOURS_MAX), default=24, help="For so long; default: 24.")
@everywhere
def postpone(hours: int) -> None:
    """Leave the release that is offered for later."""
    _answer(POSTPONED, time.time() + hours * HOUR)


def _answer(what: str, until: float = 0) -> None:
    said = settings()
    rules = config.load(said.config)
    with working(said, rules) as site:
        system = glance(site)
        offer = consent.answer(_place(site), system, what, until)
        waits = outlook.find(site, system, rules).waits
    if said.json:
        print_json({"done": what, "tree": offer.tree, "waits": waits})
        return
    print_lines([f"{offer.called} ({size(offer.bytes)}) is {what}: {waits}."])
