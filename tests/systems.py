"""A small system with a shell, in which commands can be run: busybox, what it is linked with, and mount points."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tbupdate import freezing, fstab, space
from tbupdate.steps import Plan
from tbupdate.system import System, survey
from tests import device

BUSYBOX = "/bin/busybox"
PROGRAMS = """sh cat echo cp mv rm mkdir ln ls touch chmod chown mount umount sleep id readlink true false kill hostname
grep sed ps dd mkfifo setsid mknod date stat find sync wc"""


def give_shell(tree: Path) -> None:
    """Put busybox and the usual mount points into a tree."""
    for name in ("proc", "sys", "dev", "run", "tmp", "bin", "usr/sbin", "root", "home", "srv", "var/log"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    (tree / "tmp").chmod(0o1777)
    linked = subprocess.run(["ldd", BUSYBOX], capture_output=True, text=True)
    for path in (BUSYBOX, *re.findall(r"(/\S+) \(0x", linked.stdout)):
        place = tree / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    for name in PROGRAMS.split():
        (tree / "bin" / name).symlink_to("busybox")


def initialised(top: Path, table: str = device.FSTAB) -> System:
    """A device like `device.initialised`, in which commands can be run."""
    give_shell(top)
    return device.initialised(top, table)


def wish(top: Path, system: System, *command: str, **more: Any) -> freezing.Wish:
    new, known = device.fresh_id("run"), space.identify(str(top))
    assert known is not None
    root = freezing.source_root(system, over_staged=more.get("over_staged", False))
    lines = fstab.read(str(top / "snapshots" / root.name))
    stands = freezing.stands(lines, system, space.dashed(known.fsid), new)
    return freezing.Wish(new, device.NOW, command=command, stands=stands, **more)


def plan_run(top: Path, *command: str, system: System | None = None, **more: Any) -> Plan:
    system = system or survey(str(top))
    return freezing.plan_run(system, wish(top, system, *command, **more))


def plan_snapshot(top: Path, system: System | None = None, **more: Any) -> Plan:
    system = system or survey(str(top))
    return freezing.plan_snapshot(system, wish(top, system, **more))
