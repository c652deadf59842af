"""Directories in memory, where there is enough: file systems on loop devices in them wait for no disk.

What a disk loses when the power goes is the part of tests/crash, which reads what was written and flushed from a log.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

# What the tests of three workers hold at once is a quarter of it.
NEEDED = 12 << 30
PLACE = "TB_TEST_MEMORY"


def lay_out() -> None:
    """Let this process, and those that it starts, have a place in memory."""
    if PLACE in os.environ or _available() < NEEDED:
        return
    # Short: paths of sockets in it have little room.
    place = tempfile.mkdtemp(prefix="tb-")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={NEEDED},mode=1777,nr_inodes=0", "tmpfs", place], check=True)
    os.environ[PLACE] = place


def clear_away() -> None:
    """Take it away; what is still in use of it goes with the last process of this mount namespace."""
    place = os.environ.pop(PLACE, None)
    if place is not None:
        subprocess.run(["umount", "--lazy", place], check=True)
        os.rmdir(place)


def directory(name: str) -> Path:
    """A new directory for the tests of this session, in memory if there is room; whoever asked for it removes it."""
    return Path(tempfile.mkdtemp(prefix=f"tb-test-{os.environ['TB_TEST_SESSION']}-{name}", dir=os.environ.get(PLACE)))


def _available() -> int:
    found = re.search(r"MemAvailable: +([0-9]+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) << 10 if found else 0
