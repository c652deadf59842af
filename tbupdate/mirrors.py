"""The names `root`, `current` and `previous`: how they come to show what the default subvolume says. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from tbupdate.layout import CURRENT, KEPT_ROOT, PREVIOUS, ROOT, coming, kept_root
from tbupdate.steps import DeleteSubvolume, Exchange, MakeSnapshot, Rename, Step
from tbupdate.system import System

SHOWN = (CURRENT, PREVIOUS)
SPARE = (coming(CURRENT), coming(PREVIOUS))


def held_names(system: System) -> dict[str, str]:
    """Which deployment each root and each mirror is made from; empty where it is none that is kept."""
    held = {}
    for name, subvolume in system.subvolumes.items():
        if name == ROOT or name.endswith(KEPT_ROOT) or name in SHOWN + SPARE:
            deployment = system.made_from(subvolume)
            held[name] = deployment.id if deployment else ""
    return held


def way_back(system: System, default: str, good: str | None) -> str | None:
    """The deployment that one would go back to from `default`."""
    if good != default and system.get(good) is not None:
        return good
    newest_first = [kept for kept in reversed(system.deployments) if system.is_committed(kept)]
    for kept in (system.previous, *newest_first):
        if kept is not None and kept.id != default and kept.id not in system.marks.bad:
            return kept.id
    return None


def settle(held: Mapping[str, str], default: str, back: str | None, used: frozenset[str]) -> tuple[Step, ...]:
    """The steps after which `root` is the subvolume that is now named `default`, and the mirrors show it and `back`.

    `held` says which deployment each name is made from. Subvolumes are only ever exchanged or renamed to free names, so
    that no name is missing at any time. Those in `used` (they run, or boot next) are never deleted.
    """
    names = dict(held)
    deployment = names[default]
    steps = [*_settle_roots(names, default)]
    if deployment:
        steps += _settle_mirrors(names, {CURRENT: deployment, PREVIOUS: back})
        surplus = SPARE if back else (PREVIOUS, *SPARE)
        steps += [DeleteSubvolume(name) for name in surplus if name in names and name not in used]
    return tuple(steps)


def _settle_roots(names: dict[str, str], default: str) -> list[Step]:
    steps: list[Step] = []
    if default != ROOT:
        steps.append(_move(names, default, ROOT))
    for name in sorted(names):
        if name.endswith(KEPT_ROOT) and names[name]:
            proper = kept_root(names[name])
            # A taken name stays taken: whose root it is, is known by what it was made from.
            if name != proper and proper not in names:
                steps.append(_move(names, name, proper))
    return steps


def _settle_mirrors(names: dict[str, str], wanted: Mapping[str, str | None]) -> list[Step]:
    steps: list[Step] = []
    for name, deployment in wanted.items():
        if deployment is None or names.get(name) == deployment:
            continue
        # The old `current` is a fine new `previous`: what is there already needs no room to be made.
        source = next((other for other in (*SPARE, *SHOWN) if other != name and names.get(other) == deployment), None)
        if source is None or wanted.get(source) == deployment:
            source = next(free for free in (coming(name), *SPARE) if free not in names)
            steps.append(MakeSnapshot(deployment, source, read_only=True))
            names[source] = deployment
        steps.append(_move(names, source, name))
    return steps


def _move(names: dict[str, str], old: str, new: str) -> Step:
    if new in names:
        names[old], names[new] = names[new], names[old]
        return Exchange(new, old)
    names[new] = names.pop(old)
    return Rename(old, new)
