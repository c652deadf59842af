"""A process that runs one command of tbdiff for a server: it ends with that, comes last, and has so much memory."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
LAST = 19


def main() -> None:
    """Run with the arguments: the id of the parent, the bytes of memory, and the words of the command."""
    parent, memory, words = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("whoever wanted this is gone")
    os.nice(LAST)
    # What is its own; files that it only reads do not count.
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from tbdiff.cli import run  # noqa: PLC0415 - within the limits

    sys.exit(run(words))


if __name__ == "__main__":
    main()
