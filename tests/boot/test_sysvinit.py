"""A Debian whose init is not systemd, in real boots: the init script lets what is on trial be kept, or left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tbdiff.create import Label, create_image
from tbdiff.image import open_image
from tests.boot import debian, disk
from tests.boot.debian import run
from tests.boot.disk import Golden
from tests.boot.machine import Machine
from tests.boot.test_boots import came_back, status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

# What systemd does for it elsewhere.
STARTER = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
until [ -e /dev/virtio-ports/tb.agent ]; do sleep 1; done
exec agent
"""


def make_images(top: Path, golden: Golden) -> Iterator[str]:
    """v2 with another init, and the same where a check fails; their names."""
    current, tree = top / "snapshots/current", top / "work/sysvinit"
    run("btrfs", "subvolume", "snapshot", current, tree)
    with open_image(str(top / "@data/good.tbdiff")) as opened:
        opened.apply(tree)
    with debian.online(tree, pypi=False) as inside:
        inside("apt-get", "update")
        inside("apt-get", "install", "--yes", "--no-install-recommends", "sysvinit-core", "orphan-sysvinit-scripts")
        inside("update-rc.d", "tb-update", "defaults")
        inside("apt-get", "clean")
    starter = tree / "usr/local/sbin/starter"
    starter.write_text(STARTER)
    starter.chmod(0o755)
    with (tree / "etc/inittab").open("a") as table:
        table.write("ag:2345:respawn:/usr/local/sbin/starter\n")
    for name, script in (("init", None), ("sickinit", "#!/bin/sh\necho it does not answer\nexit 1\n")):
        if script is not None:
            check = tree / "usr/lib/tb-update/required.d/10-application"
            check.parent.mkdir(parents=True)
            check.write_text(script)
            check.chmod(0o755)
        label, key = Label(name="demo", release=f"2.{name}"), golden.image.with_name("builder")
        create_image(current, tree, top / f"@data/{name}.tbdiff", label=label, key=key, effort="fast")
        yield name
    run("btrfs", "subvolume", "delete", tree)


def test_the_init_script_commits_what_works_and_leaves_what_does_not(machine: Machine, grub_disk: Golden) -> None:
    with disk.partitions(machine.disk, machine.disk.parent) as (_, top):
        good, sick = make_images(top, grub_disk)
    left = disk.deploy(grub_disk, machine.disk, sick)
    machine.start()
    # It says no more than that it is up: it is left at once.
    machine.expect("INIT: Entering runlevel: 2")
    machine.wait_end()
    machine.start()
    came_back(machine, grub_disk, left, "the required check 10-application failed: it does not answer")
    machine.switch_off()

    disk.deploy(grub_disk, machine.disk, good)
    machine.start()
    assert machine.up() == "v2"
    assert machine.run("cat /proc/1/comm").strip() == "init"
    assert machine.run("uname -r").strip() == grub_disk.kernels[1]
    machine.run("until tb-update status --json | grep -q '\"tries\": null'; do sleep 1; done")
    said = status(machine)
    assert said["booted"] == said["committed"]
    # When it stops, it lets what changed since a deploy come along.
    machine.run("ls /etc/rc6.d/K*tb-update; sh -x /etc/init.d/tb-update stop 2>&1 | grep 'tb-update carry'")
    machine.ask("reboot")
    machine.wait_end()
