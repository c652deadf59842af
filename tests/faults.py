"""Faults by system call: a command is run once for each call that changes something, and is killed or failed there.

strace counts a process's calls by name; what matters is found by one recorded run of the same command.
"""

from __future__ import annotations

import collections
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
# fmt: off
CHANGING = (
    "openat", "write", "pwrite64", "pwritev", "writev", "sendfile", "copy_file_range", "ioctl", "rename", "renameat",
    "renameat2", "link", "linkat", "symlink", "symlinkat", "mkdir", "mkdirat", "mknod", "mknodat", "unlink",
    "unlinkat", "rmdir", "truncate", "ftruncate", "fallocate", "chmod", "fchmod", "fchmodat", "chown", "lchown",
    "fchown", "fchownat", "utimensat", "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr",
    "fremovexattr", "syncfs", "fsync", "fdatasync", "sync",
)
# fmt: on
# What goes between processes, and to servers; these change nothing in a directory.
TALKING = ("socketpair", "connect", "sendto", "sendmsg", "recvfrom", "recvmsg", "unshare", "setns", "execve")
# Of these two only some change anything.
OPENS_TO_CHANGE = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC)")
IOCTLS_THAT_CHANGE = re.compile(
    r"BTRFS_IOC_(SNAP_CREATE|SUBVOL_CREATE|SNAP_DESTROY|DEFAULT_SUBVOL|SUBVOL_SETFLAGS|SET_RECEIVED)|FICLONE|FS_IOC_SET"
)
LINE = re.compile(r"^(\d+)\s+(\w+)\((.*)$")


@dataclass(frozen=True)
class Call:
    """The `count`-th call of that name in the command's process."""

    name: str
    count: int
    text: str

    def __str__(self) -> str:
        return f"{self.name} #{self.count}: {self.text[:150]}"


@dataclass(frozen=True)
class Ended:
    """How the command ended; `code` is negative where a signal ended it."""

    code: int
    out: str
    err: str


def record(command: Sequence[str], under: Path, also: Sequence[str] = ()) -> tuple[Ended, list[Call]]:
    """Run the command to its end; all its calls that change something in the directory `under`, in order.

    Those that are named in `also` are among them whatever they do.
    """
    with tempfile.NamedTemporaryFile("r", errors="backslashreplace") as trace:
        ended = _run(command, "-y", "-s", "4096", "-e", f"trace={','.join((*CHANGING, *also))}", "-o", trace.name)
        lines = list(trace)
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    calls = []
    for line in lines:
        if match := LINE.match(line):
            process, name, text = match.groups()
            counts[process, name] += 1
            if name in also or _matters(name, text, os.fspath(under)):
                calls.append(Call(name, counts[process, name], text))
    if not calls:
        raise RuntimeError(f"strace saw no call in {under}: {ended.err}")
    return ended, calls


def _matters(name: str, text: str, under: str) -> bool:
    if under not in text:
        return False
    if name == "openat":
        return bool(OPENS_TO_CHANGE.search(text))
    return name != "ioctl" or bool(IOCTLS_THAT_CHANGE.search(text))


def kill_at(call: Call, command: Sequence[str]) -> Ended:
    """Run the command; SIGKILL takes it when it enters the call, which does not happen any more."""
    return _run(command, *_tamper(call, "signal=KILL"))


def fail_at(call: Call, command: Sequence[str], error: str) -> Ended:
    """Run the command; the call fails with `error` (EIO, ENOSPC) and does nothing."""
    return _run(command, *_tamper(call, f"error={error}"))


def _tamper(call: Call, how: str) -> list[str]:
    return ["-e", f"trace={call.name}", "-e", f"inject={call.name}:{how}:when={call.count}", "-o", "/dev/null"]


def _run(command: Sequence[str], *options: str) -> Ended:
    # Not --seccomp-bpf, fast as it is: with it strace injects nothing, and says nothing.
    # The same bytecode, hashes and locale in every run, or the counts of calls would not be the same.
    environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["strace", "-f", "-qq", *options, "--", *command],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        cwd=REPOSITORY,
        env=environment,
        timeout=120,
    )
    return Ended(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def some(calls: Sequence[Call], limit: int) -> Iterator[Call]:
    """All calls, or `limit` of them evenly spread, the first and the last among them; TB_FAULTS=all takes all."""
    if os.environ.get("TB_FAULTS") == "all" or len(calls) <= limit:
        yield from calls
        return
    for n in range(limit):
        yield calls[round(n * (len(calls) - 1) / (limit - 1))]


def python(*arguments: str | Path) -> list[str]:
    """The command that runs one of our modules."""
    return [sys.executable, "-m", *map(os.fspath, arguments)]
