"""The commands that ask the configured sources: what is there, and bring this device to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import click

from tbdiff.errors import Failed, NothingToDo, Rejected, Stop
from tbdiff.index import Index
from tbdiff.manifest import Manifest
from tbdiff.show import size
from tbupdate import choosing, config, planning, sources, trust
from tbupdate.choosing import Bounds, Route, Update
from tbupdate.cli import anew
from tbupdate.cli.conduct import glance, now, restart
from tbupdate.cli.deploying import Wishes, deploy_images
from tbupdate.cli.options import Settings, everywhere, settings
from tbupdate.cli.sites import working
from tbupdate.cli.terminal import print_json, print_lines, warn
from tbupdate.config import Config, Source
from tbupdate.layout import STATE
from tbupdate.site import Site
from tbupdate.system import System


@dataclass(frozen=True)
class Found:
    """An update, and the source that offers it."""

    source: Source
    update: Update


@click.command()
@everywhere
def check() -> None:
    """Say whether a configured source has an update, how large it is, and how it would come."""
    said = settings()
    rules = config.load(said.config)
    with working(said, rules) as site:
        found = _ask(site, glance(site), rules)
    if said.json:
        print_json({"update": _fields(found[0])})
    else:
        print_lines(_lines(found[0]))


@click.command()
@click.option("--packages", is_flag=True, help="By the distribution's own packages instead, in a copy of what runs.")
@click.option("--continue", "over_staged", is_flag=True, help="With --packages: over what is staged.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--reboot", is_flag=True, help="Reboot into it when it is staged; so does `reboot` in [upgrade].")
@everywhere
def upgrade(*, packages: bool, over_staged: bool, dry_run: bool, reboot: bool) -> None:
    """Bring this device to the newest release of the sources that it follows, by the way that fetches least."""
    said = settings()
    rules = config.load(said.config)
    reboot = reboot or (rules.upgrade.reboot and said.top is None)
    if packages:
        anew.run_here(None, anew.Wishes(over_staged, reboot=reboot, dry_run=dry_run))
        return
    if over_staged:
        raise click.UsageError("--continue is for --packages: an image starts from a deployment that is kept")
    with working(said, rules) as site:
        found = _ask(site, glance(site), rules, remember=not dry_run)
    attempts = [(one.source, route, one.update) for one in found for route in one.update.routes]
    for left, (source, route, update) in enumerate(attempts, 1 - len(attempts)):
        try:
            _go(source, route, update, said, rules, Wishes(dry_run=dry_run, reboot=reboot))
            break
        except (Failed, Rejected) as stop:
            if not left or isinstance(stop, planning.NoRoom):
                raise
            warn(f"{stop}; trying the next way")
    restart(reboot and not dry_run)


def _ask(site: Site, system: System, rules: Config, *, remember: bool = False) -> list[Found]:
    """The newest release that the sources have for this system, as each of them offers it."""
    planning.require_layout(system)
    if not rules.source:
        raise Rejected("no source of updates is configured", "Name one in config.toml: [[source]] url = …")
    keys, state = trust.load(rules.keys), os.path.join(site.top, STATE)
    seen = sources.read_seen(state)
    heard: list[tuple[Source, Index]] = []
    faults: list[Stop] = []
    for source in rules.source:
        try:
            heard.append((source, sources.offered(source, keys, seen, now())))
        except (Failed, Rejected) as stop:
            faults.append(stop)
    if remember and heard:
        sources.remember(state, seen, [source for source, _ in heard], [index for _, index in heard])
    encoders = _encoders([index for _, index in heard])
    found: list[Found] = []
    reasons: list[NothingToDo] = []
    for source, index in heard:
        bounds = Bounds(source.channel, rules.device_type, rules.upgrade.at_most, rules.upgrade.exactly)
        try:
            found.append(Found(source, choosing.choose(system, index, bounds, encoders)))
        except NothingToDo as nothing:
            reasons.append(nothing)
        except Rejected as rejected:
            faults.append(rejected)
    if not found and not reasons:
        raise faults[0]
    for fault in faults:
        warn(f"{fault}")
    if not found:
        raise reasons[0]
    return choosing.best(found, lambda one: one.update)


def _encoders(indexes: Sequence[Index]) -> frozenset[str]:
    """The compressors that are here, where any image of the indexes needs one."""
    if not any(image.encoders for index in indexes for image in index.images):
        return frozenset()
    from tbdiff.encoders import here  # noqa: PLC0415 - most memory that it takes is for images that need it

    return frozenset(here())


def _go(source: Source, route: Route, update: Update, said: Settings, rules: Config, wishes: Wishes) -> None:
    def check(manifest: Manifest) -> None:
        if manifest.target.tree != update.release.tree:
            raise Rejected(f"what {source.url} sends is not what its index says; nothing was changed")

    addresses = [sources.address(source, image) for image in route.images]
    deploy_images(
        addresses, said, rules, replace(wishes, allow_downgrade=bool(rules.upgrade.exactly)), "upgrade", check
    )


def _fields(found: Found) -> dict[str, object]:
    release, route = found.update.release, found.update.routes[0]
    return release.model_dump(mode="json") | {
        "source": found.source.url,
        "channel": found.source.channel,
        "bytes": route.size,
        "images": [image.model_dump(mode="json") for image in route.images],
    }


def _lines(found: Found) -> list[str]:
    release, route = found.update.release, found.update.routes[0]
    called = " ".join(filter(None, (release.name, release.release))) or release.tree[:12]
    full = route.images[0].base is None
    how = "a full image" if full else "a delta" if len(route.images) == 1 else f"{len(route.images)} deltas"
    return [
        f"{called} is there, on {found.source.channel} of {found.source.url}: {size(route.size)} to fetch, as {how}.",
        *(f"  {sources.address(found.source, image)}" for image in route.images),
        "Deploy it with: tb-update upgrade",
    ]
