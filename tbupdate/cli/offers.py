"""What the configured sources offer this device, and how it goes there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tbdiff.errors import Failed, NothingToDo, Rejected, Stop
from tbdiff.index import Index, ListedImage, Release
from tbdiff.line import Line
from tbdiff.manifest import Manifest
from tbdiff.signature import KeyRing
from tbupdate import choosing, clock, consent, planning, sources, trusted
from tbupdate.choosing import Bounds, Route, Update
from tbupdate.cli.conduct import now
from tbupdate.cli.deploying import Wishes, deploy_images, take_up
from tbupdate.cli.options import Settings
from tbupdate.cli.serving import Served, keep_trust
from tbupdate.cli.sites import working
from tbupdate.cli.terminal import warn
from tbupdate.config import Config, Source
from tbupdate.consent import Decision
from tbupdate.layout import STATE
from tbupdate.offer import NoRoom
from tbupdate.reach import Reach
from tbupdate.site import Site
from tbupdate.system import System
from tbupdate.trusted import Trusted


@dataclass(frozen=True)
class Found:
    """An update, the source that offers it, and the keys that are trusted for it.

    Of a server's images the `addresses`, by their digests, and the `line` by which they are fetched.
    """

    source: Source
    update: Update
    keys: KeyRing
    addresses: Mapping[str, str] = field(default_factory=dict)
    line: Line | None = None

    def address(self, image: ListedImage) -> str:
        """Where an image is."""
        return self.addresses.get(image.digest) or sources.address(self.source, image)

    def check(self, manifest: Manifest) -> None:
        """Refuse what an image turns out to be, where that is not what was offered."""
        if manifest.target.tree != self.update.release.tree:
            said = "it says" if self.line is not None else "its index says"
            raise Rejected(
                f"what {self.source.url} sends is not what {said}; nothing was changed",
                "Whoever keeps it should publish that release again.",
            )


def ask(
    site: Site, system: System, rules: Config, reach: Reach, served: Served, *, remember: bool = False
) -> list[Found]:
    """What the server orders; without a server that has something to say, the newest release that the sources have.

    Each source offers it in its own way. What is ordered is taken from a source, too, if that is less to fetch.
    """
    planning.require_layout(system)
    order = served.order
    if order is not None:
        known = _known(site, rules, served)
        try:
            _moment(site, system, known)
        except Rejected as rejected:
            served.waits(order, str(rejected))
            raise
        update = served.update(order, system, rules)
        ordered = Found(Source(url=served.url), update, known.ring, order.addresses, served.line)
        same = _of_same(ordered, known, site, system, rules, reach, remember) if update.routes else []
        return [ordered, *same]
    if served.fault is not None and (not rules.source or served.is_at_work):
        raise served.fault
    if served.fault is not None:
        warn(f"{served.fault}")
    if served.is_at_work:
        raise NothingToDo("what the server ordered is deployed", "See: tb-update status")
    if not rules.source:
        if served.contact is not None:
            raise NothingToDo(f"{served.url} wants nothing new of this device")
        raise Rejected("no source of updates is configured", "Name one in config.toml: [[source]] url = …")
    return _of_sources(_known(site, rules, served), site, system, rules, reach, remember)


def _known(site: Site, rules: Config, served: Served) -> Trusted:
    """Whom this device trusts, also by what its server has just said."""
    return served.contact.known if served.contact is not None else trusted.load(os.path.join(site.top, STATE), rules)


def _of_same(
    ordered: Found, before: Trusted, site: Site, system: System, rules: Config, reach: Reach, remember: bool
) -> list[Found]:
    """What sources have of the very release that is ordered."""
    if not rules.source:
        return []
    try:
        found = _of_sources(before, site, system, rules, reach, remember)
    except Stop as stop:
        warn(f"{stop}")
        return []
    return [one for one in found if one.update.release.tree == ordered.update.release.tree]


def _of_sources(
    before: Trusted, site: Site, system: System, rules: Config, reach: Reach, remember: bool
) -> list[Found]:
    """The newest release that the sources have for this system, as each of them offers it."""
    state = os.path.join(site.top, STATE)
    known, answering, faults = _trusted(before, rules, reach)
    if remember:
        keep_trust(state, before, known)
    moment = _moment(site, system, known)
    seen = sources.read_seen(state)
    heard: list[tuple[Source, Index]] = []
    for source in answering:
        try:
            heard.append((source, sources.offered(source, known.ring, seen, moment, reach.line(source))))
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
            found.append(Found(source, choosing.choose(system, index, bounds, encoders), known.ring))
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


def _trusted(before: Trusted, rules: Config, reach: Reach) -> tuple[Trusted, list[Source], list[Stop]]:
    """Whom this device trusts by what the sources say, the sources that answer, and what is wrong with the others."""
    known = before
    answering: list[Source] = []
    faults: list[Stop] = []
    for source in rules.source:
        try:
            chain = sources.statements(source, reach.line(source))
        except (Failed, Rejected) as stop:
            faults.append(_named(source, stop))
            continue
        known, fault = trusted.learn(known, chain) if chain is not None else (known, None)
        if fault is not None:
            faults.append(_named(source, fault))
        else:
            answering.append(source)
    return known, answering, faults


def _moment(site: Site, system: System, known: Trusted) -> str:
    """The time that is believed; Rejected where by then nobody should go by what is known of trusted keys."""
    running = system.booted or system.default
    made = clock.made(site.path(running.id)) if running is not None else None
    moment = clock.believed(now(), made, known.statement.issued if known.statement else None)
    if known.statement is not None and known.expired(moment):
        raise Rejected(
            f"the statement on which keys are trusted was good until {known.statement.expires}, and it is {moment}; "
            "nothing was changed",
            "Whoever publishes there must make a new one (tbdiff rotate); or the clock of this device is wrong.",
        )
    return moment


def _named(source: Source, stop: Stop) -> Stop:
    """The same, for people who follow several sources."""
    return stop if source.url in str(stop) else type(stop)(f"{source.url}: {stop}", stop.remedy)


def _encoders(indexes: Sequence[Index]) -> frozenset[str]:
    """The compressors that are here, where any image of the indexes needs one."""
    if not any(image.encoders for index in indexes for image in index.images):
        return frozenset()
    from tbdiff.encoders import here  # noqa: PLC0415 - most memory that it takes is for images that need it

    return frozenset(here())


def decision_on(found: Found, site: Site, served: Served) -> Decision:
    """What a person said of what is offered; another release is another question."""
    release = found.update.release
    known = consent.read(os.path.join(site.top, STATE))
    if known is None or known.tree != release.tree:
        known = Decision(tree=release.tree)
    fresh = {"called": called(release), "bytes": found.update.size, "kept": not found.update.routes}
    return known.model_copy(update=fresh | {"ask": served.asks, "held": served.held})


def is_ready(system: System, found: Found) -> bool:
    """Whether it was fetched before, by keys that are still trusted."""
    record = system.ready.record if system.ready is not None else None
    return record is not None and record.tree == found.update.release.tree and system.ready_by == found.keys.fingerprint


def bring(found: Sequence[Found], said: Settings, rules: Config, wishes: Wishes, reach: Reach, served: Served) -> None:
    """Go there, and tell the server how that goes."""
    update = found[0].update

    def act(watch: Callable[[], None]) -> None:
        if update.routes:
            go(found, said, rules, wishes, reach, watch)
        else:
            served.go_back(said, rules)

    if wishes.dry_run:
        if not update.routes:
            raise NothingToDo(f"{called(update.release)} is kept here, and would be gone back to")
        act(lambda: None)
    else:
        served.carry(update, act, "is fetched" if wishes.fetch else "is deployed, and boots next")


def go(
    found: Sequence[Found],
    said: Settings,
    rules: Config,
    wishes: Wishes,
    reach: Reach,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Deploy it by the first way that leads there."""
    with working(said, rules) as site:
        ready = is_ready(site.survey(), found[0])
    if ready and not wishes.fetch:
        take_up(said, rules, dry_run=wishes.dry_run)
        return
    # Who names one release means it, also where it is an older one.
    wishes = replace(wishes, allow_downgrade=bool(rules.upgrade.exactly))
    ways = [(one, route) for one in found for route in one.update.routes]
    ways.sort(key=lambda way: way[1].size)
    for left, (one, route) in enumerate(ways, 1 - len(ways)):
        try:
            _follow(one, route, said, rules, wishes, reach, watch)
            return
        except (Failed, Rejected) as stop:
            if not left or isinstance(stop, NoRoom):
                raise
            warn(f"{stop}; trying the next way")


def _follow(
    one: Found,
    route: Route,
    said: Settings,
    rules: Config,
    wishes: Wishes,
    reach: Reach,
    watch: Callable[[], None],
) -> None:
    """Deploy by one way; where something was sent damaged, each mirror is asked for all of it, and no other goes on."""
    done = "fetch" if wishes.fetch else "upgrade"
    if one.line is not None:
        places = [one.address(image) for image in route.images]
        deploy_images(places, said, rules, wishes, one.line, done, one.check, one.keys, watch)
        return
    line = reach.line(one.source)
    own, *others = line.places(one.source.url.rstrip("/"))
    tries = [(own, line)]
    if others:
        # Of several that went on for each other, nobody knows who sent what was wrong.
        tries += [(folder, replace(line, folders=())) for folder in (own, *others)]
    for left, (folder, over) in enumerate(tries, 1 - len(tries)):
        try:
            addresses = [sources.locate(folder, image) for image in route.images]
            deploy_images(addresses, said, rules, wishes, over, done, one.check, one.keys, watch)
            return
        except (Failed, Rejected) as stop:
            if not left or isinstance(stop, NoRoom) or (over is line and not isinstance(stop, Rejected)):
                raise
            warn(f"{stop}; trying the next mirror")


def called(release: Release) -> str:
    """A release as people call it."""
    return " ".join(filter(None, (release.name, release.release))) or release.tree[:12]
