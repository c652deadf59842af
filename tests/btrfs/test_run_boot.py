"""A new system that a command made, or that was frozen, comes with its kernel to /boot, and boots on trial."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tbdiff.errors import NothingToDo, Rejected
from tbupdate import resetting, upkeep
from tests import bootable, bootpart, device, systems
from tests.bootable import INITRD, Device
from tests.conftest import MakeBtrfs
from tests.device import NOW, check_settled

pytestmark = pytest.mark.slow


@pytest.fixture
def dev(make_btrfs: MakeBtrfs, tmp_path: Path) -> Iterator[Device]:
    """A system that was installed: its kernel lies on the boot partition only."""
    folder = tmp_path / f"tb-test-{os.environ['TB_TEST_SESSION']}-grub"
    folder.mkdir()
    with bootpart.partition(folder, "grub") as (boot, image):
        top = make_btrfs(512 << 20)
        device.make_root(top)
        systems.give_shell(top)
        bootable.bootable("6.1.0-1")(top)
        for name in ("vmlinuz-6.1.0-1", "initrd.img-6.1.0-1"):
            shutil.move(top / "boot" / name, boot / name)
        (boot / "config-6.1.0-1").write_text("CONFIG_BTRFS_FS=y\n")
        (top / "sbin").unlink(missing_ok=True)
        (top / "sbin").symlink_to("usr/sbin")
        made = Device(top, boot, image, bootpart.chooser(boot))
        made.run(bootable.plan_init(made))
        yield made


NEW_KERNEL = """
set -e
ls /boot >/etc/seen
mkdir /usr/lib/modules/6.1.0-2; touch /usr/lib/modules/6.1.0-2/modules.dep
echo 6.1.0-2 >/boot/vmlinuz-6.1.0-2; cp /boot/initrd.img-6.1.0-1 /boot/initrd.img-6.1.0-2
rm -r /usr/lib/modules/6.1.0-1 /boot/*-6.1.0-1
echo second >/etc/system
"""


def test_the_kernel_that_a_command_installs_comes_to_boot(dev: Device) -> None:
    made = systems.plan_run(dev.top, "sh", "-c", NEW_KERNEL, system=dev.survey())
    dev.run(made)
    check_settled(dev.top)
    assert (dev.top / "snapshots/root/etc/seen").read_text().split() == [
        *("config-6.1.0-1", "initrd.img-6.1.0-1", "vmlinuz-6.1.0-1")
    ]
    assert len(dev.sets()) == 2
    system = dev.survey()
    assert system.choice is not None
    assert (system.choice.trial, system.choice.default) == (made.deployment, system.marks.good)
    assert system.staged is not None
    assert system.staged.record is not None
    assert system.staged.record.kernel == "6.1.0-2"
    set_of_new = dev.boot / "tb-update" / dev.chooser.entries()[str(made.deployment)].kernels
    assert (set_of_new / "vmlinuz").read_text() == "6.1.0-2\n"
    dev.run(dev.plan_rollback())
    assert dev.survey().staged is None


def test_what_could_not_boot_is_refused_and_cleared(dev: Device) -> None:
    names, sets = device.names(dev.top), dev.sets()
    for script, why in (
        ("rm -r /usr/lib/modules/*", "no modules"),
        ("rm /boot/vmlinuz-*; echo x >/etc/x", "no kernel"),
        ("echo 070701 >/boot/initrd.img-6.1.0-1", "hook|damaged"),
        ("rm /usr/sbin/init", "no init"),
    ):
        with pytest.raises(Rejected, match=why):
            dev.run(systems.plan_run(dev.top, "sh", "-c", script, system=dev.survey()))
        assert device.names(dev.top) == names
        assert dev.sets() == sets
        check_settled(dev.top)


def test_what_is_frozen_holds_its_kernel_and_can_be_gone_back_to(dev: Device) -> None:
    (dev.top / "snapshots/root/etc/mine").write_text("x")
    made = systems.plan_snapshot(dev.top, system=dev.survey())
    dev.run(made)
    tree = dev.top / "snapshots" / str(made.deployment)
    assert (tree / "boot/vmlinuz-6.1.0-1").exists()
    assert (tree / "boot/initrd.img-6.1.0-1").read_bytes().startswith(INITRD[:8])
    # The same kernel is there once.
    assert len(dev.sets()) == 1
    assert str(made.deployment) in dev.chooser.entries()
    dev.run(dev.plan_rollback(made.deployment))
    assert dev.boots() == "first"
    system = dev.survey()
    assert system.choice is not None
    assert system.choice.trial == made.deployment


def test_run_cut_after_every_step(dev: Device) -> None:
    for count in range(100):
        if count:
            made = systems.plan_run(dev.top, "sh", "-c", NEW_KERNEL, system=dev.survey())
            if count > len(made.every_step):
                return
            dev.run_first(made, count)
            switched = dev.survey().choice.trial == made.deployment  # type: ignore[union-attr]
            dev.repair()
            check_settled(dev.top)
            system = dev.survey()
            assert (system.get(made.deployment) is not None) == switched
            assert (system.staged is not None) == switched
            assert set(dev.chooser.entries()) == {kept.id for kept in system.deployments}
            if switched:
                dev.run(dev.plan_rollback())
                dev.run(upkeep.plan_remove(dev.survey(), str(made.deployment), NOW))
    raise AssertionError("a plan of a hundred steps")


def test_a_reset_boots_a_fresh_root_by_its_own_entry(dev: Device) -> None:
    (dev.top / "snapshots/root/etc/mine").write_text("x")
    first = dev.survey().marks.good
    dev.run(systems.plan_run(dev.top, "sh", "-c", NEW_KERNEL, system=dev.survey()))
    dev.run(dev.plan_commit())
    for count in range(100):
        system = dev.survey()
        plan = resetting.plan_reset(system, resetting.find_target(system, None), NOW)
        if count > len(plan.every_step):
            return
        dev.run_first(plan, count)
        dev.repair()
        check_settled(dev.top)
        system = dev.survey()
        assert system.choice is not None
        assert system.default is not None
        assert system.choice.default == system.default.id
        dev.run(resetting.plan_reset(system, resetting.find_target(system, None), NOW))
        system = dev.survey()
        assert (system.default.id, system.pending) == (first, None)  # type: ignore[union-attr]
        assert not (dev.top / "snapshots/root/etc/mine").exists()
        (dev.top / "snapshots/root/etc/mine").write_text("x")
        with contextlib.suppress(NothingToDo):
            dev.run(upkeep.plan_prune(dev.survey(), 99, NOW))
        dev.run(dev.plan_rollback("run"))
    raise AssertionError("a plan of a hundred steps")
