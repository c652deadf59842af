"""The commands that change something: each looks, decides and does, under the lock."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import replace

import click

from tbdiff import progress
from tbdiff.console import safe
from tbdiff.errors import Rejected
from tbupdate import (
    bootadvice,
    config,
    conversion,
    fstab,
    history,
    installed,
    journal,
    layout,
    lock,
    moving,
    places,
    planning,
    resetting,
    space,
    upkeep,
    userdata,
)
from tbupdate.cli.conduct import (
    ask,
    carry_out,
    changing,
    looking,
    now,
    refuse_reboot_elsewhere,
    repaired,
    restart,
    retain,
)
from tbupdate.cli.options import Settings, everywhere, settings
from tbupdate.cli.sites import readable, sound, working
from tbupdate.cli.terminal import print_done, print_json, print_lines, print_plan
from tbupdate.conversion import Source
from tbupdate.perform import perform
from tbupdate.record import Record
from tbupdate.site import Site
from tbupdate.syscalls import sync
from tbupdate.system import Deployment, System
from tbupdate.userdata import Data


@click.command()
@click.argument("deployment", metavar="[ID]", required=False)
@click.option("--reboot", is_flag=True, help="Reboot into it at once.")
@click.option("--bad", is_flag=True, help="What is left is bad, even if it was committed: do not install it again.")
@click.option("--reason", default="rolled back", help="Why, for the history and the list.")
@click.option("--unattended", is_flag=True, help="A program asks: as with --bad, but never from what was gone back to.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@everywhere
def rollback(deployment: str | None, *, reboot: bool, bad: bool, reason: str, unattended: bool, dry_run: bool) -> None:
    """Go back to the previous deployment, or to the kept deployment ID."""
    if unattended and deployment is not None:
        raise click.UsageError("--unattended goes to where a rollback leads: it takes no ID")
    said = settings()
    with working(said) as site, looking(site) if dry_run else changing(site) as system:
        refuse_reboot_elsewhere(system, reboot)
        # What runs is left, most likely for what it has logged.
        leaving = system.booted is not None and system.booted == system.default and not dry_run
        log = journal.of_this_boot() if leaving else journal.NO_LOG
        if unattended:
            plan = planning.plan_leave(system, now(), safe(reason), log)
        else:
            plan = planning.plan_rollback(system, deployment, now(), safe(reason), log, bad=bad)
        if dry_run:
            print_plan(plan, as_json=said.json)
            return
        carry_out("rollback", plan, site, said)
    restart(reboot)


@click.command()
@click.argument("deployment", metavar="[ID]", required=False)
@click.option(
    "--user-data",
    metavar="PATH|all",
    multiple=True,
    help="Delete the data in a subvolume that /etc/fstab mounts, such as /home; all: in all of them. Can be repeated.",
)
@click.option("--reboot", is_flag=True, help="Reboot into it at once.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@everywhere
def reset(deployment: str | None, *, user_data: tuple[str, ...], reboot: bool, dry_run: bool) -> None:
    """Go back to the first deployment that is kept, or to ID, as it was deployed: without any local changes."""
    said = settings()
    # What brings a spoilt /etc back must not be stopped by it; but without rules, no old deployment is removed.
    rules = sound(said)
    with working(said, rules or config.Config()) as site, looking(site) if dry_run else changing(site) as system:
        refuse_reboot_elsewhere(system, reboot)
        there = resetting.find_target(system, deployment)
        data, keep_mounts = _data_to_empty(site, system, there, user_data)
        plan = resetting.plan_reset(system, there, now(), data, keep_mounts)
        if dry_run:
            print_plan(plan, as_json=said.json)
            return
        gone = "".join(f" ALL DATA in {one.point} (the subvolume {one.subvolume}) is deleted." for one in data)
        lost = f"{there.id} boots next, as it was deployed; all that was changed in its root since is lost."
        ask(f"{lost}{gone} Do it?", said)
        carry_out("reset", plan, site, said, rules)
    restart(reboot)


def _data_to_empty(
    site: Site, system: System, there: Deployment, wanted: tuple[str, ...]
) -> tuple[tuple[Data, ...], str | None]:
    """The user data that a person names, and the root whose /etc/fstab must stay for what boots next."""
    root = system.by_number(system.booted_id) or system.default_root
    if root is None:
        return userdata.find_data(wanted, {}, system), None
    known = space.identify(site.top)
    table, tree = fstab.read(site.path(root.name)), site.path(there.id)
    mounted = userdata.mounted(table, system, space.dashed(known.fsid) if known is not None else "")
    data = tuple(
        replace(one, shipped=places.is_directory(tree, one.point.strip("/")))
        for one in userdata.find_data(wanted, mounted, system)
    )
    lost = fstab.points(table) - fstab.points(fstab.read(tree))
    return data, root.name if lost else None


@click.command()
@everywhere
def commit() -> None:
    """Keep the deployment that runs on trial."""
    said = settings()
    rules = config.load(said.config)
    with working(said) as site, changing(site) as system:
        plan = planning.plan_commit(system, now())
        warnings = perform(plan, site, now())
        warnings += retain(site, rules)
        print_done("commit", plan.deployment, site.survey(), warnings, as_json=said.json)


@click.command()
@click.option("--keep", type=click.IntRange(min=1), help="How many deployments to keep; default: as configured, or 5.")
@click.option("--dry-run", is_flag=True, help="Say what would go and why the others stay, and do nothing.")
@everywhere
def prune(keep: int | None, *, dry_run: bool) -> None:
    """Remove the deployments that are beyond the newest few."""
    said = settings()
    rules = config.load(said.config)
    rules = rules.model_copy(update={"keep": keep or rules.keep})
    with working(said) as site, looking(site) if dry_run else changing(site) as system:
        planning.require_layout(system)
        if dry_run:
            verdicts = upkeep.judge(system, rules.keep, rules.space.min_free)
            if said.json:
                shown = [{"id": v.deployment, "kept": v.kept, "why": v.why} for v in verdicts]
                free = {"free": system.space.data, "min_free": rules.space.min_free}
                print_json({"keep": rules.keep, "deployments": shown} | free)
            else:
                print_lines(f"{'stays' if v.kept else 'goes ':6} {v.deployment}: it {v.why}" for v in verdicts)
            return
        plan = upkeep.plan_prune(system, rules.keep, now(), rules.space.min_free)
        carry_out("prune", plan, site, said, rules)


@click.command()
@click.argument("deployment", metavar="ID")
@everywhere
def remove(deployment: str) -> None:
    """Remove the deployment ID."""
    said = settings()
    with working(said) as site, changing(site) as system:
        carry_out("remove", upkeep.plan_remove(system, deployment, now()), site, said)


@click.command()
@click.argument("deployment", metavar="ID")
@click.option("--off", is_flag=True, help="No longer.")
@everywhere
def pin(deployment: str, *, off: bool) -> None:
    """Protect the deployment ID from `prune` and `remove`."""
    said = settings()
    with working(said) as site, changing(site) as system:
        carry_out("unpin" if off else "pin", upkeep.plan_pin(system, deployment, not off, now()), site, said)


@click.command()
@click.option(
    "--root", metavar="SUBVOLUME", help="The installed root, where it is not the running one (5: the top level)."
)
@click.option(
    "--move",
    "moved",
    metavar="PATH[=NAME]|all",
    multiple=True,
    help="Data that gets a subvolume of its own beside the root, such as /home; all: what is usual. Can be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--undo", is_flag=True, help="Take it all back; until the first deploy.")
@everywhere
def init(root: str | None, *, moved: tuple[str, ...], dry_run: bool, undo: bool) -> None:
    """Make the layout out of an installed root; it stays as it is, and a copy of it boots next."""
    said = settings()
    if undo:
        _undo_init(said, dry_run)
        return
    with working(said) as site, contextlib.nullcontext() if dry_run else lock.hold(site.top, before_init=True):
        system = site.survey() if dry_run else repaired(site)
        source = conversion.find_source(system, root, installed.systems(site.top, system))
        name = installed.name_of(os.path.join(site.top, source.path))
        record = Record(id=layout.make_id(name, secrets.token_hex(3)), name=name, created=now())
        tree = os.path.join(site.top, source.path)
        if system.initialised and moved:
            raise Rejected(
                "the layout is there already, and --move is for making it; nothing was changed",
                "Make the subvolume beside snapshots/ yourself, and mount it from /etc/fstab.",
            )
        moves = moving.find_moves(tree, moved, os.listdir(site.top))
        said_of = moving.propose(tree, moves)
        if not installed.holds_system(tree):
            said_of = (*said_of, "There is no system in it yet: deploy a full image next.")
        elif not system.initialised:
            said_of = (*said_of, *_warnings(site, said, system, source))
        plan = conversion.plan_init(system, source, record, now(), moves, said_of)
        if dry_run or not said.json:
            print_plan(plan, as_json=said.json)
        if dry_run:
            return
        ask("Do it?", said)
        with progress.shown(said.progress) as report:
            warnings = perform(plan, replace(site, progress=report), now())
        print_done("init", plan.deployment, site.survey(), warnings, as_json=said.json)


def _undo_init(said: Settings, dry_run: bool) -> None:
    with working(said) as site, contextlib.nullcontext() if dry_run else lock.hold(site.top, before_init=True):
        # Only what is on the disk is seen by those who ask whether something was written to.
        sync(site.top)
        events = history.read(os.path.join(site.top, layout.STATE, layout.HISTORY))
        source = next((one.get("from") for one in reversed(events) if one.get("event") == "init"), None)
        plan = conversion.plan_undo(site.survey(), source)
        if dry_run or not said.json:
            print_plan(plan, as_json=said.json)
        if dry_run:
            return
        ask("Undo it?", said)
        carry_out("undo", plan, site, said)


def _warnings(site: Site, said: Settings, system: System, source: Source) -> list[str]:
    """What would keep an installed system from being updated, and that `init` does not mend."""
    tree = os.path.join(site.top, source.path)
    found = [installed.left_behind(place) for place in installed.left_out(tree, source.nested)]
    if site.chooser is None:
        told = bootadvice.examine(system, None, tree, said.boot, readable(said))
        found += [one for one in told if not one.notice]
    found += installed.rivals(tree)
    return [f"{one.problem[0].upper()}{one.problem[1:]}. {one.remedy}" for one in found]
