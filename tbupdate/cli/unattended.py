"""A device that looks after itself: one step of it, and what a person says of what is offered."""

from __future__ import annotations

import math
import os
import sys
import time

import click

from tbdiff.errors import Busy, Failed, NothingToDo, Rejected, Stop
from tbdiff.show import size
from tbupdate import config, consent, fetching, notices, outlook, trusted
from tbupdate.cli.conduct import changing, glance, now, restart
from tbupdate.cli.deploying import Wishes, take_up
from tbupdate.cli.offers import Found, ask, bring, called, decision_on, is_ready
from tbupdate.cli.options import Settings, everywhere, python, settings
from tbupdate.cli.serving import reach_server
from tbupdate.cli.sites import working
from tbupdate.cli.telling import told
from tbupdate.cli.terminal import print_json, print_lines, warn
from tbupdate.config import Config
from tbupdate.consent import APPROVED, DECLINED, POSTPONED, Decision
from tbupdate.lastrun import Result
from tbupdate.layout import STATE
from tbupdate.outlook import Outlook, state_of
from tbupdate.perform import perform
from tbupdate.reach import Reach
from tbupdate.site import Site
from tbupdate.system import System
from tbupdate.unattended import Act, Next, next_action

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
        served = reach_server(site, system, rules, reach)
        try:
            found = ask(site, system, rules, reach, served, remember=True)
            _tell_found(site, found[0])
        except Stop as stop:
            # What keeps us from something new does not keep us from what is staged.
            found, fault = [], stop
        offer = found[0] if found else None
        decision = decision_on(offer, site, served) if offer is not None else None
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
        served.answer(decision, what)
    match what.act:
        case Act.FETCH:
            bring(found, said, rules, Wishes(fetch=True), reach, served)
            done.append("fetched")
            if _outlook(said, rules).act is Act.DEPLOY:
                # Somebody approved of it while it was fetched.
                take_up(said, rules)
                done.append("deployed")
            _after(said, rules)
        case Act.DEPLOY if not found:
            take_up(said, rules)
            done.append("deployed")
            _after(said, rules)
        case Act.DEPLOY:
            bring(found, said, rules, Wishes(), reach, served)
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
    what = _outlook(said, rules)
    if what.act is Act.WAIT:
        warn(what.why)
    restart(what.act is Act.REBOOT)


def _outlook(said: Settings, rules: Config) -> Next:
    with working(said, rules) as site:
        return outlook.find(site, glance(site), rules).next


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
    flags = [flag for flag, set_ in (("--json", said.json), ("--verbose", said.verbose)) if set_]
    command = said.command("upgrade", "--unattended", *flags)
    # What was loaded to read the command line is not needed to wait.
    verbose = "-v" if said.verbose else ""
    os.execv(sys.executable, [*python(), "tbupdate.agent", verbose, str(every * MINUTE), *command])  # noqa: S606


@click.command()
@click.option("--later", is_flag=True, help="Only say so, and leave it to the next unattended run.")
@everywhere
def approve(*, later: bool) -> None:
    """Agree to the release that is offered, and deploy it: now if that is allowed now, else as soon as it is."""
    said = settings()
    rules = config.load(said.config)
    offer, shown = _answered(said, rules, APPROVED)
    waits = shown.waits
    if not later and shown.next.act in (Act.FETCH, Act.DEPLOY):
        try:
            step(said, rules)
            return
        except (NothingToDo, Busy) as stop:
            waits = f"{stop}"
        except (Failed, Rejected) as stop:
            raise type(stop)(f"{offer.called} is approved, but {stop}", stop.remedy) from None
    _tell_answer(said, APPROVED, offer, waits)


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
    offer, shown = _answered(said, config.load(said.config), what, until)
    _tell_answer(said, what, offer, shown.waits)


def _answered(said: Settings, rules: Config, what: str, until: float = 0) -> tuple[Decision, Outlook]:
    with working(said, rules) as site:
        system = glance(site)
        return consent.answer(_place(site), system, what, until), outlook.find(site, system, rules)


def _tell_answer(said: Settings, what: str, offer: Decision, waits: str) -> None:
    if said.json:
        print_json({"done": what, "tree": offer.tree, "waits": waits})
        return
    said_so = " is approved" if what == APPROVED else ""
    print_lines([f"{offer.called} ({size(offer.bytes)}){said_so}: {waits}."])
