"""A terminal for tests: what a program writes to one of so many columns."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path


def on_terminal(command: Sequence[str], columns: int, environment: Mapping[str, str], directory: Path) -> str:
    """All that a program writes until it ends."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    read = b""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment, cwd=directory
    ):
        os.close(theirs)
        while True:
            try:
                some = os.read(ours, 65536)
            except OSError:  # nobody holds the other end any more
                break
            if not some:
                break
            read += some
    os.close(ours)
    return read.decode()
