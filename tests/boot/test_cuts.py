"""The power is cut at random moments: of a deploy, of a trial boot, of a rollback by hand, and of one by itself.

Whatever the moment was, a whole system is up afterwards, v1 or v2, under its own kernel, and life goes on from there.
QEMU is killed for it: what the guest had given to its disk is in the file, what it only had in memory is gone. (What a
disk itself may lose is the part of tests/crash.) Moments are counted in what a boot takes of the processor's time, so
they do not depend on what else this computer does. TB_SEED chooses them, TB_CRASH says how many (then also with
an EFI partition).
"""

from __future__ import annotations

import itertools
import os
import random
import secrets
from collections.abc import Callable

import pytest

from tests.boot import disk
from tests.boot.disk import Golden
from tests.boot.machine import Machine
from tests.boot.test_boots import ROOT, status

ASKED = os.environ.get("TB_CRASH", "")
CUTS = 20 if ASKED == "all" else int(ASKED or 3)
LOADERS = ["grub", "efi"] if ASKED else ["grub"]
SEED = os.environ.get("TB_SEED") or secrets.token_hex(4)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200 + 400 * CUTS)]


DEPLOY = "tb-update deploy --again --allow-downgrade /data/good.tbdiff"


class Life:
    """The life of one machine, from cut to cut."""

    def __init__(self, machine: Machine, golden: Golden, *, inside: bool) -> None:
        self.machine = machine
        self.golden = golden
        # Not every kernel that tests run on can write to the disk's file systems.
        self.inside = inside
        self.kernels = dict(zip(("v1", "v2"), golden.kernels, strict=True))
        self.chance = random.Random(SEED)
        self.story: list[str] = []
        self.up()
        self.boot = machine.spent

    def up(self) -> None:
        """Switch it on, again where it starts anew, until it stays up; it is a whole system then."""
        for _ in range(5):
            self.machine.start()
            version = self.machine.settle_or_end()
            if version is not None:
                break
        else:
            pytest.fail(f"it starts anew for ever: {self.story}")
        self.version = version
        said = status(self.machine)
        assert self.machine.run("uname -r").strip() == self.kernels[version], self.story
        assert said["booted"] == said["default"] == said["committed"], (self.story, said)
        assert not said["interrupted"], (self.story, said)

    def cut(self, what: str, boots: float) -> None:
        """Cut the power within the time that so many boots take."""
        moment = self.chance.uniform(0, boots)
        self.machine.cut_at(self.machine.spent + moment * self.boot)
        self.up()
        self.story.append(f"{what}, {moment:.3f} boots: {self.version}")

    def deploy(self) -> None:
        self.machine.tell(DEPLOY)
        self.cut("deploy", 1.5)

    def stage(self, *gone: str) -> None:
        """Let v2 be what boots next, without some of its files; the machine is off then."""
        if self.inside:
            self.machine.run(DEPLOY)
            self.machine.run(f"{ROOT}; rm -f {' '.join(gone)}; cd /; umount /mnt")
            self.machine.switch_off()
            return
        # From outside, as that takes a tenth of the time.
        self.machine.switch_off()
        disk.deploy(self.golden, self.machine.disk, "good")
        with disk.partitions(self.machine.disk, self.machine.disk.parent) as (_, top):
            for name in gone:
                (top / "snapshots/root" / name).unlink()

    def trial(self) -> None:
        self.stage()
        self.machine.start()
        self.cut("trial", 1.2)
        # It has more than one try.
        assert self.version == "v2", self.story

    def fall_back(self) -> None:
        self.stage("usr/lib/systemd/systemd")
        self.machine.start()
        self.cut("fall back", 0.7)
        assert self.version == "v1", self.story

    def roll_back(self) -> None:
        self.machine.tell("tb-update rollback; systemctl reboot; sleep 600")
        self.cut("rollback", 0.8)


@pytest.mark.parametrize("loader", LOADERS)
def test_whatever_the_moment_of_a_cut_a_whole_system_is_up_afterwards(
    loader: str, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    machine = request.getfixturevalue("machine" if loader == "grub" else f"{loader}_machine")
    record_property("counted", f"{CUTS} power cuts in real boots, {loader}: TB_SEED={SEED}")
    life = Life(machine, request.getfixturevalue(f"{loader}_disk"), inside=loader == "efi")
    onward = itertools.cycle((life.deploy, life.trial, life.fall_back))
    for _ in range(CUTS):
        (life.roll_back if life.version == "v2" else next(onward))()
        print(life.story[-1], flush=True)
    if life.version == "v1":
        life.stage()
        life.up()
    assert life.version == "v2"
    machine.run("tb-update verify current")
