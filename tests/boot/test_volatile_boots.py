"""A root that is made anew at each boot, on a real Debian: over clean reboots, power cuts, an update and back."""

from __future__ import annotations

import json

import pytest

from tests.boot.machine import Machine

pytestmark = [pytest.mark.slow, pytest.mark.journey, pytest.mark.timeout(4800)]

CONFIG = "/etc/tb-update/config.toml"
SWITCH_ON = f"printf '[local]\\nvolatile = true\\n' >>{CONFIG}; echo kiosk >/etc/hostname"
SPOIL = "echo unsaved >/etc/hostname; echo x >/etc/junk; echo x >/usr/junk; sync"
LEFT = "hostname; cat /etc/hostname; ls -d /etc/junk /usr/junk 2>/dev/null; true"


def test_the_cycle_over_reboots(machine: Machine) -> None:
    machine.start()
    assert machine.settle() == "v1"
    machine.run(SWITCH_ON)
    assert "volatile is set, but not" in machine.run("tb-update doctor", code=None)
    assert "made anew each time" in machine.run("tb-update changes save")
    machine.run(SPOIL)
    assert machine.reboot() == "v1"
    assert machine.run(LEFT) == "kiosk\nkiosk\n"
    assert machine.run("cat /run/tb-update/made-of").strip().endswith(".saved.000001")
    findings = json.loads(machine.run("tb-update doctor --json", code=None))["findings"]
    assert "volatile" not in [one["name"] for one in findings]
    names = machine.run("mount -o subvolid=5 LABEL=system /mnt; ls /mnt/snapshots; umount /mnt").split()
    assert [name for name in names if name == "root" or name.endswith(".root")] == ["root"]

    machine.run("echo cabin >/etc/hostname; tb-update changes save; echo x >/etc/junk")
    machine.run("tb-update deploy /data/good.tbdiff; echo late >/etc/late; tb-update changes save; rm /etc/late")
    assert machine.reboot() == "v2"
    said = json.loads(machine.run("tb-update status --json"))
    assert said["booted"] == said["committed"]
    assert not said["interrupted"]
    assert said["volatile"]["saved"] is not None
    # What was saved is there from the first moment: systemd has read it.
    assert machine.run("hostname; cat /etc/late") == "cabin\nlate\n"
    machine.run("rm -rf /etc /usr/lib/systemd; sync", code=None)
    machine.cut()
    machine.start()
    assert machine.settle() == "v2"
    assert machine.run("hostname; cat /etc/late") == "cabin\nlate\n"

    machine.run("tb-update rollback")
    assert machine.reboot() == "v1"
    assert machine.run("hostname").strip() == "cabin"
    machine.run("tb-update --yes changes drop")
    machine.reboot()
    assert machine.run("hostname").strip() != "cabin"
