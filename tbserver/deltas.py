"""Deltas that the server makes by itself, decided: which one next, which are given up for it, and why not. Pure.

Who asks brings all that is known as `Facts`; what comes out says for each delta that devices could use how it stands,
in words. What is of most use comes first: bytes that devices have not to fetch, for the work of making it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tbdiff.show import size as shown

HOUR, DAY = 3600, 86400
# How long after a failure it is tried again: after the first one, the second, and all others.
PAUSES = (600, HOUR, DAY)
# So often a delta may be begun by processes that are not there any more, before it is left alone for a day.
BEGUN_MOST = 3


class Trial(enum.StrEnum):
    """How far a delta came that is not there (yet)."""

    MAKING = "making"
    FAILED = "failed"
    # It was made, and was not worth keeping: larger than the full image, or more than there is room for.
    LARGE = "large"
    CROWDED = "crowded"


class Stand(enum.StrEnum):
    """How a delta stands that devices could use."""

    UPLOADED = "uploaded"
    MADE = "made"
    MAKING = "making"
    WAITING = "waiting"
    NOT = "not made"


@dataclass(frozen=True)
class Target:
    """A release: its tree of so many bytes, and those of its full image (0: there is none)."""

    id: int
    tenant_id: int
    tree: str
    size: int
    full: int = 0

    @property
    def whole(self) -> int:
        """What a device fetches without a delta."""
        return self.full or self.size


@dataclass(frozen=True)
class Way:
    """An artifact that leads to a release from the tree `base` ("": from nothing), by us if it was `made` here."""

    id: int
    release_id: int
    base: str
    size: int
    made: bool = False


@dataclass(frozen=True)
class Demand:
    """Devices that run the tree `base` and are to go to a release; so many of them have not begun yet."""

    base: str
    release_id: int
    devices: int
    waiting: int


@dataclass(frozen=True)
class Tried:
    """A delta that was begun `begun` times: not again before `until`, or, while it is made, given up then."""

    state: Trial
    until: int
    begun: int
    why: str = ""
    size: int = 0


Pair = tuple[str, int]


@dataclass(frozen=True)
class Facts:
    """All that is decided by: what there is, what is wanted, what was tried; bytes for deltas, and free to work in.

    Those of one tenant only (not `all`) are for looking at: whether there is room beside the deltas of others is then
    told as it was when one was tried.
    """

    releases: Sequence[Target]
    ways: Sequence[Way]
    demands: Sequence[Demand]
    tried: Mapping[Pair, Tried]
    budget: int
    room: int
    now: int
    makes: bool = True
    all: bool = True


@dataclass(frozen=True)
class Verdict:
    """How a delta stands, and why it is not there; `saved` is what each device fetches less by it, in bytes."""

    base: str
    release_id: int
    devices: int
    stand: Stand
    why: str = ""
    size: int = 0
    saved: int = 0


def judge(facts: Facts) -> list[Verdict]:
    """How all deltas stand that devices could use or that are there, those first that are of most use."""
    known = _Known(facts)
    wanted = {(one.base, one.release_id): one for one in facts.demands}
    there = {pair: Demand(*pair, 0, 0) for pair in known.deltas if pair not in wanted}
    asked = sorted((wanted | there).values(), key=known.rank)
    return [known.verdict(one) for one in asked]


def choose(facts: Facts) -> list[Pair]:
    """The deltas that are to be made now, in this order."""
    return [(one.base, one.release_id) for one in judge(facts) if one.stand is Stand.WAITING]


def give_up(facts: Facts, pair: Pair | None = None, size: int = 0) -> list[int] | None:
    """Which made deltas (ids of artifacts) go, so that the budget holds; also with a new one of `size` for `pair`.

    The least useful go first, and for a new one none that is of more use than it; None: then there is no place for it.
    """
    known = _Known(facts)
    over = sum(way.size for way in facts.ways if way.made) + size - facts.budget
    worth = known.worth(pair, size) if pair is not None else 0
    gone = []
    for way in sorted((way for way in facts.ways if way.made), key=known.use):
        if over <= 0:
            break
        if pair is not None and known.use(way)[0] >= worth:
            return None
        gone.append(way.id)
        over -= way.size
    return gone if over <= 0 else None


def images_for(facts: Facts, pair: Pair) -> list[int]:
    """The artifacts that tell both ends of a delta (ids): full images, deltas over them; empty if any is missing."""
    known = _Known(facts)
    target = known.releases[pair[1]]
    found = [known.way_to(target.tenant_id, tree) or [] for tree in (pair[0], target.tree)]
    return list(dict.fromkeys(way.id for ways in found for way in ways)) if all(found) else []


def pause(begun: int) -> int:
    """How many seconds a delta is left alone that failed, when it was begun so many times."""
    return PAUSES[min(begun, len(PAUSES)) - 1]


class _Known:
    """The facts, by what they are asked for."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.releases = {one.id: one for one in facts.releases}
        self.trees = {(one.tenant_id, one.tree): one for one in facts.releases}
        self.demands = {(one.base, one.release_id): one for one in facts.demands}
        self.deltas: dict[Pair, Way] = {}
        self.full: dict[int, Way] = {}
        for way in sorted(facts.ways, key=lambda way: (-way.size, way.id)):
            if way.base:
                self.deltas[way.base, way.release_id] = way
            else:
                self.full[way.release_id] = way
        self._ways: dict[tuple[int, str], list[Way] | None] = {}

    def way_to(self, tenant_id: int, tree: str) -> list[Way] | None:
        """The images that lead to a tree from nothing, as few as there can be; None if there are none."""
        asked = (tenant_id, tree)
        if asked not in self._ways:
            self._ways[asked] = self._found(*asked)
        return self._ways[asked]

    def _found(self, tenant_id: int, tree: str) -> list[Way] | None:
        todo: list[tuple[str, list[Way]]] = [(tree, [])]
        seen = {tree}
        for here, behind in todo:
            release = self.trees.get((tenant_id, here))
            if release is None:
                continue
            if release.id in self.full:
                return [self.full[release.id], *behind]
            for (base, release_id), way in self.deltas.items():
                if release_id == release.id and base not in seen:
                    seen.add(base)
                    todo.append((base, [way, *behind]))
        return None

    def need(self, pair: Pair) -> int:
        """How many bytes of room making it takes, which is also how much work it is."""
        target = self.releases[pair[1]]
        base = self.trees.get((target.tenant_id, pair[0]))
        images = (self.way_to(target.tenant_id, tree) or [] for tree in (pair[0], target.tree))
        return target.size + target.whole + (base.size if base else 0) + sum(w.size for ways in images for w in ways)

    def rank(self, one: Demand) -> tuple[float, int, str]:
        """Less is better: bytes saved for all that wait, by bytes of work; a release that is newer is first."""
        release = self.releases[one.release_id]
        return -one.waiting * release.whole / max(self.need((one.base, one.release_id)), 1), -release.id, one.base

    def worth(self, pair: Pair, size: int) -> int:
        """What all devices save by a delta of this size that may still fetch it."""
        demand = self.demands.get(pair)
        return demand.devices * max(self.releases[pair[1]].whole - size, 0) if demand is not None else 0

    def use(self, way: Way) -> tuple[int, int]:
        """Less goes first; of what nobody needs, the oldest."""
        return self.worth((way.base, way.release_id), way.size), way.id

    def verdict(self, one: Demand) -> Verdict:
        """How a delta stands."""
        pair = (one.base, one.release_id)
        way = self.deltas.get(pair)
        if way is not None:
            stand = Stand.MADE if way.made else Stand.UPLOADED
            saved = max(self.releases[one.release_id].whole - way.size, 0)
            return Verdict(*pair, one.devices, stand, "", way.size, saved)
        tried = self.facts.tried.get(pair)
        if tried is not None and tried.state is Trial.MAKING and tried.until > self.facts.now:
            return Verdict(*pair, one.devices, Stand.MAKING)
        why = next(filter(None, self._reasons(one, tried)), "")
        return Verdict(*pair, one.devices, Stand.NOT if why else Stand.WAITING, why or "its turn comes")

    def _reasons(self, one: Demand, tried: Tried | None) -> Iterator[str]:
        """What stands in its way, the first thing first; empty ones do not."""
        target, need = self.releases[one.release_id], self.need((one.base, one.release_id))
        if not one.base:
            yield "the devices do not say what they run, or it is no release that is here"
        for tree, what in ((one.base, "what they run"), (target.tree, "this release")):
            if self.way_to(target.tenant_id, tree) is None:
                yield f"there is no full image of {what} here, nor deltas that lead there from one: upload it"
        if tried is not None:
            yield self._why_not_again((one.base, one.release_id), tried)
        if not one.waiting:
            yield "no device waits for it"
        if need > self.facts.room:
            yield f"to make it takes {shown(need)} in the server's directory, which has not that much to spare"
        if not self.facts.makes:
            yield "this server was told to make none"

    def _why_not_again(self, pair: Pair, tried: Tried) -> str:
        now = self.facts.now
        match tried.state:
            case Trial.MAKING if tried.begun >= BEGUN_MOST and now < tried.until + DAY:
                return f"it was begun {tried.begun} times by processes that ended meanwhile; left alone for a day"
            case Trial.FAILED if now < tried.until:
                return tried.why
            case Trial.LARGE if now < tried.until:
                return f"it was made once, and is no smaller than the full image ({shown(tried.size)})"
            case Trial.CROWDED if not self.facts.all or give_up(self.facts, pair, tried.size) is None:
                return f"it has {shown(tried.size)}, and all room for deltas is taken by those that are of more use"
        return ""
