"""How every changing command goes about it: the lock, the repair of what was interrupted, the plan, the result."""

from __future__ import annotations

import calendar
import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

import click

from tbdiff.errors import Failed, NothingToDo, Rejected, Stop
from tbupdate import booting, history, journal, lock, notices, planning, pstore, space, subvolumes, upkeep
from tbupdate.cli.options import Settings
from tbupdate.cli.terminal import print_done, print_lines, print_now, warn
from tbupdate.config import Config
from tbupdate.history import Event
from tbupdate.journal import NO_LOG, Tail
from tbupdate.layout import HISTORY
from tbupdate.perform import perform
from tbupdate.site import Site
from tbupdate.status import interrupted
from tbupdate.steps import Plan
from tbupdate.syscalls import sync
from tbupdate.system import System

ROOM_COMES_BACK = 60
ISO = "%Y-%m-%dT%H:%M:%SZ"


@contextlib.contextmanager
def looking(site: Site) -> Iterator[System]:
    """The system, for those who only look."""
    yield site.survey()


def glance(site: Site) -> System:
    """The system, and whether what is unfinished in it is being worked on."""
    system = site.survey()
    if not interrupted(system):
        return system
    busy = lock.is_held(site.top)
    # The run may have ended between the two looks.
    return replace(system if busy else site.survey(), busy=busy)


@contextlib.contextmanager
def changing(site: Site, *, wait: bool = False) -> Iterator[System]:
    """Under the lock: the system, after what an interrupted run left was repaired."""
    with lock.hold(site.top, wait=wait):
        planning.require_layout(site.survey())
        yield repaired(site)


def repaired(site: Site) -> System:
    """The system, with what an interrupted run left put right, as far as that can be done."""
    system = site.survey()
    plan = upkeep.plan_repair(system, now(), _log_of_the_fallen(site, system))
    if not plan.every_step:
        return system
    try:
        for warning in perform(plan, site, now()):
            warn(warning)
    except (Failed, Rejected) as failure:
        # A full disk must not stand between a person and a rollback; all else says itself what it lacks.
        warn(f"what an interrupted run left could not be repaired: {failure}")
    return site.survey()


def _log_of_the_fallen(site: Site, system: System) -> Tail:
    """How the last boot ended of what boot loader or hook went back from by themselves."""
    failed = booting.fallen(system)
    if failed is None:
        return NO_LOG
    # The root that was made last is the one that ran last.
    root = max(failed.roots, key=lambda one: one.id, default=None)
    tail = journal.of_deployment(failed.id, site.path(root.name) if root is not None else None)
    if system.booted_id is None or failed.record is None:
        # What this machine has kept is not of the other one's kernels.
        return tail
    try:
        since = calendar.timegm(time.strptime(failed.record.created, ISO))
    except ValueError:
        return tail
    return journal.of_panic(pstore.last_words(since), tail)


def carry_out(what: str, plan: Plan, site: Site, said: Settings, rules: Config | None = None) -> None:
    """Perform a plan, and say how it ended; with `rules`, retention follows."""
    remark(plan)
    warnings = perform(plan, site, now())
    if rules is not None:
        warnings += retain(site, rules)
    if not said.json:
        print_lines(plan.done)
    print_done(what, plan.deployment, site.survey(), warnings, as_json=said.json)


def remark(plan: Plan) -> None:
    """What a plan notes for the person who asked."""
    for note in plan.notes:
        warn(note)


def retain(site: Site, rules: Config) -> tuple[str, ...]:
    """Retention after a change that is done: what fails here has not made that fail."""
    warnings: tuple[str, ...] = ()
    try:
        while True:
            plan = upkeep.plan_prune(site.survey(), rules.keep, now(), rules.space.min_free)
            warnings += perform(plan, site, now())
            _await_room(site, rules.space.min_free)
    except NothingToDo:
        return warnings
    except Stop as stop:
        return (*warnings, f"what was asked for is done, but old deployments could not be removed: {stop}")


def _await_room(site: Site, wanted: int) -> None:
    """Btrfs gives the room of what was deleted back after a while; how much it is must be known to go on."""
    limit = time.monotonic() + ROOM_COMES_BACK
    cleaning = wanted > 0
    while cleaning:
        # What the cleaner let go of is free when that, too, is on the disk.
        cleaning = subvolumes.is_cleaning(site.top) and time.monotonic() < limit
        sync(site.top)
        if space.measure(site.top).data >= wanted:
            return
        time.sleep(0.2)


def ask(question: str, said: Settings) -> None:
    """Reject unless a person, or --yes, says yes."""
    if said.yes:
        return
    if not os.isatty(0) or said.json:
        raise Rejected("this needs a yes, and there is nobody to ask; nothing was changed", "Say --yes.")
    if not click.confirm(question):
        raise Rejected("not wanted; nothing was changed")


def refuse_reboot_elsewhere(system: System, reboot: bool) -> None:
    """Only what runs can be started anew."""
    if reboot and system.booted_id is None:
        raise Rejected(
            "--reboot is for the running system, and this is another one; nothing was changed", "Leave it out."
        )


def restart(wanted: bool) -> None:
    """Start the machine anew."""
    if not wanted:
        return
    program = ["systemctl", "reboot"] if os.path.isdir("/run/systemd/system") else ["reboot"]
    if subprocess.run(program, check=False).returncode != 0:
        raise Failed(f"`{' '.join(program)}` failed; what was asked for is staged", "Reboot by hand.")
    print_now()


def tell_trust(state: str, what: str, moment: str) -> None:
    """Keep in the history that the device trusts others now, where there is room for it."""
    event = Event(moment, "trust", None, more={"reason": what})
    notices.tell_event(event)
    try:
        history.append(os.path.join(state, HISTORY), event)
    except OSError as error:
        warn(f"the history could not be written: {error.strerror}")


def now() -> str:
    """The time, as it is written down."""
    return time.strftime(ISO, time.gmtime())
