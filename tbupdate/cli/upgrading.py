"""The commands that ask the configured sources: what is there, and bring this device to it."""

from __future__ import annotations

from typing import Any

import click

from tbdiff import show
from tbdiff.show import size
from tbupdate import config, planning
from tbupdate.cli import anew
from tbupdate.cli.conduct import glance, restart
from tbupdate.cli.deploying import Wishes
from tbupdate.cli.offers import Found, ask, bring, called, decision_on
from tbupdate.cli.options import everywhere, settings
from tbupdate.cli.serving import reach_server
from tbupdate.cli.sites import working
from tbupdate.cli.terminal import print_json, print_lines
from tbupdate.cli.unattended import step
from tbupdate.consent import APPROVED, Decision
from tbupdate.outlook import look_ahead
from tbupdate.reach import Reach
from tbupdate.unattended import Act, Next


@click.command()
@click.option("--changes", "reads", is_flag=True, help="Fetch the images of the way there, and say what they change.")
@everywhere
def check(*, reads: bool) -> None:
    """Say whether a configured source has an update, how large it is, how it would come, and when."""
    said = settings()
    rules = config.load(said.config)
    with Reach(rules.fetch) as reach, working(said, rules) as site:
        system = glance(site)
        served = reach_server(site, system, rules, reach, looking=True)
        found = ask(site, system, rules, reach, served)[0]
        outlook = look_ahead(system, rules, decision_on(found, site, served))
        changes = _changes(found, reach, as_json=said.json) if reads else []
    if said.json:
        fields = _fields(found) | ({"changes": changes} if reads else {})
        print_json({"update": fields, "next": outlook.fields()["next"]})
    else:
        print_lines([*_lines(found), *([f"Unattended: {outlook.waits}."] if outlook.waits else []), *changes])


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


def _changes(found: Found, reach: Reach, *, as_json: bool) -> list[Any]:
    """What the images of the way there change, one after the other."""
    from tbdiff.image import open_image  # noqa: PLC0415 - who only asks what is there need not read images

    said: list[Any] = []
    line = found.line or reach.line(found.source)
    for route in found.update.routes[:1]:
        for image in route.images:
            with open_image(found.address(image), found.keys, line=line) as opened:
                about = opened.manifest, opened.digest, opened.signers, opened.claimed_signers, opened.changes()
            if as_json:
                said.append(show.as_json(*about, everything=True))
            else:
                said += ["", *show.as_text(*about, everything=False)]
    return said


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
