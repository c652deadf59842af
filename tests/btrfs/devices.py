"""The prepared devices on which commands are hurt, and what each command has to make of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.rig import Rig, mounted, system_tree
from tests.trees import build


@dataclass(frozen=True)
class Scenario:
    """A command on a prepared device: which version boots before and after it, and how it may end when repeated."""

    golden: Callable[[Rig], Path]
    arguments: Callable[[Rig], list[str | Path]]
    before: int
    after: int
    again: tuple[int, ...] = (0, 4)
    converting: bool = False


def installed(rig: Rig) -> Path:
    return rig.golden("installed", lambda top: build(system_tree(1), top))


def initialised(rig: Rig) -> Path:
    return rig.golden("initialised", rig.must("init", "--yes"), origin=installed(rig))


def delta(rig: Rig) -> Path:
    """The image from what `initialised` made of version 1 to version 2."""
    out = rig.folder / "delta.tbdiff"
    if not out.exists():
        with mounted(initialised(rig)) as top:
            rig.image(top / "snapshots/current", 2).rename(out)
    return out


def staged(rig: Rig) -> Path:
    return rig.golden("staged", rig.must("deploy", delta(rig)), origin=initialised(rig))


def committed(rig: Rig) -> Path:
    return rig.golden("committed", rig.must("commit"), origin=staged(rig))


def many(rig: Rig) -> Path:
    again = rig.must("deploy", rig.image(None, 2), "--allow-downgrade")
    steps = [rig.must("deploy", rig.image(None, 3)), rig.must("commit"), again, rig.must("commit")]
    return rig.golden("many", *steps, origin=committed(rig))


def touched(rig: Rig) -> Path:
    """With the least that is a local change: the root directory has another time."""
    return rig.golden("touched", lambda top: os.utime(top / "snapshots/root", (0, 0)), origin=initialised(rig))


def first(rig: Rig) -> str:
    """The id of version 1: said in full, so that a rollback that is repeated does not go back further."""
    with mounted(initialised(rig)) as top:
        return str(rig.run(top, "status", "--json").json["default"])


SCENARIOS = {
    "init": Scenario(installed, lambda rig: ["init", "--yes"], 1, 1, converting=True),
    "deploy": Scenario(initialised, lambda rig: ["deploy", delta(rig)], 1, 2),
    "deploy-full": Scenario(committed, lambda rig: ["deploy", rig.image(None, 3)], 2, 3),
    "deploy-over-staged": Scenario(staged, lambda rig: ["deploy", rig.image(None, 3)], 2, 3),
    "commit": Scenario(staged, lambda rig: ["commit"], 2, 2),
    "rollback-staged": Scenario(staged, lambda rig: ["rollback", first(rig)], 2, 1),
    "rollback": Scenario(committed, lambda rig: ["rollback", first(rig)], 2, 1),
    "snapshot": Scenario(touched, lambda rig: ["snapshot"], 1, 1, converting=True),
    "reset": Scenario(committed, lambda rig: ["reset", first(rig), "--yes"], 2, 1),
    "prune": Scenario(many, lambda rig: ["prune", "--keep", "1"], 2, 2),
}
