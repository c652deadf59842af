"""An image made out of two trees."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tbdiff import labels, wire
from tbdiff.compare import compare
from tbdiff.content import follow, needed, runs, write_patch, write_whole
from tbdiff.delta import find_covers, subtract_bytes, worthwhile
from tbdiff.descent import Descent
from tbdiff.entry import EMPTY, Entry, Listing
from tbdiff.errors import Failed, Rejected
from tbdiff.head import Head
from tbdiff.manifest import Manifest, Target, Way
from tbdiff.pairing import Pairing
from tbdiff.payload import DATA, LABELS, META, Streams, StreamWriter, chunk_table, interleave
from tbdiff.rebuild import Rebuilt, rebuild
from tbdiff.signature import load_private_key
from tbdiff.signing import signed
from tbdiff.tree import Progress, quiet, read_tree

# Data streams hold what is alike, so that it compresses well together.
MACHINE_CODE, TEXT, OTHER = DATA, DATA + 1, DATA + 2
# By stream: how far back a repetition may be, as a power of two. A device holds all windows at once.
WINDOW_LOGS = (20, 20, 20, 22, 22, 21, 21)
LEVELS = {"fast": 3, "default": 9, "best": 19}
STEP = 1 << 20
ENTRY_COST = 1024


@dataclass(frozen=True)
class Label:
    """What an image says about itself: the parts of the manifest that a person chooses."""

    name: str = ""
    release: str | None = None
    device_types: tuple[str, ...] = ()
    epoch: int = 0
    kernel: str | None = None
    initrd: str | None = None
    devicetree: str | None = None


@dataclass
class Tally:
    """How much of the target's contents was stored, and how much of it a device writes anew."""

    done: int = 0
    written: int = field(default=0)


def create_image(
    base: Path | None,
    target: Path,
    out: Path,
    *,
    label: Label | None = None,
    key: Path | None = None,
    effort: str = "default",
    progress: Progress = quiet,
    notice: Callable[[str], None] | None = None,
) -> Manifest:
    """Write to `out` an image that turns a copy of the tree `base` (None: an empty directory) into the tree `target`.

    With `key` both its statements are signed. `out` appears when it is complete; the same trees give the same bytes.
    """
    private = load_private_key(key) if key else None
    if out.is_dir():
        raise Rejected(f"{out} is a directory", "Name a file to write the image to.")
    old = read_tree(base, progress=progress, notice=notice) if base else EMPTY
    new = read_tree(target, progress=progress, notice=notice)
    delta = compare(old, new)
    rebuilt = rebuild(old, delta)
    if rebuilt.target.digest != new.digest:
        raise AssertionError("the delta does not lead to the target")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as place, ExitStack() as stack:
            writers = _stream_writers(Path(place), stack, LEVELS[effort])
            writers[META].write(wire.encode(delta))
            if base:
                writers[LABELS].write(labels.encode(old, delta))
            tally = _Contents(base, target, old, rebuilt, writers, progress).store(stack)
            for writer in writers:
                writer.finish()
            payload = stack.enter_context((Path(place) / "payload").open("w+b"))
            interleave(writers, lambda streams: _as_a_device(streams, old, rebuilt), payload)
            tally.written += ENTRY_COST * (len(delta.edits) + len(delta.adds))
            head = _head(label or Label(), new, old, writers, payload, tally.written)
            if private:
                head = signed(head, private)
            _assemble(head, payload, Path(place) / "image", out)
    except OSError as error:
        raise Failed(f"{out} could not be written: {error.strerror}") from error
    return head.manifest()


def _stream_writers(place: Path, stack: ExitStack, level: int) -> list[StreamWriter]:
    # One worker or many give the same bytes; none at all gives others.
    workers = os.cpu_count() or 1
    return [
        StreamWriter(stack.enter_context((place / str(n)).open("w+b")), level, window_log, workers)
        for n, window_log in enumerate(WINDOW_LOGS)
    ]


class _Contents:
    """The new contents on their way from the target tree into the streams."""

    def __init__(
        self,
        base: Path | None,
        target: Path,
        old: Listing,
        rebuilt: Rebuilt,
        writers: Sequence[StreamWriter],
        progress: Progress,
    ) -> None:
        self.base = base
        self.target = target
        self.old = old
        self.rebuilt = rebuilt
        self.writers = writers
        self.progress = progress
        self.pairing = Pairing(old, rebuilt)

    def store(self, stack: ExitStack) -> Tally:
        """Store every content that the base does not have."""
        entries = list(needed(self.old, self.rebuilt.target))
        total = sum(entry.size for entry in entries)
        target = stack.enter_context(Descent(self.target))
        base = stack.enter_context(Descent(self.base)) if self.base else None
        tally = Tally()
        for entry in entries:
            with _mapped(target, entry) as new:
                source = self.pairing.source(entry)
                if base is None or source is None or entry.extents is not None:
                    tally.written += self._whole(entry, new)
                else:
                    with _mapped(base, self.old.entries[source]) as old:
                        tally.written += self._patch(entry, new, source, old)
            tally.done += entry.size
            self.progress("create", tally.done, total)
        return tally

    def _whole(self, entry: Entry, new: memoryview) -> int:
        parts = (
            new[start : min(start + STEP, offset + length)]
            for offset, length in runs(entry)
            for start in range(offset, offset + length, STEP)
        )
        write_whole(self.writers, _data_stream(new), parts)
        return sum(length for _, length in runs(entry))

    def _patch(self, entry: Entry, new: memoryview, source: int, old: memoryview) -> int:
        covers = find_covers(old, new)
        if not worthwhile(covers, old, new):
            return self._whole(entry, new)
        differences = (
            subtract_bytes(bytes(new[c.new : c.new + c.length]), bytes(old[c.old : c.old + c.length]))
            for c in covers
            if not c.exact
        )
        write_patch(self.writers, _data_stream(new), source, covers, new, differences)
        return entry.size - sum(cover.length for cover in covers if cover.exact)


@contextmanager
def _mapped(tree: Descent, entry: Entry) -> Iterator[memoryview]:
    """The content of a file, as the operating system pages it in."""
    with tree.file(entry.path) as fd:
        if os.fstat(fd).st_size != entry.size:
            raise Failed(f"{entry.path!r} changed while the image was made", "Make it from snapshots.")
        if not entry.size:
            yield memoryview(b"")
            return
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
            yield view


def _data_stream(content: memoryview) -> int:
    head = bytes(content[:4096])
    if head.startswith(b"\x7fELF"):
        return MACHINE_CODE
    return OTHER if b"\0" in head else TEXT


class _Nowhere:
    """The sink of who only wants to know in which order streams are needed."""

    def write(self, data: bytes) -> None:
        """Forget it."""

    def take(self, source: int, offset: int, length: int) -> None:
        """Forget it."""

    def read_base(self, source: int, offset: int, length: int) -> bytes:
        """As good as any bytes."""
        return bytes(length)


def _as_a_device(streams: Streams, base: Listing, rebuilt: Rebuilt) -> None:
    """Read the streams as `apply` does."""
    streams.read(META, streams.left(META))
    streams.read(LABELS, streams.left(LABELS))
    sink = _Nowhere()
    for entry in needed(base, rebuilt.target):
        follow(streams, sum(length for _, length in runs(entry)), base, sink)


def _head(
    label: Label, new: Listing, old: Listing, writers: Sequence[StreamWriter], payload: BinaryIO, written: int
) -> Head:
    payload.seek(0)
    way = Way.model_fields["chunk_size"].default
    table, size = chunk_table(payload, way)
    target = Target(
        name=label.name,
        release=label.release,
        device_types=label.device_types,
        epoch=label.epoch,
        kernel=label.kernel,
        initrd=label.initrd,
        devicetree=label.devicetree,
        tree=new.digest.hex(),
        entries=len(new),
        size=new.content_size,
        largest=max(entry.size for entry in new),
    ).to_bytes()
    return Head(
        target,
        Way(
            target=hashlib.sha256(target).hexdigest(),
            base=old.digest.hex() if old.entries else None,
            payload=size,
            chunks=hashlib.sha256(table).hexdigest(),
            streams=tuple(writer.size for writer in writers),
            free=written,
        ).to_bytes(),
    )


def _assemble(head: Head, payload: BinaryIO, temporary: Path, out: Path) -> None:
    payload.seek(0)
    table, _ = chunk_table(payload, head.manifest().way.chunk_size)
    payload.seek(0)
    with temporary.open("wb") as image:
        image.write(head.to_bytes())
        image.write(table)
        while part := payload.read(STEP):
            image.write(part)
        image.flush()
        os.fsync(image.fileno())
    temporary.rename(out)
