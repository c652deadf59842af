"""A device that looks after itself by its own units, under all that they forbid, over a bad line and a power cut."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tbdiff.create import Label, create_image
from tbdiff.image import open_image
from tbdiff.publish import publish
from tests.boot import disk
from tests.boot.debian import GUEST, run
from tests.boot.disk import Golden
from tests.boot.machine import Machine

pytestmark = [pytest.mark.slow, pytest.mark.journey, pytest.mark.timeout(3600)]

PORT = 8000
CONFIG = f"""
[upgrade]
policy = "ask"
[[source]]
url = "http://127.0.0.1:{PORT}"
"""
APPROVE = """
import socket
with socket.socket(socket.AF_UNIX) as asking:
    asking.connect("/run/tb-update/api")
    asking.sendall(b'{"api": 1, "do": "approve"}\\n')
    print(asking.makefile().readline())
"""


def publish_without_initrd(top: Path, key: Path, version: str) -> None:
    """v3 into a folder, by a delta to v2 and one from there; its initrd has to be made on the device."""
    current, trees, images = top / "snapshots/current", [top / "work/2.0", top / "work/3.0"], []
    run("btrfs", "subvolume", "snapshot", current, trees[0])
    with open_image(str(top / "@data/good.tbdiff")) as opened:
        opened.apply(trees[0])
    (trees[0] / f"boot/initrd.img-{version}").unlink()
    run("btrfs", "subvolume", "snapshot", trees[0], trees[1])
    (trees[1] / "etc/tb-version").write_text("v3\n")
    for base, tree in zip((current, trees[0]), trees, strict=True):
        images.append(top / f"work/{tree.name}.tbdiff")
        create_image(base, tree, images[-1], label=Label(name="demo", release=tree.name), key=key, effort="fast")
    publish(images, top / "@data/www", "stable", key, 30)
    for image in images:
        image.unlink()
    run("btrfs", "subvolume", "delete", *trees)


def serve(machine: Machine, faults: str) -> None:
    machine.run(f"setsid python3 /data/www.py /data/www {PORT} {faults} >/run/www.log 2>&1 </dev/null &")
    machine.run(f"until grep -q {PORT:04X} /proc/net/tcp; do sleep 0.2; done")


def until(machine: Machine, condition: str) -> None:
    """Wait for what takes as long as several of what is asked otherwise."""
    for _ in range(30):
        if machine.run(f"for n in $(seq 20); do {condition} && echo so && break; sleep 2; done").strip():
            return
    raise AssertionError(f"{condition}; {machine.run('journalctl --output cat -u tb-update*')}")


def result(machine: Machine) -> str:
    """How the unit's run ended; that it did well is what systemd says."""
    machine.run("rm -f /run/ended; (systemctl start tb-update-upgrade; echo $? >/run/ended) >/dev/null 2>&1 &")
    until(machine, "test -s /run/ended")
    assert machine.run("cat /run/ended").strip() == "0", machine.run("journalctl --boot -u tb-update-upgrade")
    return str(json.loads(machine.run("tb-update status --json"))["last_run"]["result"])


def test_from_v1_to_v3_as_a_person_agreed(machine: Machine, grub_disk: Golden) -> None:
    newer = grub_disk.kernels[1]
    with disk.partitions(machine.disk, machine.disk.parent) as (_, top):
        publish_without_initrd(top, grub_disk.image.with_name("builder"), newer)
        shutil.copy(GUEST / "www.py", top / "@data")
        (top / "@data/approve.py").write_text(APPROVE)
        config = top / "snapshots/root/etc/tb-update/config.toml"
        config.write_text(config.read_text() + CONFIG)
    machine.start()
    assert machine.settle() == "v1"
    serve(machine, "cut,cut,stall")
    # By hand, and by the fetcher that systemd starts.
    assert "as 2 deltas" in machine.run("tb-update check")
    assert machine.run("systemctl show --value --property MainPID tb-update-fetch").strip() != "0"
    # It asks first.
    assert result(machine) == "waiting"
    assert "demo 3.0" in machine.run("cat /run/motd.d/tb-update")
    # A yes by the local socket lets it begin; the line breaks twice, and then the power.
    machine.run("systemctl start tb-update-api.socket")
    assert json.loads(machine.run("python3 /data/approve.py"))["started"]
    until(machine, "grep -q stall /run/www.log")
    asked = [line.split() for line in machine.run("cat /run/www.log").splitlines()]
    quarter = int(asked[0][2]) // 4
    assert [(fault, int(begin)) for fault, begin, _ in asked] == [("cut", 0), ("cut", quarter), ("stall", 2 * quarter)]
    # Half a minute later it would be on the disk by itself.
    machine.run("sync")
    machine.cut()
    machine.start()
    assert machine.settle() == "v1"
    serve(machine, "on")
    # What came before the cut is not fetched again, and nobody is asked again.
    assert result(machine) == "deployed"
    assert int(machine.run("cat /run/www.log").split()[1]) > quarter
    log = machine.run("journalctl --boot --output cat -u tb-update-upgrade -u tb-update-fetch")
    # It is staged now; with the next run it may reboot.
    machine.run("sed -i '/^policy/a reboot = true' /etc/tb-update/config.toml")
    machine.ask("systemctl start tb-update-upgrade")
    machine.wait_end()
    machine.start()
    assert machine.settle() == "v3"
    assert machine.run("uname -r").strip() == newer
    # What a person does not want is not brought back the next night.
    machine.run("sed -i 's/^reboot.*/reboot = false/' /etc/tb-update/config.toml; tb-update rollback")
    serve(machine, "on")
    assert result(machine) == "nothing"
    status = json.loads(machine.run("tb-update status --json"))
    assert (status["booted"][:4], status["default"] == status["booted"], status["offered"]) == ("3.0-", False, None)
    assert "Traceback" not in log
    # Not even of the root's name, though systemd mounts / on itself for a unit.
    assert [line for line in log.splitlines() if "warning" in line] == []
