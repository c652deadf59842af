"""The names `root`, `current` and `previous`: how they come to show what the default subvolume says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tbupdate.layout import CURRENT, KEPT_ROOT, PREVIOUS, ROOT, coming, kept_root
from tbupdate.steps import DeleteSubvolume, Exchange, MakeSnapshot, Rename, Step
from tbupdate.system import System

SHOWN = (CURRENT, PREVIOUS)
SPARE = (coming(CURRENT), coming(PREVIOUS))


def held_names(system: System) -> dict[str, str]:
    """Which deployment each root and each mirror is made from; empty where it is none that is kept.

    What boots next is a root whatever somebody has named it.
    """
    held = {}
    for name, subvolume in system.subvolumes.items():
        boots = subvolume.id == system.default_id and not subvolume.read_only
        if boots or name == ROOT or name.endswith(KEPT_ROOT) or name in SHOWN + SPARE:
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


@dataclass(frozen=True)
class _Held:
    """What stands under a name: a snapshot of a deployment, and whether it runs or boots next."""

    of: str
    used: bool


def settle(held: Mapping[str, str], default: str, back: str | None, used: frozenset[str]) -> tuple[Step, ...]:
    """The steps after which `root` is the subvolume that is now named `default`, and the mirrors show it and `back`.

    `held` says which deployment each name is made from. Subvolumes are only ever exchanged or renamed to free names, so
    that no name is missing at any time. Those in `used` (they run, or boot next) are never deleted.
    """
    if default not in held:
        return ()
    names = {name: _Held(of, name in used) for name, of in held.items()}
    deployment = held[default]
    steps = [*_settle_roots(names, default)]
    if deployment:
        for name, wanted in ((CURRENT, deployment), (PREVIOUS, back)):
            if wanted is not None and not _shows(names, name, wanted):
                steps += _settle_mirror(names, name, wanted)
        surplus = SPARE if back else (PREVIOUS, *SPARE)
        steps += [DeleteSubvolume(name) for name in surplus if name in names and not names[name].used]
    return tuple(steps)


def _settle_roots(names: dict[str, _Held], default: str) -> list[Step]:
    steps: list[Step] = []
    if default != ROOT:
        steps.append(_move(names, default, ROOT))
    while stray := next((name for name in sorted(names) if _can_go_home(names, name)), None):
        steps.append(_move(names, stray, kept_root(names[stray].of)))
    return steps


def _can_go_home(names: Mapping[str, _Held], name: str) -> bool:
    # A taken name stays taken: whose root it is, is known by what it was made from.
    return name.endswith(KEPT_ROOT) and names[name].of != "" and kept_root(names[name].of) not in names


def _settle_mirror(names: dict[str, _Held], name: str, wanted: str) -> list[Step]:
    # The old `current` is a fine new `previous`: what is there already needs no room to be made.
    there = [other for other in (*SPARE, PREVIOUS) if other != name and _shows(names, other, wanted)]
    if there:
        return [_move(names, there[0], name)]
    free = [spare for spare in (coming(name), *SPARE) if spare not in names or not names[spare].used]
    if not free:
        return []
    spare = next((one for one in free if one not in names), free[0])
    steps: list[Step] = [DeleteSubvolume(spare)] if spare in names else []
    steps.append(MakeSnapshot(wanted, spare, read_only=True))
    names[spare] = _Held(wanted, used=False)
    return [*steps, _move(names, spare, name)]


def _shows(names: Mapping[str, _Held], name: str, wanted: str) -> bool:
    return name in names and names[name].of == wanted


def _move(names: dict[str, _Held], old: str, new: str) -> Step:
    if new in names:
        names[old], names[new] = names[new], names[old]
        return Exchange(new, old)
    names[new] = names.pop(old)
    return Rename(old, new)
