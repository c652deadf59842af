"""The power is cut at every flush that the disk sees: what the boot loader then reads is whole, and has a way back.

Both file systems lie on one recorded disk, so a cut is one moment for both. With TB_CRASH=all every single write is a
point to cut at (`make crash-test`), otherwise some of the flushes.
"""

from __future__ import annotations

import collections
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tbdiff.errors import Stop
from tbupdate import carrying, upkeep
from tbupdate.boot import finder, place
from tbupdate.steps import Plan
from tests import bootable, bootpart, loops
from tests.bootable import Device
from tests.crash import recording
from tests.crash.recording import Act, Cut
from tests.device import NOW, TinyImage

MIB = 1 << 20
BOOT, TOP = 32 * MIB, 288 * MIB
SECOND = TinyImage("second", "2.0", failure=bootable.bootable("6.1.0-2"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@contextmanager
def parts(disk: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Both file systems of a disk, mounted: /boot and the top level."""
    held = []
    try:
        for name, at, size in (("boot", 0, BOOT), ("top", BOOT, TOP)):
            place = folder / name
            place.mkdir(exist_ok=True)
            more = ",subvolid=5" if name == "top" else ""
            subprocess.run(["mount", "-o", f"loop,offset={at},sizelimit={size},noatime{more}", disk, place], check=True)
            held.append(place)
        yield held[0], held[1]
    finally:
        for place in reversed(held):
            subprocess.run(["umount", place], check=True)
        loops.release(disk)


@contextmanager
def opened(disk: Path, folder: Path, loader: str) -> Iterator[Device]:
    """The device on a disk. What the loader reads is cut out of the disk as it was before anything was mounted."""
    raw = folder / "boot.raw"
    subprocess.run(["dd", f"if={disk}", f"of={raw}", "bs=1M", f"count={BOOT // MIB}", "conv=sparse", "status=none"])
    with parts(disk, folder) as (boot, top):
        chooser = finder.find_chooser(loader, str(boot), running=False)
        assert chooser is not None
        yield Device(top, boot, raw, chooser)


def prepared(folder: Path, loader: str) -> Path:
    """A disk on which `init` was run."""
    disk = folder / "base.img"
    for name, size, make in (("one", BOOT, "mkfs.ext4"), ("two", TOP, "mkfs.btrfs")):
        with (folder / name).open("wb") as file:
            file.truncate(size)
        subprocess.run([make, "-q", folder / name], check=True, stdout=subprocess.DEVNULL)
    with disk.open("wb") as file:
        file.truncate(BOOT + TOP)
    for name, seek in (("one", 0), ("two", BOOT // MIB)):
        subprocess.run(
            ["dd", f"if={folder / name}", f"of={disk}", f"seek={seek}", "bs=1M", "conv=notrunc,sparse", "status=none"],
            check=True,
        )
        (folder / name).unlink()
    with parts(disk, folder) as (boot, top):
        bootpart.install(boot, loader)
        bootable.initialised(top, boot, disk)
    return disk


def staged(dev: Device) -> None:
    dev.deploy(SECOND)


LARGE = b"what somebody has configured here\n" * 9000


def write_local(root: Path, late: str = "") -> None:
    """Local changes of a few kinds."""
    (root / "etc/large").write_bytes(LARGE + late.encode())
    (root / "etc/small").write_text(f"mine{late}")
    (root / "etc/dir").mkdir(exist_ok=True)
    (root / "etc/link").unlink(missing_ok=True)
    (root / "etc/link").symlink_to(f"small{late}")
    (root / "etc/small").chmod(0o640)


def read_local(root: Path) -> str | None:
    """Which local changes are all there: those before the deploy (nothing), or the late ones; None if not all are."""
    for late in ("", " late"):
        there = (root / "etc/large").is_file() and (root / "etc/large").read_bytes() == LARGE + late.encode()
        if there and (root / "etc/small").read_text() == f"mine{late}" and (root / "etc/dir").is_dir():
            mode = (root / "etc/small").stat().st_mode & 0o777
            return late if (os.readlink(root / "etc/link"), mode) == (f"small{late}", 0o640) else None
    return None


def changed(dev: Device) -> None:
    write_local(dev.top / "snapshots/root")


def changed_late(dev: Device) -> None:
    """Changed before the deploy, and once more until the reboot."""
    changed(dev)
    dev.deploy(SECOND)
    (old,) = (dev.top / "snapshots").glob("first-*.root")
    write_local(old, " late")


def plan_first_command(dev: Device) -> Plan:
    """What the first command does in the new system, as if that ran."""
    system = dev.survey()
    return upkeep.plan_repair(replace(system, booted_id=system.default_id), NOW)


def nothing_is_lost(dev: Device, cut: Cut) -> None:
    """Local changes, in whatever boots; late ones at the latest when that what waits for them was done again."""
    root = dev.top / "snapshots/root"
    assert read_local(root) is not None, cut
    if list((dev.top / "snapshots").glob("*.carried")):
        dev.run(carrying.plan_carry(dev.survey()))
    waiting = [old for old in (dev.top / "snapshots").glob("first-*.root") if read_local(old) == " late"]
    assert read_local(root) == (" late" if waiting else ""), cut


Check = Callable[[Device, Cut], None]


@dataclass(frozen=True)
class Case:
    """A plan that is cut, what was done before it, what may boot after any cut, and what else must hold then."""

    plan: Callable[[Device], Plan]
    may_boot: frozenset[str]
    ends: str = "second"
    before: Callable[[Device], None] | None = None
    image: TinyImage | None = None
    holds: Check = lambda dev, cut: None


EITHER, NEW = frozenset({"first", "second"}), frozenset({"second"})
CASES = {
    "deploy": Case(lambda dev: dev.plan_deploy(SECOND), EITHER, image=SECOND),
    "commit": Case(Device.plan_commit, NEW, before=staged),
    "rollback": Case(Device.plan_rollback, EITHER, "first", before=staged),
    "deploy-changed": Case(
        lambda dev: dev.plan_deploy(SECOND), EITHER, before=changed, image=SECOND, holds=nothing_is_lost
    ),
    "shutdown": Case(lambda dev: carrying.plan_carry(dev.survey()), NEW, before=changed_late, holds=nothing_is_lost),
    "first-command": Case(plan_first_command, NEW, before=changed_late, holds=nothing_is_lost),
}


@pytest.mark.parametrize(
    ("loader", "what"),
    [
        *((loader, what) for what in ("deploy", "commit", "rollback") for loader in ("grub", "extlinux")),
        # Where local changes come to is no matter of the boot loader.
        *(("grub", what) for what in ("deploy-changed", "shutdown", "first-command")),
    ],
)
def test_every_cut_leaves_a_whole_system_and_a_way_back(
    tmp_path: Path, loader: str, what: str, record_property: Callable[[str, object], None]
) -> None:
    case = CASES[what]
    folder = tmp_path / f"tb-test-{os.environ['TB_TEST_SESSION']}-crash"
    folder.mkdir()
    base = prepared(folder, loader)
    if case.before is not None:
        with opened(base, folder, loader) as dev:
            case.before(dev)
    with recording.recorder(folder, base) as disk, opened(disk.export, folder, loader) as dev:
        first = disk.count
        dev.run(case.plan(dev), case.image)
        returned = disk.count
    acts = recording.read_log(disk.log)
    chosen = chosen_cuts(acts, first, returned)
    seen: collections.Counter[str] = collections.Counter()
    for cut in chosen:
        state = folder / "state.img"
        recording.build(base, disk.log, acts, cut, state)
        seen[check(state, folder, loader, cut, case)] += 1
    recording.build(base, disk.log, acts, Cut(returned, "all"), folder / "state.img")
    # When the command returned, it is done: nothing of it is still on its way.
    assert check(folder / "state.img", folder, loader, Cut(returned, "all"), case) == case.ends
    assert set(seen) == case.may_boot
    cuts = f"{len(chosen)} cuts among {returned - first} writes and flushes"
    record_property("counted", f"{what}, {loader}: {cuts}: {dict(seen)}")


def chosen_cuts(acts: list[Act], first: int, last: int) -> list[Cut]:
    if os.environ.get("TB_CRASH") == "all":
        return recording.cuts(acts, recording.every_point(first, last))
    points = recording.flushes(acts, first, last)
    return recording.cuts(acts, points[:: -(-len(points) // 16)])


def test_a_loader_that_is_told_carelessly_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary: without bringing each step to where the loader sees it, some cut must leave something broken."""
    folder = tmp_path / f"tb-test-{os.environ['TB_TEST_SESSION']}-canary"
    folder.mkdir()
    base = prepared(folder, "grub")
    monkeypatch.setattr(place, "flush", lambda directory: None)
    monkeypatch.setattr(place, "write_block", place.write_new)
    with recording.recorder(folder, base) as disk, opened(disk.export, folder, "grub") as dev:
        first = disk.count
        dev.run(dev.plan_deploy(SECOND), SECOND)
    monkeypatch.undo()
    acts = recording.read_log(disk.log)
    for cut in reversed(recording.cuts(acts, recording.flushes(acts, first, len(acts)))):
        recording.build(base, disk.log, acts, cut, folder / "state.img")
        try:
            check(folder / "state.img", folder, "grub", cut, CASES["deploy"])
        except (AssertionError, Stop):
            return
    pytest.fail("no cut was found that breaks it")


def check(state: Path, folder: Path, loader: str, cut: Cut, case: Case) -> str:
    """What a state boots; it can be repaired, and gone back from."""
    with opened(state, folder, loader) as dev:
        boots = dev.boots()
        assert boots in case.may_boot, cut
        assert dev.boots("back"), cut
        dev.repair()
        subprocess.run(["sync", "-f", dev.boot], check=True)
        system = dev.survey()
        assert system.default is not None, cut
        assert (dev.top / "snapshots/root/etc/system").read_text() == boots, cut
        case.holds(dev, cut)
        if system.pending is not None:
            dev.run(dev.plan_rollback())
            assert (dev.top / "snapshots/root/etc/system").read_text() == "first", cut
    return boots
