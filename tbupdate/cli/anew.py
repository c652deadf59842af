"""The commands that make a deployment here, out of what runs: snapshot, run; and the upgrade by packages."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

import click

from tbdiff import progress
from tbdiff.errors import Failed
from tbupdate import config, freezing, fstab, layout, packages, space
from tbupdate.cli.conduct import changing, looking, now, refuse_reboot_elsewhere, remark, restart, retain
from tbupdate.cli.options import Settings, check_called, everywhere, settings
from tbupdate.cli.sites import working
from tbupdate.cli.terminal import print_done, print_json, print_lines, print_plan
from tbupdate.config import Config
from tbupdate.perform import perform
from tbupdate.rootsteps import CommandFailed
from tbupdate.site import Site
from tbupdate.steps import Plan
from tbupdate.system import System


@dataclass(frozen=True)
class Wishes:
    """How a person wants it: over what is staged, called what, and then."""

    over_staged: bool = False
    name: str | None = None
    release: str | None = None
    reboot: bool = False
    dry_run: bool = False


@click.command()
@click.option("--name", help="What it is called; default: as what it is made of.")
@click.option("--release", metavar="VERSION", help="Its version; default: that of what it is made of.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@everywhere
def snapshot(name: str | None, release: str | None, dry_run: bool) -> None:
    """Keep what runs, with its local changes, as a deployment of its own; what runs and what boots stays as it is."""
    said = settings()
    check_called(name, release)
    rules = config.load(said.config)
    with working(said, rules) as site, looking(site) if dry_run else changing(site) as system:
        wish = freezing.Wish(_new_id(system, name, release), now(), name, release, reserve=rules.space.reserve)
        plan = freezing.plan_snapshot(system, wish)
        if dry_run:
            print_plan(plan, as_json=said.json)
            return
        _make("snapshot", plan, site, said, rules)


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--continue", "over_staged", is_flag=True, help="Over what is staged, and not over what runs.")
@click.option("--shell", is_flag=True, help="Open a shell; what is made in it counts if it ends with exit code 0.")
@click.option("--name", help="What the result is called; default: as what it is made of.")
@click.option("--release", metavar="VERSION", help="Its version; default: that of what it is made of.")
@click.option("--reboot", is_flag=True, help="Reboot into it when it is staged.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@everywhere
def run(
    command: tuple[str, ...],
    *,
    over_staged: bool,
    shell: bool,
    name: str | None,
    release: str | None,
    reboot: bool,
    dry_run: bool,
) -> None:
    """Run COMMAND in a copy of what runs, and make that what boots next if it succeeds; else nothing was."""
    if shell == bool(command):
        raise click.UsageError("name a COMMAND, or say --shell" if not shell else "--shell takes no COMMAND")
    run_here(command, Wishes(over_staged, name, release, reboot, dry_run))


def run_here(command: tuple[str, ...] | None, wishes: Wishes) -> None:
    """Run a command, or the upgrade by packages, as a new deployment."""
    said = settings()
    check_called(wishes.name, wishes.release)
    rules = config.load(said.config)
    dry_run = wishes.dry_run
    with working(said, rules) as site, looking(site) if dry_run else changing(site) as system:
        refuse_reboot_elsewhere(system, wishes.reboot)
        root = site.path(freezing.source_root(system, over_staged=wishes.over_staged).name)
        new = _new_id(system, wishes.name, wishes.release)
        known = space.identify(site.top)
        wish = freezing.Wish(
            new,
            now(),
            wishes.name,
            wishes.release,
            packages.upgrade_command(root) if command is None else command,
            freezing.stands(fstab.read(root), system, space.dashed(known.fsid) if known is not None else "", new),
            wishes.over_staged,
            rules.space.reserve,
        )
        plan = freezing.plan_run(system, wish)
        if dry_run:
            print_plan(plan, as_json=said.json)
            return
        # The result on standard output is for programs then.
        here = replace(site, output=2 if said.json else None)
        try:
            _make("run" if command is not None else "upgrade", plan, here, said, rules)
        except CommandFailed as failure:
            if not said.json:
                raise
            error = {"kind": "failed", "message": str(failure), "remedy": failure.remedy, "exit_code": failure.code}
            print_json({"error": error})
            click.get_current_context().exit(Failed.exit_code)
    restart(wishes.reboot)


def _make(what: str, plan: Plan, site: Site, said: Settings, rules: Config) -> None:
    remark(plan)
    # A terminal is the command's alone, as long as it runs.
    shown = "none" if what != "snapshot" and said.progress == "auto" else said.progress
    with progress.shown(shown) as report:
        here = replace(site, progress=report)
        warnings = perform(plan, here, now())
    warnings += retain(site, rules)
    if not said.json:
        print_lines(plan.done)
    print_done(what, plan.deployment, site.survey(), warnings, as_json=said.json)


def _new_id(system: System, name: str | None, release: str | None) -> str:
    base = system.made_from(freezing.source_root(system))
    known = base.record if base is not None else None
    words = name or release or (known.release or known.name if known is not None else "")
    return layout.make_id(words or "system", secrets.token_hex(3))
