"""The names of subvolumes change also where they are mount points: in a service that systemd keeps in name spaces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.console import REPOSITORY

# As systemd does it: all that is mounted is mounted once more, and moved onto the root.
SERVICE = """
set -e
mount -o subvol=root "$1" "$2/root"
mount --bind "$2/root" "$2/root/unit"
mount --move "$2/root/unit" "$2/root"
if mv --no-target-directory root gone 2>/dev/null; then exit 9; fi
exec "$3" -c "$4"
"""
RENAMES = """
import os
from tbupdate import syscalls
top = os.open(".", os.O_RDONLY)
syscalls.exchange(top, "root", "next")
syscalls.rename(top, "next", "old")
try:
    syscalls.rename(top, "old", "root")
except FileExistsError as error:
    assert error.filename == "root"
else:
    raise AssertionError
"""


def test_a_root_that_is_a_mount_point_changes_its_name(btrfs: Path) -> None:
    for name in ("root", "next"):
        subprocess.run(["btrfs", "-q", "subvolume", "create", btrfs / name], check=True)
        (btrfs / name / "is").write_text(name)
    (btrfs / "root/unit").mkdir()
    device = subprocess.run(["findmnt", "-no", "SOURCE", btrfs], capture_output=True, text=True, check=True).stdout
    inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SERVICE, "sh", device.strip(), str(btrfs)]
    done = subprocess.run(
        [*inside, sys.executable, RENAMES],
        cwd=btrfs,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (btrfs / "root/is").read_text() == "next"
    assert (btrfs / "old/is").read_text() == "root"
