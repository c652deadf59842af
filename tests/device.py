"""A device for tests: a Btrfs with the layout, images that need no image format, and what must hold after any cut."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tbdiff.entry import Listing
from tbdiff.manifest import Manifest, Target, Way
from tbdiff.opened import Expect
from tbdiff.tree import read_tree
from tbupdate import conversion, perform, planning, site, upkeep
from tbupdate.layout import CURRENT, PREVIOUS, ROOT, make_id, saved_of
from tbupdate.offer import Offer
from tbupdate.record import Record
from tbupdate.steps import Plan
from tbupdate.system import System, survey

NOW = "2020-02-02T02:02:02Z"
_counter = itertools.count(1)


def fresh_id(words: str = "t") -> str:
    return make_id(words, f"{next(_counter):06x}")


@dataclass
class TinyImage:
    """Stands in for an opened image: it writes one file into a tree that it finds or makes."""

    content: str
    release: str | None = None
    base: str | None = None
    failure: Callable[[Path], None] | None = None
    types: tuple[str, ...] = ()
    manifest: Manifest = field(init=False)

    def __post_init__(self) -> None:
        target = Target(name="tiny", release=self.release, entries=4, size=100, device_types=self.types)
        self.manifest = Manifest(target=target, way=Way(target="0" * 64, base=self.base, chunks="0" * 64))

    def apply(self, tree: Path, base: Listing | None, progress: object, expect: Expect) -> Listing:
        (tree / "etc").mkdir(exist_ok=True)
        (tree / "etc/system").write_text(self.content)
        if self.failure is not None:
            self.failure(tree)
        target = read_tree(tree)
        expect(target)
        return target


FSTAB = "LABEL=system / btrfs defaults 0 0\n"


def make_root(directory: Path, content: str = "first", fstab: str = FSTAB) -> None:
    (directory / "etc").mkdir(parents=True, exist_ok=True)
    (directory / "etc/system").write_text(content)
    (directory / "etc/fstab").write_text(fstab)


def initialised(top: Path, fstab: str = FSTAB) -> System:
    make_root(top, fstab=fstab)
    system = survey(str(top))
    record = Record(id=fresh_id("first"), release="1.0", created=NOW)
    run(top, conversion.plan_init(system, conversion.find_source(system, None, [""]), record, NOW))
    return survey(str(top))


def offer(name: str = "t", **more: object) -> Offer:
    return Offer(id=fresh_id(name), now=NOW, image_digest="1" * 64, signers=("key",), **more)  # type: ignore[arg-type]


def plan_deploy(top: Path, image: TinyImage, **more: object) -> Plan:
    return planning.plan_deploy(survey(str(top)), image.manifest, offer(image.release or "t", **more))


def run(top: Path, plan: Plan, image: TinyImage | None = None) -> tuple[str, ...]:
    return perform.perform(plan, site.Site(str(top), image), NOW)


def run_first(top: Path, plan: Plan, count: int, image: TinyImage | None = None) -> None:
    """As if the power went out after the first `count` steps."""
    place = site.Site(str(top), image)
    for step in plan.every_step[:count]:
        perform.do(step, place)


def deploy(top: Path, image: TinyImage, **more: object) -> str:
    plan = plan_deploy(top, image, **more)
    assert run(top, plan, image) == ()
    assert plan.deployment is not None
    return plan.deployment


def commit(top: Path) -> None:
    assert run(top, planning.plan_commit(survey(str(top)), NOW)) == ()


def rollback(top: Path, target: str | None = None) -> None:
    assert run(top, planning.plan_rollback(survey(str(top)), target, NOW, "test")) == ()


def repair(top: Path) -> None:
    plan = upkeep.plan_repair(survey(str(top)), NOW)
    if plan.every_step:
        assert run(top, plan) == ()


def boots(top: Path) -> str:
    """What the default subvolume holds, found by mounting it as a kernel would: without a subvol option."""
    device = subprocess.run(
        ["findmnt", "-no", "SOURCE", "--nofsroot", str(top)], check=True, capture_output=True, text=True
    ).stdout.strip()
    place = top.parent / f"boots-{next(_counter)}"
    place.mkdir()
    subprocess.run(["mount", device, str(place)], check=True)
    try:
        return (place / "etc/system").read_text()
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


def check_settled(top: Path) -> System:
    """The layout as it is documented: nothing left over, all names show what the default subvolume says."""
    system = survey(str(top))
    assert [str(step) for step in upkeep.plan_repair(system, NOW).every_step] == []
    root = system.subvolumes[ROOT]
    assert root.id == system.default_id
    assert not root.read_only
    assert system.default is not None
    assert system.current == system.default
    assert system.subvolumes[CURRENT].read_only
    if PREVIOUS in system.subvolumes:
        assert system.subvolumes[PREVIOUS].read_only
        assert system.previous is not None
        assert system.previous != system.current
    ids = {kept.id for kept in system.deployments}
    assert system.records == ids
    assert system.marks.marked <= ids
    for name, subvolume in system.subvolumes.items():
        if name in ids:
            assert subvolume.read_only
        elif name.endswith(".carried"):
            # Local changes are awaited until what was deployed boots, or is final.
            assert subvolume.read_only
            assert system.pending is not None
            assert name == f"{system.pending.id}.carried"
        elif saved_of(name) is not None:
            assert subvolume.read_only
        else:
            assert name in (ROOT, CURRENT, PREVIOUS) or name.endswith(".root"), name
            assert system.made_from(subvolume) is not None
    return system


def names(top: Path) -> list[str]:
    return sorted(os.listdir(top / "snapshots"))
