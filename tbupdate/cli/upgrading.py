"""The commands that ask the configured sources: what is there, and bring this device to it."""

from __future__ import annotations

import click

from tbdiff.show import size
from tbupdate import config, planning
from tbupdate.cli import anew
from tbupdate.cli.conduct import glance, restart
from tbupdate.cli.deploying import Wishes
from tbupdate.cli.offers import Found, ask, bring, called
from tbupdate.cli.options import everywhere, settings
from tbupdate.cli.serving import reach_server
from tbupdate.cli.sites import working
from tbupdate.cli.terminal import print_json, print_lines
from tbupdate.cli.unattended import step
from tbupdate.consent import APPROVED, Decision
from tbupdate.reach import Reach
from tbupdate.unattended import Act, Next


@click.command()
@everywhere
def check() -> None:
    """Say whether a configured source has an update, how large it is, and how it would come."""
    said = settings()
    rules = config.load(said.config)
    with Reach(rules.fetch) as reach, working(said, rules) as site:
        system = glance(site)
        found = ask(site, system, rules, reach, reach_server(site, system, rules, reach, looking=True))
    if said.json:
        print_json({"update": _fields(found[0])})
    else:
        print_lines(_lines(found[0]))


@click.command()
@click.option("--packages", is_flag=True, help="By the distribution's own packages instead, in a copy of what runs.")
@click.option("--continue", "over_staged", is_flag=True, help="With --packages: over what is staged.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--reboot", is_flag=True, help="Reboot into it when it is staged.")
@click.option("--unattended", is_flag=True, help="Only as policy, consent and maintenance windows allow.")
@everywhere
def upgrade(*, packages: bool, over_staged: bool, dry_run: bool, reboot: bool, unattended: bool) -> None:
    """Bring this device to the newest release of the sources that it follows, by the way that fetches least."""
    said = settings()
    rules = config.load(said.config)
    if unattended:
        if packages or dry_run or reboot:
            raise click.UsageError("--unattended does what the configuration says, and takes no other options")
        step(said, rules)
        return
    if packages:
        anew.run_here(None, anew.Wishes(over_staged, reboot=reboot, dry_run=dry_run))
        return
    if over_staged:
        raise click.UsageError("--continue is for --packages: an image starts from a deployment that is kept")
    with Reach(rules.fetch) as reach:
        with working(said, rules) as site:
            system = glance(site)
            # No way leads past this.
            planning.refuse_during_trial(system)
            served = reach_server(site, system, rules, reach, looking=dry_run)
            found = ask(site, system, rules, reach, served, remember=not dry_run)
            if not dry_run:
                # Who says this agrees to it.
                served.answer(Decision(tree=found[0].update.release.tree, said=APPROVED), Next(Act.DEPLOY))
        bring(found, said, rules, Wishes(dry_run=dry_run, reboot=reboot), reach, served)
    restart(reboot and not dry_run)


def _fields(found: Found) -> dict[str, object]:
    release, routes = found.update.release, found.update.routes
    return release.model_dump(mode="json") | {
        "source": found.source.url,
        "channel": found.source.channel,
        "bytes": found.update.size,
        "images": [image.model_dump(mode="json") for route in routes[:1] for image in route.images],
    }


def _lines(found: Found) -> list[str]:
    release, routes = found.update.release, found.update.routes
    if not routes:
        return [f"{called(release)} is kept here, and {found.source.url} wants it back.", "Go there: tb-update upgrade"]
    route = routes[0]
    full = route.images[0].base is None
    how = "a full image" if full else "a delta" if len(route.images) == 1 else f"{len(route.images)} deltas"
    where = f"at {found.source.url}" if found.line else f"on {found.source.channel} of {found.source.url}"
    return [
        f"{called(release)} is there, {where}: {size(route.size)} to fetch, as {how}.",
        *(f"  {found.address(image)}" for image in route.images),
        "Deploy it with: tb-update upgrade",
    ]
