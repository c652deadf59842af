"""A command of ours in a process of its own: how it ended, what it said, and the most memory that it held."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

# Not ru_maxrss: that starts with what the parent held when it forked. And nothing is imported that costs memory.
METER = """
import atexit, runpy, sys
def report(path):
    with open("/proc/self/status") as status, open(path, "w") as out:
        out.write(next(line for line in status if line.startswith("VmHWM:")).split()[1])
atexit.register(report, sys.argv[1])
sys.path += sys.argv[2].split(":")
sys.argv = sys.argv[3:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
REPOSITORY = Path(__file__).parents[1]
# Without `site`: what other packages of this computer do at each start of Python is not what ours needs.
START = (sys.executable, "-S", "-c", METER)


@dataclass(frozen=True)
class Ended:
    """How a run ended; `memory` is its peak of resident memory in bytes."""

    code: int
    out: str
    err: str
    memory: int


def run(
    module: str,
    *arguments: str | Path,
    stdin: IO[bytes] | int | None = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run `python -m MODULE ARGUMENTS` and measure it."""
    with tempfile.NamedTemporaryFile("r") as report:
        ended = subprocess.run(
            [*START, report.name, ":".join(filter(None, sys.path)), module, *map(os.fspath, arguments)],
            stdin=stdin,
            capture_output=True,
            cwd=REPOSITORY,
            env={**os.environ, **(environment or {})},
        )
        memory = report.read()
    err = ended.stderr.decode(errors="backslashreplace")
    return Ended(ended.returncode, ended.stdout.decode(errors="backslashreplace"), err, int(memory or 0) * 1024)
