"""What the configured sources offer this device, and how it goes there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tbdiff.errors import Failed, NothingToDo, Rejected, Stop
from tbdiff.index import Index, Release
from tbdiff.manifest import Manifest
from tbupdate import choosing, planning, sources, trust
from tbupdate.choosing import Bounds, Route, Update
from tbupdate.cli.conduct import now
from tbupdate.cli.deploying import Wishes, deploy_images
from tbupdate.cli.options import Settings
from tbupdate.cli.terminal import warn
from tbupdate.config import Config, Source
from tbupdate.layout import STATE
from tbupdate.reach import Reach
from tbupdate.site import Site
from tbupdate.system import System


@dataclass(frozen=True)
class Found:
    """An update, and the source that offers it."""

    source: Source
    update: Update

    def check(self, manifest: Manifest) -> None:
        """Refuse what an image turns out to be, where that is not what was offered."""
        if manifest.target.tree != self.update.release.tree:
            raise Rejected(f"what {self.source.url} sends is not what its index says; nothing was changed")


def ask(site: Site, system: System, rules: Config, reach: Reach, *, remember: bool = False) -> list[Found]:
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
            heard.append((source, sources.offered(source, keys, seen, now(), reach.line(source))))
        except (Failed, Rejected) as stop:
            faults.append(_named(source, stop))
    if remember and heard:
        sources.remember(state, seen, heard)
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
            faults.append(_named(source, rejected))
    if not found and not reasons:
        fault, *faults = faults
        for other in faults:
            warn(f"{other}")
        raise fault
    for fault in faults:
        warn(f"{fault}")
    if not found:
        raise reasons[0]
    return choosing.best(found, lambda one: one.update)


def _named(source: Source, stop: Stop) -> Stop:
    """The same, for people who follow several sources."""
    return stop if source.url in str(stop) else type(stop)(f"{source.url}: {stop}", stop.remedy)


def _encoders(indexes: Sequence[Index]) -> frozenset[str]:
    """The compressors that are here, where any image of the indexes needs one."""
    if not any(image.encoders for index in indexes for image in index.images):
        return frozenset()
    from tbdiff.encoders import here  # noqa: PLC0415 - most memory that it takes is for images that need it

    return frozenset(here())


def go(found: Sequence[Found], said: Settings, rules: Config, wishes: Wishes, reach: Reach) -> None:
    """Deploy it by the first way that leads there."""
    # Who names one release means it, also where it is an older one.
    wishes = replace(wishes, allow_downgrade=bool(rules.upgrade.exactly))
    ways = [(one, route) for one in found for route in one.update.routes]
    for left, (one, route) in enumerate(ways, 1 - len(ways)):
        try:
            _follow(one, route, said, rules, wishes, reach)
            return
        except (Failed, Rejected) as stop:
            if not left or isinstance(stop, planning.NoRoom):
                raise
            warn(f"{stop}; trying the next way")


def _follow(one: Found, route: Route, said: Settings, rules: Config, wishes: Wishes, reach: Reach) -> None:
    """Deploy by one way; what was sent damaged is asked of another mirror first the next time."""
    line = reach.line(one.source)
    folders = line.places(one.source.url.rstrip("/"))
    for left, folder in enumerate(folders, 1 - len(folders)):
        try:
            addresses = [sources.locate(folder, image) for image in route.images]
            deploy_images(addresses, said, rules, wishes, line, "upgrade", one.check)
            return
        except Rejected as stop:
            if not left or isinstance(stop, planning.NoRoom):
                raise
            warn(f"{stop}; trying the next mirror")


def called(release: Release) -> str:
    """A release as people call it."""
    return " ".join(filter(None, (release.name, release.release))) or release.tree[:12]
