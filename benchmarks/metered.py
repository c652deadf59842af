"""A command of the shell as a whole: its processor time and the most memory that one of its processes held."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Processor time of all processes in seconds, wall time, and peak resident memory of the largest in bytes."""

    cpu: float
    wall: float
    memory: int


def run(command: str) -> Cost:
    """Run a command of bash; RuntimeError with what it said if it fails."""
    with tempfile.TemporaryFile() as said:
        began = os.times().elapsed
        child = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command], stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = os.times().elapsed - began
        if child.returncode != 0:
            said.seek(0)
            raise RuntimeError(
                f"{command}\nended with {child.returncode}:\n{said.read()[-2000:].decode(errors='replace')}"
            )
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024)
