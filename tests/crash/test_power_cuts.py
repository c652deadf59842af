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
from pathlib import Path

import pytest

from tbdiff.errors import Stop
from tbupdate.boot import finder, place
from tbupdate.steps import Plan
from tests import bootable, bootpart, loops
from tests.bootable import Device
from tests.crash import recording
from tests.crash.recording import Act, Cut
from tests.device import TinyImage

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


CASES: list[tuple[str, Callable[[Device], None] | None, Callable[[Device], Plan], TinyImage | None, set[str]]] = [
    ("deploy", None, lambda dev: dev.plan_deploy(SECOND), SECOND, {"first", "second"}),
    ("commit", staged, Device.plan_commit, None, {"second"}),
    ("rollback", staged, Device.plan_rollback, None, {"first", "second"}),
]


@pytest.mark.parametrize("loader", ["grub", "extlinux"])
@pytest.mark.parametrize(("what", "before", "plan", "image", "may_boot"), CASES, ids=[case[0] for case in CASES])
def test_every_cut_leaves_a_whole_system_and_a_way_back(
    tmp_path: Path,
    loader: str,
    what: str,
    before: Callable[[Device], None] | None,
    plan: Callable[[Device], Plan],
    image: TinyImage | None,
    may_boot: set[str],
    record_property: Callable[[str, object], None],
) -> None:
    folder = tmp_path / f"tb-test-{os.environ['TB_TEST_SESSION']}-crash"
    folder.mkdir()
    base = prepared(folder, loader)
    if before is not None:
        with opened(base, folder, loader) as dev:
            before(dev)
    with recording.recorder(folder, base) as disk, opened(disk.export, folder, loader) as dev:
        first = disk.count
        dev.run(plan(dev), image)
        returned = disk.count
    acts = recording.read_log(disk.log)
    chosen = chosen_cuts(acts, first, returned)
    seen: collections.Counter[str] = collections.Counter()
    for cut in chosen:
        state = folder / "state.img"
        recording.build(base, disk.log, acts, cut, state)
        seen[check(state, folder, loader, cut, may_boot)] += 1
    recording.build(base, disk.log, acts, Cut(returned, "all"), folder / "state.img")
    # When the command returned, it is done: nothing of it is still on its way.
    last = check(folder / "state.img", folder, loader, Cut(returned, "all"), may_boot)
    assert last == ("first" if what == "rollback" else "second")
    assert set(seen) == may_boot
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
            check(folder / "state.img", folder, "grub", cut, {"first", "second"})
        except (AssertionError, Stop):
            return
    pytest.fail("no cut was found that breaks it")


def check(state: Path, folder: Path, loader: str, cut: Cut, may_boot: set[str]) -> str:
    """What a state boots; it can be repaired, and gone back from."""
    with opened(state, folder, loader) as dev:
        boots = dev.boots()
        assert boots in may_boot, cut
        assert dev.boots("back"), cut
        dev.repair()
        subprocess.run(["sync", "-f", dev.boot], check=True)
        system = dev.survey()
        assert system.default is not None, cut
        assert (dev.top / "snapshots/root/etc/system").read_text() == boots, cut
        if system.pending is not None:
            dev.run(dev.plan_rollback())
            assert (dev.top / "snapshots/root/etc/system").read_text() == "first", cut
    return boots
