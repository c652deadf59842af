"""Decide which release this device should run next, and by which images of an index it gets there. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from tbdiff.errors import NothingToDo, Rejected
from tbdiff.index import Index, ListedImage, Release
from tbdiff.manifest import NAMED
from tbupdate import release as releases
from tbupdate.system import Deployment, System

T = TypeVar("T")


@dataclass(frozen=True)
class Bounds:
    """What the device wants of a channel: releases for its type, `at_most` one, or `exactly` one."""

    channel: str
    device_type: str | None = None
    at_most: str = ""
    exactly: str = ""


@dataclass(frozen=True)
class Route:
    """Images that lead, one after the other, from a deployment that is kept (or from nothing) to a release."""

    images: tuple[ListedImage, ...]

    @property
    def size(self) -> int:
        """How many bytes are fetched."""
        return sum(image.size for image in self.images)


@dataclass(frozen=True)
class Update:
    """A release to go to, and the routes to it, the cheapest first; a full image is the last resort.

    No route leads to what is kept here already: that is gone back to.
    """

    release: Release
    routes: tuple[Route, ...]

    @property
    def size(self) -> int:
        """How many bytes are fetched, by the cheapest route."""
        return self.routes[0].size if self.routes else 0


def choose(system: System, index: Index, bounds: Bounds, encoders: Collection[str]) -> Update:
    """The newest release of a channel that this device may run, where that is not what boots next already.

    `encoders` are the compressors that the device has, by their fingerprints.
    """
    wanted = _newest(system, index, bounds)
    return _lead(system, wanted, index.images, f"the newest of {bounds.channel}", bounds, encoders)


def choose_ordered(
    system: System, wanted: Release, images: Sequence[ListedImage], bounds: Bounds, encoders: Collection[str]
) -> Update:
    """The way to a release that a server wants here, as far as this device may run it."""
    if wanted.device_types and bounds.device_type not in wanted.device_types:
        raise Rejected(
            f"{wanted.called} is for {', '.join(wanted.device_types)}, and this device is {bounds.device_type}; "
            "nothing was changed",
            "Order it for devices of that type only; or correct device_type in config.toml.",
        )
    if not _fits(system, wanted, bounds):
        raise Rejected(
            f"{wanted.called} is not what this device may run, by its epoch or by its configuration; "
            "nothing was changed",
            "Order another release; or see at_most and exactly below [upgrade] in config.toml.",
        )
    return _lead(system, wanted, images, "what the server wants", bounds, encoders)


def _lead(
    system: System,
    wanted: Release,
    images: Sequence[ListedImage],
    said: str,
    bounds: Bounds,
    encoders: Collection[str],
) -> Update:
    called = wanted.called
    default = system.default.record if system.default is not None else None
    if default is not None and default.tree == wanted.tree:
        raise NothingToDo(f"{called} is {said}, and boots next already")
    against = (system.good or system.default) if not bounds.exactly else None
    have = against.record.release if against is not None and against.record is not None else None
    if have and wanted.release and releases.compare(wanted.release, have) < 0:
        raise NothingToDo(f"{called} is {said}, and {have} that is here is newer")
    failed = system.marks.failed or ""
    if failed.startswith(wanted.tree):
        why = failed.removeprefix(wanted.tree).strip()
        raise NothingToDo(
            f"{called} is {said}, but it failed here before ({why})",
            "Wait for a newer one. If you mean it: tb-update deploy --again IMAGE",
        )
    left = next((one for one in system.deployments if one.record and one.record.tree == wanted.tree), None)
    if left is not None and left != system.ready and not (bounds.exactly and _was_followed(system, left)):
        raise NothingToDo(
            f"{called} is {said}, and was left here before",
            f"Go to it again with: tb-update rollback {left.id}",
        )
    found = _routes(system, images, wanted.tree, encoders)
    if not found:
        raise Rejected(
            f"no image leads from what is here to {called}; nothing was changed",
            "Whoever publishes it should add a full image, or a delta from what this device runs.",
        )
    return Update(wanted, found)


def _was_followed(system: System, left: Deployment) -> bool:
    """Whether it was left for a later one, and not by a rollback."""
    default = system.default
    later = default is not None and default.subvolume.id > left.subvolume.id
    return later and left.id not in system.marks.bad


def _newest(system: System, index: Index, bounds: Bounds) -> Release:
    if bounds.channel not in index.channels:
        known = ", ".join(sorted(index.channels)[:NAMED])
        there = f"only {known}" if known else "nor any other"
        raise Rejected(
            f"there is no channel {bounds.channel!r} there, {there}; nothing was changed", "Correct it in config.toml."
        )
    described = {release.tree: release for release in index.releases}
    for tree in dict.fromkeys(reversed(index.channels[bounds.channel])):
        offered = described.get(tree)
        if offered is not None and _fits(system, offered, bounds):
            return offered
    what = f"release {bounds.exactly}" if bounds.exactly else "release for this device"
    raise NothingToDo(
        f"{bounds.channel} holds no {what}", "If that is wrong, see device_type, channel and [upgrade] in config.toml."
    )


def _fits(system: System, offered: Release, bounds: Bounds) -> bool:
    if offered.device_types and bounds.device_type not in offered.device_types:
        return False
    if offered.epoch < system.epoch:
        return False
    if bounds.exactly:
        return offered.release == bounds.exactly
    if bounds.at_most:
        return offered.release is not None and releases.compare(offered.release, bounds.at_most) <= 0
    return True


def _routes(system: System, images: Sequence[ListedImage], tree: str, encoders: Collection[str]) -> tuple[Route, ...]:
    """The cheapest route of all, and the cheapest full image."""
    usable = [image for image in images if set(image.encoders) <= set(encoders)]
    kept = [one.record.tree for one in system.deployments if one.record is not None and one.record.tree]
    kept = [held for held in kept if held != tree]
    cheapest = _cheapest(usable, kept, tree)
    full = min((image for image in usable if image.base is None and image.tree == tree), key=_size, default=None)
    found = [route for route in (cheapest, Route((full,)) if full else None) if route is not None]
    return tuple(dict.fromkeys(found))


def _size(image: ListedImage) -> int:
    return image.size


def _cheapest(images: Sequence[ListedImage], kept: Sequence[str], tree: str) -> Route | None:
    """Dijkstra's way over trees, by bytes to fetch and then by images; None starts from nothing."""
    order = count()
    onward: dict[str | None, list[ListedImage]] = {}
    for image in images:
        onward.setdefault(image.base, []).append(image)
    # By which image each tree is reached; none leads to those that are here.
    reached: dict[str | None, ListedImage | None] = {}
    queue: list[tuple[int, int, int, str | None, ListedImage | None]]
    queue = [(0, 0, next(order), start, None) for start in (*kept, None)]
    heapq.heapify(queue)
    while queue:
        size, steps, _, here, by = heapq.heappop(queue)
        if here in reached:
            continue
        reached[here] = by
        if here == tree:
            return _back(reached, by)
        for image in onward.get(here, ()):
            if image.tree not in reached:
                heapq.heappush(queue, (size + image.size, steps + 1, next(order), image.tree, image))
    return None


def _back(reached: Mapping[str | None, ListedImage | None], last: ListedImage | None) -> Route:
    """The route that ends with an image."""
    images = []
    while last is not None:
        images.append(last)
        last = reached[last.base]
    return Route(tuple(reversed(images)))


def best(found: Sequence[T], update: Callable[[T], Update]) -> list[T]:
    """Of several offers those of the newest release, the cheapest first."""
    newest = found[0]
    for one in found[1:]:
        mine, other = update(one).release.release, update(newest).release.release
        if mine and (not other or releases.compare(mine, other) > 0):
            newest = one
    same = [one for one in found if update(one).release.tree == update(newest).release.tree]
    return sorted(same, key=lambda one: update(one).size)
