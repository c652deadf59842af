"""The commands that only look: status, list, verify, diff, history, doctor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from tbdiff import progress
from tbdiff.changes import changes
from tbdiff.entry import Listing
from tbdiff.errors import Failed, Rejected, Stop
from tbdiff.show import change_json, line, size
from tbdiff.tree import read_tree
from tbupdate import config, health, history, lastrun, mounts, outlook, planning, record, status, trusted
from tbupdate import doctor as diagnosis
from tbupdate.cli.conduct import glance
from tbupdate.cli.options import everywhere, settings
from tbupdate.cli.sites import readable, working
from tbupdate.cli.terminal import print_json, print_lines, print_marked, print_table
from tbupdate.config import Config
from tbupdate.layout import HISTORY, ROOT, SNAPSHOTS, STATE
from tbupdate.mirrors import SHOWN
from tbupdate.outlook import Outlook
from tbupdate.system import Deployment


@click.command("status")
@everywhere
def show_status() -> None:
    """Say what runs, what boots next, and what there is to do."""
    said = settings()
    rules = readable(said)
    with working(said, rules) as site:
        system = glance(site)
        failed = history.last_failure(_events(site.top), system.marks.bad)
        state = os.path.join(site.top, STATE)
        shown = outlook.find(site, system, rules)
        trust, own = _trust(state, rules)
        last = lastrun.read(state)
    results = health.kept() if system.booted_id is not None else []
    if said.json:
        more = {
            "health": health.fields(results),
            "failed": failed,
            "trust": trust,
            "last_run": last and last.model_dump(mode="json"),
        }
        print_json(status.fields(system) | more | shown.fields())
    else:
        print_lines(status.summary(system))
        print_lines(_outlook(shown))
        print_lines(own)
        print_lines(status.failure_lines(failed) if failed is not None else ())
        print_lines(one.line for one in results)


@click.command("list")
@everywhere
def list_deployments() -> None:
    """List the kept deployments, the newest first."""
    said = settings()
    with working(said) as site:
        system = site.survey()
    planning.require_layout(system)
    if said.json:
        print_json({"deployments": status.fields(system)["deployments"]})
    else:
        print_table(status.table(system), coloured=2)


@click.command()
@click.argument("deployment", metavar="[ID]", default="current")
@everywhere
def verify(deployment: str) -> None:
    """Read the tree of a deployment (default: current) and compare it with what was deployed."""
    said = settings()
    with working(said) as site, progress.shown(said.progress) as report:
        system, top = site.survey(), site.top
        planning.require_layout(system)
        kept = planning.find(system, deployment)
        # `root`, `current` and `previous` are snapshots of their own, and can be spoiled on their own.
        name = deployment if deployment in (*SHOWN, ROOT) else kept.id
        known = _listing(top, kept)
        found = read_tree(Path(top, SNAPSHOTS, name), progress=report)
    whole = found.digest == known.digest
    differences = [] if whole else changes(known, found)
    if said.json:
        print_json(
            {
                "id": kept.id,
                "subvolume": f"{SNAPSHOTS}/{name}",
                "whole": whole,
                "tree": known.digest.hex(),
                "differences": [change_json(one) for one in differences],
            }
        )
    elif whole:
        print_lines([f"{SNAPSHOTS}/{name} is exactly {kept.id} ({len(known)} entries)."])
    else:
        print_lines(map(line, differences))
    if not whole:
        if said.json:
            click.get_current_context().exit(Failed.exit_code)
        raise Failed(
            f"{SNAPSHOTS}/{name} is not what was deployed: {len(differences)} entries differ",
            "These are the local changes."
            if name == ROOT
            else "Somebody changed it, or the disk did: go to another deployment with `tb-update rollback ID`.",
        )


@click.command()
@click.argument("one", metavar="[A]", default="previous")
@click.argument("other", metavar="[B]", default="current")
@everywhere
def diff(one: str, other: str) -> None:
    """Say what changes from deployment A (default: previous) to B (default: current)."""
    said = settings()
    with working(said) as site:
        system, top = site.survey(), site.top
        planning.require_layout(system)
        kept = [planning.find(system, named) for named in (one, other)]
        before, after = (_listing(top, each) for each in kept)
    found = changes(before, after)
    if said.json:
        print_json({"from": kept[0].id, "to": kept[1].id, "changes": [change_json(each) for each in found]})
        return
    print_lines(map(line, found))
    click.echo(f"{len(found)} changes from {kept[0].id} to {kept[1].id}.")


@click.command("history")
@everywhere
def show_history() -> None:
    """Show what was deployed, by which image, when, and how it ended."""
    said = settings()
    with mounts.top_level(said.top) as top:
        events = _events(top)
    if said.json:
        print_json({"events": events})
        return
    for event in events:
        shown = {key: ", ".join(value) if isinstance(value, list) else str(value) for key, value in event.items()}
        said_more = [
            f"{key} {shown[key]}"
            for key in ("from", "release", "signers", "interrupted", "reason", "why", "boot", "logged", "conflicts")
            if key in shown
        ]
        head = (
            f"{shown.get('time', '?')}  {shown.get('event', '?'):9} {shown.get('id', '-')}  {shown.get('result', '?')}"
        )
        print_lines(["  ".join([head, *said_more])])
        print_lines(f"    | {one}" for one in event.get("log", ()))


@click.command("doctor")
@everywhere
def examine() -> None:
    """Find what would make an update or a rollback fail later; each finding comes with its remedy."""
    said = settings()
    rules = config.load(said.config)
    with working(said, rules) as site:
        found = diagnosis.examine(glance(site), site, said.boot, rules)
    problems = [one for one in found if not one.notice]
    if said.json:
        print_json({"healthy": not problems, "findings": [vars(one) for one in found]})
    else:
        for one in found:
            print_marked(*(("notice", "cyan") if one.notice else ("problem", "red")), one.problem)
            print_lines([f"    {one.remedy}"])
        click.echo(f"{len(problems) or 'No'} problem{'' if len(problems) == 1 else 's'} found.")
    if problems:
        click.get_current_context().exit(Failed.exit_code)


def _outlook(shown: Outlook) -> list[str]:
    if shown.offered is not None:
        return [f"{'offered:':14}{shown.offered.called} ({size(shown.offered.bytes)}); {shown.waits}"]
    return [f"{'waits:':14}{shown.waits}"] if shown.waits else []


def _trust(state: str, rules: Config) -> tuple[dict[str, Any] | None, list[str]]:
    """Whom this device trusts, for programs; and for people, if that is others than those who made it."""
    try:
        known = trusted.load(state, rules)
    except Stop as stop:
        return None, [f"{'trust:':14}{str(stop).partition(';')[0]}"]
    named = [f"{one.key.name} (since {one.added[:10]})" for one in known.owner.own]
    return trusted.fields(known), [f"{'own keys:':14}{', '.join(named)}"] if named else []


def _events(top: str) -> list[dict[str, Any]]:
    return history.read(os.path.join(top, STATE, HISTORY))


def _listing(top: str, kept: Deployment) -> Listing:
    tree = kept.record.tree if kept.record else None
    known = record.read_listing(os.path.join(top, STATE, kept.id), tree)
    if known is None:
        raise Rejected(
            f"{kept.id} has no record of its tree, so nothing can be compared with it", "See: tb-update doctor"
        )
    return known
