"""Deployments with their kernels, on a real Btrfs and a real /boot: whole, and cut after every step."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tbdiff.create import create_image
from tbdiff.errors import Failed, NothingToDo, Rejected
from tbdiff.image import open_image
from tbupdate import conversion, doctor, perform, planning, status, upkeep
from tbupdate.boot import finder
from tbupdate.boot.chooser import Choice
from tbupdate.boot.inplace import InPlace
from tbupdate.config import Config
from tbupdate.steps import Plan
from tests import bootable, bootpart, device, journals, rig, schemas
from tests.bootable import Device
from tests.conftest import MakeBtrfs
from tests.device import NOW, TinyImage

pytestmark = pytest.mark.slow

LOADERS = ("grub", "extlinux", "u-boot", "flash-kernel", "systemd-boot")
SECOND = TinyImage("second", "2.0", failure=bootable.bootable("6.1.0-2"))
THIRD = TinyImage("third", "3.0", failure=bootable.bootable("6.1.0-3"))
SAME_KERNEL = TinyImage("like first", "1.1", failure=bootable.bootable("6.1.0-1"))


@contextmanager
def a_device(make_btrfs: MakeBtrfs, tmp_path: Path, loader: str, size: int = 64 << 20) -> Iterator[Device]:
    folder = tmp_path / f"tb-test-{os.environ['TB_TEST_SESSION']}-{loader}-{device.fresh_id()}"
    folder.mkdir()
    with bootpart.partition(folder, loader, size) as (boot, image):
        yield bootable.initialised(make_btrfs(512 << 20), boot, image)


@pytest.fixture(params=LOADERS)
def dev(request: pytest.FixtureRequest, make_btrfs: MakeBtrfs, tmp_path: Path) -> Iterator[Device]:
    with a_device(make_btrfs, tmp_path, request.param) as made:
        yield made


def settled(dev: Device) -> None:
    """The layout, and /boot: an entry for each deployment but those older than the chooser, no set without an entry."""
    device.check_settled(dev.top)
    system = dev.survey()
    assert upkeep.plan_repair(system, NOW).every_step == ()
    assert system.default_root is not None
    assert system.default_root.id == system.default_id
    assert system.boot is not None
    ids = {kept.id for kept in system.deployments}
    assert system.boot.entries == ids
    assert dev.sets() == {entry.kernels for entry in dev.chooser.entries().values()}
    assert set(system.tries) <= {kept.id for kept in (system.pending,) if kept is not None}


def test_deploy_commit_rollback(dev: Device) -> None:
    first = dev.survey().marks.good
    assert dev.boots() == "first"
    second = dev.deploy(SECOND)
    assert dev.boots() == "second"
    assert dev.chooser.choice() == Choice(first or "", second, 3, first)
    settled(dev)
    dev.run(dev.plan_commit())
    assert dev.chooser.choice() == Choice(second, back=first)
    settled(dev)
    dev.run(dev.plan_rollback())
    assert dev.boots() == "first"
    assert dev.chooser.choice() == Choice(first or "", back=second)
    settled(dev)


def test_deployments_share_a_kernel_that_is_the_same(dev: Device) -> None:
    before = dev.sets()
    dev.deploy(SAME_KERNEL)
    assert dev.boots() == "like first"
    assert dev.sets() == before
    settled(dev)


def test_two_deploys_before_one_boot(dev: Device) -> None:
    dev.deploy(SECOND)
    third = dev.deploy(THIRD)
    assert dev.boots() == "third"
    settled(dev)
    dev.run(dev.plan_rollback())
    assert dev.boots() == "first"
    dev.run(upkeep.plan_remove(dev.survey(), third, NOW))
    settled(dev)
    assert len(dev.sets()) == 2


def test_kernels_go_with_the_last_deployment_that_needs_them(dev: Device) -> None:
    first = dev.survey().marks.good
    for image in (SAME_KERNEL, SECOND, THIRD):
        dev.deploy(image)
        dev.run(dev.plan_commit())
    assert len(dev.sets()) == 3
    dev.run(upkeep.plan_remove(dev.survey(), first or "", NOW))
    assert len(dev.sets()) == 3
    dev.run(upkeep.plan_prune(dev.survey(), 1, NOW))
    assert len(dev.sets()) == 2
    settled(dev)


# --- systems that cannot boot ----------------------------------------------------------------------------------------


def spoiled(*commands: Callable[[Path], None]) -> TinyImage:
    def dress(tree: Path) -> None:
        bootable.bootable("6.1.0-2")(tree)
        for command in commands:
            command(tree)

    return TinyImage("spoiled", "2.0", failure=dress)


def without_initrd(tree: Path, tool: str) -> None:
    """A system that has no initrd, but a tool; and enough of this machine's programs to run it."""
    (tree / "boot/initrd.img-6.1.0-2").unlink()
    for directory in ("proc", "sys", "dev", "run", "tmp", "var/tmp", "bin"):
        (tree / directory).mkdir(parents=True, exist_ok=True)
    busybox = shutil.which("busybox") or ""
    shutil.copy(busybox, tree / "bin/busybox")
    needed = subprocess.run(["ldd", busybox], capture_output=True, text=True).stdout
    for library in re.findall(r"(/\S+)", needed):
        (tree / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, tree / library[1:])
    (tree / "bin/sh").symlink_to("busybox")
    (tree / "usr/sbin/mkinitramfs").write_text(f"#!/bin/sh\n{tool}\n")
    (tree / "usr/sbin/mkinitramfs").chmod(0o755)


def test_an_initrd_is_made_where_the_system_has_none(dev: Device) -> None:
    def dress(tree: Path) -> None:
        bootable.bootable("6.1.0-2")(tree)
        # What the tool leaves behind elsewhere is not seen in the system.
        tool = 'echo x >/tmp/x; echo x >/run/x; echo x >/var/tmp/x; test "$3" = 6.1.0-2 && busybox cp /made "$2"'
        without_initrd(tree, tool)
        (tree / "made").write_bytes(bootable.INITRD + b"6.1.0-2")

    image = TinyImage("bare", "2.0", failure=dress)
    second = dev.deploy(image)
    kernels = dev.chooser.entries()[second].kernels
    assert (dev.boot / "tb-update" / kernels / "initrd").read_bytes() == bootable.INITRD + b"6.1.0-2"
    assert dev.boots() == "bare"
    assert not list((dev.top / "snapshots" / second / "tmp").iterdir())
    settled(dev)


REJECTED = [
    ("no kernel that fits", lambda tree: (tree / "boot/vmlinuz-6.1.0-2").unlink()),
    ("no kernel that fits", lambda tree: (tree / "boot/vmlinuz-6.1.0-2").rename(tree / "boot/vmlinuz-6.1.0-3")),
    ("no modules", lambda tree: shutil.rmtree(tree / "usr/lib/modules/6.1.0-2")),
    ("no initrd", lambda tree: (tree / "boot/initrd.img-6.1.0-2").unlink()),
    ("no init$", lambda tree: (tree / "usr/sbin/init").unlink()),
    ("no init$", lambda tree: (tree / "usr/sbin/init").chmod(0o644)),
    ("could not make an initrd.*: no room", lambda tree: without_initrd(tree, "echo no room >&2; exit 1")),
    ("could not make an initrd", lambda tree: without_initrd(tree, "exit 0")),
    ("is damaged", lambda tree: without_initrd(tree, 'printf 07070100000000 >"$2"')),
    ("does not contain", lambda tree: (tree / "boot/initrd.img-6.1.0-2").write_bytes(bootable.archive("init"))),
    ("unknown way", lambda tree: (tree / "boot/initrd.img-6.1.0-2").write_bytes(b"not an initrd")),
    ("is damaged", lambda tree: (tree / "boot/initrd.img-6.1.0-2").write_bytes(b"\x1f\x8b\x08\0" + b"x" * 99)),
]


@pytest.mark.parametrize(("words", "spoil"), REJECTED, ids=[f"{n}" for n in range(len(REJECTED))])
def test_a_system_that_cannot_boot_is_rejected(
    make_btrfs: MakeBtrfs, tmp_path: Path, words: str, spoil: Callable[[Path], None]
) -> None:
    with a_device(make_btrfs, tmp_path, "grub") as dev:
        before = dev.survey()
        image = spoiled(spoil)
        with pytest.raises(Rejected, match=words) as refused:
            dev.run(dev.plan_deploy(image), image)
        assert refused.value.remedy or "damaged" in words
        assert dev.survey().deployments == before.deployments
        assert dev.boots() == "first"
        settled(dev)


def test_a_full_boot_partition_is_said_before_anything_is_written(make_btrfs: MakeBtrfs, tmp_path: Path) -> None:
    with a_device(make_btrfs, tmp_path, "grub", 8 << 20) as dev:
        image = TinyImage("big", "2.0", failure=bootable.bootable("6.1.0-2", 20 << 20))
        before = sorted(dev.boot.rglob("*"))
        with pytest.raises(Rejected, match="not enough space"):
            dev.run(dev.plan_deploy(image), image)
        assert sorted(dev.boot.rglob("*")) == before
        assert dev.boots() == "first"
        settled(dev)
        dev.deploy(SECOND)
        assert dev.boots() == "second"


def test_room_on_boot_is_looked_for_before_any_content_is_read(make_btrfs: MakeBtrfs, tmp_path: Path) -> None:
    """The image ends in bytes that are wrong: whoever read that far would say so."""
    trees = [tmp_path / "one", tmp_path / "two"]
    for tree, size in zip(trees, (9 << 20, 20 << 20), strict=True):
        bootable.bootable("6.1.0-2", size)(tree)
        (tree / "etc").mkdir(exist_ok=True)
        (tree / "etc/system").write_text(tree.name)
        # Bytes that stay as many when they are packed.
        (tree / "boot/vmlinuz-6.1.0-2").write_bytes(random.Random(size).randbytes(size))
    with a_device(make_btrfs, tmp_path, "grub", 24 << 20) as dev:
        for tree, words in ((trees[1], "not enough space on .*/boot"), (trees[0], "damaged")):
            path = tmp_path / f"{tree.name}.tbdiff"
            create_image(None, tree, path)
            with path.open("r+b") as file:
                file.seek(-100, os.SEEK_END)
                file.write(b"x" * 50)
            before = sorted(dev.boot.rglob("*"))
            with (
                open_image(str(path), None, unsigned_ok=True) as image,
                pytest.raises((Rejected, Failed), match=words) as ended,
            ):
                plan = planning.plan_deploy(dev.survey(), image.manifest, device.offer("x", allow_downgrade=True))
                perform.perform(plan, dev.site(image), NOW)
            assert "nothing was changed" in str(ended.value) or words == "damaged"
            assert sorted(dev.boot.rglob("*")) == before
            settled(dev)


def test_what_failed_before_is_not_installed_again_by_itself(dev: Device) -> None:
    dev.deploy(SECOND)
    tree = dev.survey().default.record.tree  # type: ignore[union-attr]
    dev.run(dev.plan_rollback())
    again = TinyImage("second", "2.0", failure=bootable.bootable("6.1.0-2"))
    again.manifest = again.manifest.model_copy(
        update={"target": again.manifest.target.model_copy(update={"tree": tree})}
    )
    with pytest.raises(Rejected, match="failed here before"):
        dev.plan_deploy(again)
    dev.deploy(again, again=True)


# --- what the loader and the hook do by themselves --------------------------------------------------------------------


def chooser_of(dev: Device) -> InPlace:
    assert isinstance(dev.chooser, InPlace)
    return dev.chooser


def test_a_trial_whose_tries_the_loader_used_up(dev: Device) -> None:
    first = dev.survey().marks.good
    second = dev.deploy(SECOND)
    dev.chooser.choose(Choice(first or "", second, 0, first))
    assert dev.survey().default.id == first  # type: ignore[union-attr]
    dev.repair()
    system = dev.survey()
    assert "initramfs was never reached" in system.marks.bad[second]
    assert dev.chooser.choice() == Choice(first or "", back=None)
    settled(dev)


def test_a_trial_that_the_hook_gave_up(dev: Device) -> None:
    first = dev.survey().marks.good
    second = dev.deploy(SECOND)
    ours = dev.boot / "tb-update"
    (ours / "note").write_bytes(f"{second}: it has no init".ljust(1023).encode() + b"\n")
    if dev.chooser.name == "systemd-boot":
        # It goes back by its own counting.
        dev.chooser.choose(Choice(first or "", second, 0, first))
    else:
        (ours / "choice").write_bytes((ours / "back").read_bytes())
    dev.repair()
    assert dev.survey().marks.bad[second] == "it has no init"
    assert dev.chooser.note() == ""
    assert dev.survey().default.id == first  # type: ignore[union-attr]
    settled(dev)
    events = [line for line in (dev.top / "tb-update/history.jsonl").read_text().splitlines() if "fallback" in line]
    assert len(events) == 1
    assert "it has no init" in events[0]


def test_what_the_boot_logged_that_failed_is_kept(make_btrfs: MakeBtrfs, tmp_path: Path) -> None:
    with a_device(make_btrfs, tmp_path, "grub") as dev:
        first = dev.survey().marks.good
        second = dev.deploy(SECOND)
        root = next(kept for kept in dev.survey().deployments if kept.id == second).roots[0]
        lines = [journals.started(second), *(f"line {n}" for n in range(50)), "it hangs here"]
        journals.write_journal(dev.top / "snapshots" / root.name, {"7": lines})
        dev.chooser.choose(Choice(first or "", second, 0, first))
        told = ["--top", str(dev.top), "--boot", str(dev.boot)]
        tb_update = [sys.executable, "-m", "tbupdate", *told]
        # Any command that changes something finds out; this one has nothing else to do.
        assert subprocess.run([*tb_update, "prune"], capture_output=True).returncode == 4
        said = subprocess.run([*tb_update, "status"], capture_output=True, text=True, check=True).stdout
        assert f"failed:       {second}: its kernel came to nothing" in said
        assert f"on the boot {'7' * 32}, which logged last at" in said
        assert re.search(r"\| .*it hangs here\n", said)
        status = json.loads(subprocess.run([*tb_update, "status", "--json"], capture_output=True).stdout)
        schemas.hold("tb-update", ("status",), status)
        failed = status["failed"]
        assert (failed["id"], failed["boot"]) == (second, "7" * 32)
        assert len(failed["log"]) == 40
        assert failed["log"][-1].endswith("it hangs here")
        events = subprocess.run([*tb_update, "history"], capture_output=True, text=True, check=True).stdout
        assert f"boot {'7' * 32}" in events
        assert "it hangs here" in events


# --- doctor and status ------------------------------------------------------------------------------------------------


def findings(dev: Device) -> dict[str, doctor.Finding]:
    return {one.name: one for one in doctor.examine(dev.survey(), dev.site(), str(dev.boot), Config())}


def test_doctor_says_what_the_boot_loader_covers(dev: Device) -> None:
    found = findings(dev)
    assert found["coverage"].notice
    assert dev.chooser.name in found["coverage"].problem.lower()
    assert not {"chooser", "entry", "default"} & set(found)
    subprocess.run(["btrfs", "subvolume", "set-default", dev.top], check=True, stdout=subprocess.DEVNULL)
    assert not findings(dev)["default"].notice
    dev.repair()
    assert "default" not in findings(dev)
    for kept in dev.survey().deployments:
        dev.chooser.forget(kept.id)
    if dev.chooser.name != "systemd-boot":
        assert not findings(dev)["entry"].notice


def test_doctor_finds_what_was_written_anew_and_init_puts_it_right(make_btrfs: MakeBtrfs, tmp_path: Path) -> None:
    with a_device(make_btrfs, tmp_path, "extlinux") as dev:
        dev.deploy(SECOND)
        assert "leads" not in findings(dev)
        (dev.boot / "extlinux/extlinux.conf").write_text(bootpart.EXTLINUX_CONF)
        assert not findings(dev)["leads"].notice
        before = dev.chooser.choice()
        dev.run(bootable.plan_init(dev))
        assert "leads" not in findings(dev)
        assert dev.chooser.choice() == before
        settled(dev)


def test_doctor_says_that_nobody_was_told(make_btrfs: MakeBtrfs, tmp_path: Path) -> None:
    with a_device(make_btrfs, tmp_path, "grub") as dev:
        dev.chooser.take_down()
        assert "does not know of tb-update" in findings(dev)["chooser"].problem


def test_status_counts_the_tries(dev: Device) -> None:
    assert status.tries_left(dev.survey()) is None
    dev.deploy(SECOND)
    assert status.tries_left(dev.survey()) == 3
    assert "3 tries left" in "\n".join(status.summary(dev.survey()))
    fields = status.boot_fields(dev.survey())
    assert fields is not None
    assert (fields["chooser"], fields["tries"]) == (dev.chooser.name, 3)


# --- back to how it was installed ------------------------------------------------------------------------------------


def plan_undo(dev: Device) -> Plan:
    return conversion.plan_undo(dev.survey(), conversion.TOP)


def test_init_can_be_undone_until_the_first_deploy(dev: Device) -> None:
    kept = {path: path.read_bytes() for path in dev.top.rglob("etc/*") if "snapshots" not in path.parts}
    loader = [
        path for path in dev.boot.rglob("*") if path.suffix in (".cfg", ".conf") and "tb-update" not in path.parts
    ]
    # In the boot script of flash-kernel our part stays, and does nothing where there is no choice.
    assert dev.chooser.name == "flash-kernel" or any(b"tb-update" in path.read_bytes() for path in loader)
    dev.run(plan_undo(dev))
    assert {path: path.read_bytes() for path in dev.top.rglob("etc/*")} == kept
    assert not (dev.boot / "tb-update").exists()
    assert not any(b"tb-update" in path.read_bytes() for path in loader if path.exists())
    assert not dev.survey().has_snapshots
    assert dev.survey().default_id == 5
    dev.run(bootable.plan_init(dev))
    assert dev.boots() == "first"
    dev.deploy(SECOND)
    with pytest.raises(Rejected, match="deployed since"):
        plan_undo(dev)


@pytest.mark.parametrize("count", range(8))
def test_an_undo_that_is_cut_can_be_done_again(make_btrfs: MakeBtrfs, tmp_path: Path, count: int) -> None:
    with a_device(make_btrfs, tmp_path, "grub") as dev:
        dev.run_first(plan_undo(dev), count)
        dev.run(plan_undo(dev))
        assert not dev.survey().has_snapshots
        assert (dev.top / "etc/system").read_text() == "first"


# --- a layout that is older than the chooser -------------------------------------------------------------------------


def test_a_chooser_can_come_later(make_btrfs: MakeBtrfs, tmp_path: Path) -> None:
    folder = tmp_path / f"tb-test-{os.environ['TB_TEST_SESSION']}-later"
    folder.mkdir()
    top = make_btrfs(512 << 20)
    bootable.bootable("6.1.0-1")(top)
    device.initialised(top)
    device.deploy(top, SECOND)
    device.commit(top)
    with bootpart.partition(folder, "grub") as (boot, image):
        chooser = finder.find_chooser("grub", str(boot), running=False)
        assert chooser is not None
        dev = Device(top, boot, image, chooser)
        dev.run(bootable.plan_init(dev))
        assert dev.boots() == "second"
        with pytest.raises(NothingToDo):
            bootable.plan_init(dev)
        dev.run(dev.plan_rollback())
        assert dev.boots() == "first"
        settled(dev)


# --- cut after every step --------------------------------------------------------------------------------------------


def staged(dev: Device) -> None:
    dev.deploy(SECOND)


def committed(dev: Device) -> None:
    dev.deploy(SECOND)
    dev.run(dev.plan_commit())


def many(dev: Device) -> None:
    committed(dev)
    dev.deploy(THIRD)
    dev.run(dev.plan_commit())


CUTS: list[tuple[str, Callable[[Device], None] | None, Callable[[Device], Plan], TinyImage | None, set[str]]] = [
    ("deploy", None, lambda dev: dev.plan_deploy(SECOND), SECOND, {"first", "second"}),
    ("deploy over staged", staged, lambda dev: dev.plan_deploy(THIRD), THIRD, {"second", "third"}),
    ("commit", staged, Device.plan_commit, None, {"second"}),
    ("rollback of staged", staged, Device.plan_rollback, None, {"second", "first"}),
    ("rollback", committed, Device.plan_rollback, None, {"second", "first"}),
    ("prune", many, lambda dev: upkeep.plan_prune(dev.survey(), 1, NOW), None, {"third"}),
]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(("what", "before", "plan", "image", "may_boot"), CUTS, ids=[cut[0] for cut in CUTS])
def test_every_cut_boots_a_whole_pair_and_is_repaired(
    tmp_path: Path,
    loader: str,
    what: str,
    before: Callable[[Device], None] | None,
    plan: Callable[[Device], Plan],
    image: TinyImage | None,
    may_boot: set[str],
) -> None:
    folder = tmp_path / f"tb-test-{os.environ['TB_TEST_SESSION']}-cut"
    folder.mkdir()
    golden = folder / "golden.btrfs"
    rig.formatted(golden, 320 << 20)
    with rig.mounted(golden) as top, bootpart.partition(folder, loader) as (boot, boot_image):
        dev = bootable.initialised(top, boot, boot_image)
        if before is not None:
            before(dev)
        steps = len(plan(dev).every_step)
    seen = set()
    for count in range(steps + 1):
        top_image = rig.copied(golden, folder / "cut.btrfs")
        boot_image = rig.copied(folder / "boot.ext4", folder / "cut.ext4")
        with rig.mounted(top_image) as top, bootpart.mounted(boot_image, folder / "cut-boot") as boot:
            dev = Device(top, boot, boot_image, bootpart.chooser(boot, loader))
            planned = plan(dev)
            dev.run_first(planned, count, image)
            boots = dev.boots()
            seen.add(boots)
            dev.repair()
            assert dev.boots() == boots, (what, count)
            settled(dev)
            if count % 5 == 0 and dev.survey().pending is None:
                dev.deploy(TinyImage("last", "9.0", failure=bootable.bootable("6.1.0-9")))
                assert dev.boots() == "last"
    assert seen == may_boot
    print(f"{what}, {loader}: {steps + 1} cuts")


def test_a_failing_boot_partition_fails_and_leaves_the_old_system(dev: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    from tbupdate.boot import place

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(place, "write_new", broken)
    with pytest.raises(Failed, match="boot entry"):
        dev.deploy(SECOND)
    monkeypatch.undo()
    assert dev.boots() == "first"
    settled(dev)
