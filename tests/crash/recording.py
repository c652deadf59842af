"""Record what a disk sees - each write, discard and flush, in order - and build what a power cut could leave of it.

A file is exported as a block device through qemu-storage-daemon, whose blklogwrites driver keeps the log.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
LOG_SIZE = 8 << 30


@dataclass(frozen=True)
class Act:
    """One act of the disk: where it wrote how much, and where in the log its data is."""

    at: int
    length: int
    flags: int
    data: int


def read_log(path: Path) -> list[Act]:
    """All acts, in order."""
    acts = []
    with path.open("rb") as file:
        magic, _, count, sector = struct.unpack("<QQQI", file.read(28))
        assert magic == MAGIC
        position = sector
        for _ in range(count):
            file.seek(position)
            at, length, flags, _ = struct.unpack("<QQQQ", file.read(32))
            position += sector
            acts.append(Act(at * sector, length * sector, flags, position))
            if not flags & DISCARD:
                position += length * sector
    return acts


class Recorder:
    """A disk that is being recorded; `export` is the file that it appears as."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.data, self.log, self.export = (folder / name for name in ("recorded.img", "log", "export"))
        subprocess.run(["cp", "--sparse=always", base, self.data], check=True)
        self.log.unlink(missing_ok=True)
        with self.log.open("wb") as file:
            file.truncate(LOG_SIZE)
        self.export.touch()
        self.daemon = subprocess.Popen(
            [
                "qemu-storage-daemon",
                *("--blockdev", f"driver=file,node-name=file,filename={self.data},discard=unmap"),
                *("--blockdev", "driver=raw,node-name=disk,file=file"),
                *("--blockdev", f"driver=file,node-name=logfile,filename={self.log}"),
                *("--blockdev", "driver=raw,node-name=log,file=logfile"),
                *("--blockdev", "driver=blklogwrites,node-name=both,file=disk,log=log,log-super-update-interval=1"),
                *("--export", f"type=fuse,id=export,node-name=both,mountpoint={self.export},writable=on"),
            ]
        )
        limit = time.monotonic() + 30
        while self.export.stat().st_size == 0:
            assert self.daemon.poll() is None, "qemu-storage-daemon ended"
            assert time.monotonic() < limit
            time.sleep(0.02)

    @property
    def count(self) -> int:
        """How many acts there were until now."""
        with self.log.open("rb") as file:
            return int(struct.unpack("<QQQ", file.read(24))[2])

    def close(self) -> None:
        limit = time.monotonic() + 30
        # The loops on it let go a little later than they are told to.
        while subprocess.run(["umount", self.export], capture_output=True).returncode != 0:
            assert time.monotonic() < limit, "the recorded disk stays in use"
            time.sleep(0.05)
        self.daemon.terminate()
        self.daemon.wait(30)
        self.data.unlink()


@contextmanager
def recorder(folder: Path, base: Path) -> Iterator[Recorder]:
    made = Recorder(folder, base)
    try:
        yield made
    finally:
        made.close()


@dataclass(frozen=True)
class Cut:
    """A state that a cut can leave: all acts before `point`, or of those since the last flush only some."""

    point: int
    kind: str
    kept: frozenset[int] | None = None


def flushes(acts: list[Act], first: int, last: int) -> list[int]:
    """The points right before and behind each flush."""
    found = [n for n in range(first, last) if acts[n].flags & (FLUSH | FUA)]
    return sorted({first, last, *found, *(n + 1 for n in found)})


def every_point(first: int, last: int) -> list[int]:
    """The points before each act, and behind the last."""
    return list(range(first, last + 1))


def cuts(acts: list[Act], points: list[int], seed: int = 1) -> list[Cut]:
    """At each point: all that was written, nothing of what was written since the last flush, some of it."""
    chance = random.Random(seed)
    found = []
    for point in points:
        found.append(Cut(point, "all"))
        pending = [n for n in range(_last_flush(acts, point), point) if acts[n].length]
        if pending:
            found.append(Cut(point, "none", frozenset()))
            found.append(Cut(point, "some", frozenset(n for n in pending if chance.random() < 0.5)))
    return found


def _last_flush(acts: list[Act], point: int) -> int:
    for n in range(point - 1, -1, -1):
        if acts[n].flags & (FLUSH | FUA):
            # What came with a plain flush is itself not yet stable.
            return n if acts[n].length and not acts[n].flags & FUA else n + 1
    return 0


def build(base: Path, log: Path, acts: list[Act], cut: Cut, out: Path) -> None:
    """Write the state into `out`."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", base, out], check=True)
    stable = cut.point if cut.kept is None else _last_flush(acts, cut.point)
    chosen = [*range(stable), *sorted(cut.kept or ())]
    source, target = os.open(log, os.O_RDONLY), os.open(out, os.O_WRONLY)
    try:
        for act in (acts[n] for n in chosen):
            if act.flags & DISCARD:
                for at in range(act.at, act.at + act.length, 1 << 20):
                    os.pwrite(target, bytes(min(1 << 20, act.at + act.length - at)), at)
            elif act.length:
                os.pwrite(target, os.pread(source, act.length, act.data), act.at)
    finally:
        os.close(source)
        os.close(target)
