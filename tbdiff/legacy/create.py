"""A stream of the legacy format (TBDIFFv0) made out of two trees, for devices that still run the original tool."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from tbdiff.descent import Descent
from tbdiff.entry import Entry, Kind, Listing, printable
from tbdiff.errors import Failed, Rejected
from tbdiff.legacy.commands import EVERYTHING, SECOND, SIZE_MAX, START, Command, Delete, MakeFile, PatchFile, Stated
from tbdiff.legacy.encoding import END, encode
from tbdiff.legacy.plan import Send, steps
from tbdiff.output import appearing, check_place
from tbdiff.overlay import PLAIN_ROOT
from tbdiff.tree import Progress, quiet, read_tree

STEP = 1 << 18

Notice = Callable[[str], None]


def create_legacy(
    base: Path | None, target: Path, out: Path, *, progress: Progress = quiet, notice: Notice | None = None
) -> int:
    """Write to `out` a stream that turns the tree `base` (None: an empty directory) into `target`; return its size.

    The same trees give the same bytes. `notice` is told what of the target the format cannot carry.
    """
    check_place(out, base, target)
    old = read_tree(base, progress=progress, notice=notice) if base else Listing((PLAIN_ROOT,))
    new = read_tree(target, progress=progress, notice=notice)
    try:
        with ExitStack() as stack, appearing(out) as stream:
            trees = [stack.enter_context(Descent(tree)) for tree in (base or target, target)]
            size = _Writing(trees[0], trees[1], stream, progress).write(old, new)
    except OSError as error:
        raise Failed(f"{out} could not be written: {error.strerror}") from error
    for text in lost(old, new):
        if notice:
            notice(text)
    return size


def lost(base: Listing, target: Listing) -> Iterator[str]:
    """What of the target a stream does not carry (pure)."""
    fresh = [entry for entry in target if base.get(entry.path) != entry]
    times = sum(entry.mtime % SECOND != 0 for entry in fresh)
    links = sum(entry.kind is Kind.HARDLINK for entry in fresh)
    known = {entry.digest for entry in base}
    sparse = sum(entry.extents is not None and entry.digest not in known for entry in fresh)
    if times:
        yield f"the legacy format has whole seconds only: {times:,} times are cut"
    if links:
        yield f"the legacy format has no hard links: {links:,} become copies"
    if sparse:
        yield f"the legacy format has no holes: those of {sparse:,} sparse files are filled"


class _Writing:
    """A stream being written."""

    def __init__(self, base: Descent, target: Descent, stream: BinaryIO, progress: Progress) -> None:
        self._base = base
        self._target = target
        self._stream = stream
        self._progress = progress

    def write(self, base: Listing, target: Listing) -> int:
        """All of it; the size."""
        self._stream.write(START)
        for step in steps(base, target):
            if isinstance(step, Send):
                self._send(step)
            else:
                self._stream.write(encode(step))
            self._progress("write", self._stream.tell(), 0)
        self._stream.write(END)
        return self._stream.tell()

    def _send(self, step: Send) -> None:
        new, old = step.new, step.old
        if new.size > SIZE_MAX:
            raise Rejected(
                f"{printable(step.path)!r} has {new.size} bytes, and the legacy format ends at {SIZE_MAX}; "
                "nothing was written",
                "Make an image of the present format: leave out --legacy.",
            )
        if old is not None and old.size > SIZE_MAX:
            self._stream.write(encode(Delete(step.name)))
            old = None
        with self._target.file(new.path) as fd:
            if old is None:
                self._put(MakeFile(step.name, Stated.of(new), new.size), fd, new, 0, new.size)
                return
            start, end, size = old.size, old.size, 0
            if old.digest != new.digest:
                with self._base.file(old.path) as before:
                    start, kept = _common(before, fd, old.size, new.size)
                end, size = old.size - kept, new.size - start - kept
            self._put(PatchFile(step.name, EVERYTHING, Stated.of(new), start, end, size), fd, new, start, size)

    def _put(self, command: Command, fd: int, entry: Entry, start: int, size: int) -> None:
        """A command and the part of a file that belongs to it."""
        self._stream.write(encode(command))
        digest = hashlib.sha256()
        for offset in range(start, start + size, STEP):
            part = os.pread(fd, min(STEP, start + size - offset), offset)
            digest.update(part)
            self._stream.write(part)
        status = os.fstat(fd)
        whole = digest.digest() == entry.digest if size == entry.size else True
        if not whole or (status.st_size, status.st_mtime_ns) != (entry.size, entry.mtime):
            raise Failed(
                f"{printable(entry.path)!r} in {self._target.root} changed while it was read; nothing was written",
                "Read a snapshot of it instead.",
            )


def _common(old: int, new: int, old_size: int, new_size: int) -> tuple[int, int]:
    """How many bytes two files have in common at their beginnings, and behind that at their ends."""
    shorter = min(old_size, new_size)
    start = 0
    while start < shorter:
        size = min(STEP, shorter - start)
        same = _same(os.pread(old, size, start), os.pread(new, size, start))
        start += same
        if same < size:
            break
    kept = 0
    while kept < shorter - start:
        size = min(STEP, shorter - start - kept)
        one, two = os.pread(old, size, old_size - kept - size), os.pread(new, size, new_size - kept - size)
        same = _same(one[::-1], two[::-1])
        kept += same
        if same < size:
            break
    return start, kept


def _same(one: bytes, two: bytes) -> int:
    """How many bytes are the same from the beginning."""
    if one == two:
        return len(one)
    low, high = 0, min(len(one), len(two))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == two[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
