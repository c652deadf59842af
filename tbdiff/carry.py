"""The new contents of an image on their way from the target tree into its streams, matched by all processors."""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tbdiff import recipe as recipes
from tbdiff.content import needed, runs
from tbdiff.descent import Descent
from tbdiff.entry import Entry, Listing, printable
from tbdiff.errors import Failed
from tbdiff.likeness import most_alike, sample
from tbdiff.matching import Available, Match, match
from tbdiff.pairing import Pairing
from tbdiff.payload import CONTROL, DATA, DIFFERENCE, StreamWriter
from tbdiff.recipe import BASE, CONTENT, Recipe, Source, unpacked_size
from tbdiff.tree import Progress

# Data streams hold what is alike, so that it compresses well together.
MACHINE_CODE, TEXT, OTHER = DATA, DATA + 1, DATA + 2
# So much of new contents is matched ahead of what is being stored.
AHEAD = 48 << 20
# Matching takes many times the size of a file in memory: of files this large one at a time.
LARGE = 4 << 20
# Contents of these sizes are compared with others where their names tell nothing.
COMPARED = range(512, 32 << 20)
STEP = 1 << 20
MAGICS = (b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"\x1f\x8b\x08", b"\x02\x21\x4c\x18", b"070701", b"070702")


@dataclass(frozen=True, slots=True)
class _Job:
    """One content to be matched."""

    index: int
    entry: Entry
    after_others: bool


class CarriedContents:
    """What of the target the base does not have; `written` is what a device writes for it, in bytes."""

    def __init__(
        self,
        base: Listing,
        target: Listing,
        pairing: Pairing,
        writers: Sequence[StreamWriter],
        available: Available | None,
    ) -> None:
        self._base = base
        self._needs = needed(base, target)
        self._pairing = pairing
        self._writers = writers
        self._available = available
        self._known: dict[bytes, Source] = {}
        self._encoders: dict[str, int] = {}
        self._written = self._unpacked = 0
        self._one_at_a_time = threading.Lock()

    @property
    def written(self) -> int:
        """How many bytes a device needs room for while it applies them."""
        return self._written + self._unpacked

    @property
    def encoders(self) -> tuple[str, ...]:
        """The compressors that a device needs, as NAME=FINGERPRINT, in the order of their numbers."""
        return tuple(self._encoders)

    def store(self, base: Path | None, target: Path, progress: Progress) -> None:
        """Store every content, the archives last: they may hold what others are."""
        total = sum(entry.size for entry in self._needs)
        done = 0
        with ExitStack() as stack:
            new = stack.enter_context(Descent(target))
            old = stack.enter_context(Descent(base)) if base else None
            pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
            jobs = [_Job(n, entry, _may_hold_others(new, entry)) for n, entry in enumerate(self._needs)]
            jobs.sort(key=lambda job: job.after_others)
            self._know(jobs)
            for job, matched in self._matched(jobs, pool, new, old):
                self._write(job, matched)
                done += job.entry.size
                progress("create", done, total)

    def _know(self, jobs: Sequence[_Job]) -> None:
        for n, digest in self._base.digests():
            self._known.setdefault(digest, Source(BASE, n))
        for job in jobs:
            if not job.after_others and job.entry.extents is None:
                self._known[job.entry.digest] = Source(CONTENT, job.index)

    def _matched(
        self, jobs: Sequence[_Job], pool: ThreadPoolExecutor, new: Descent, old: Descent | None
    ) -> Iterator[tuple[_Job, Match]]:
        """Each job with its match, in order, some way ahead of what is asked for."""
        ahead: deque[tuple[_Job, Future[Match]]] = deque()
        size = 0
        sources = self._sources(jobs, new, old) if old is not None else {}
        for job in jobs:
            source = sources.get(job.entry.path)
            size += job.entry.size
            content = _mapped(new, job.entry)
            base = (
                (source, _mapped(old, self._base.entries[source])) if old is not None and source is not None else None
            )
            known = self._known if job.after_others else {}
            ahead.append((job, pool.submit(self._match, content, job.entry, base, known)))
            while ahead and size > AHEAD:
                first, future = ahead.popleft()
                yield first, future.result()
                size -= first.entry.size
        for last, future in ahead:
            yield last, future.result()

    def _sources(self, jobs: Sequence[_Job], new: Descent, old: Descent) -> dict[bytes, int]:
        """By path: the base file that a new one is built on, as its name tells; where it does not, its content."""
        found: dict[bytes, int] = {}
        unpaired: dict[bytes, set[int]] = {}
        for job in jobs:
            entry = job.entry
            if entry.extents is None:
                source = self._pairing.source(entry)
                if source is not None:
                    found[entry.path] = source
                elif entry.size in COMPARED:
                    unpaired[entry.path] = sample(bytes(_mapped(new, entry)))
        if unpaired:
            gone = (n for n in self._pairing.gone() if self._base.entries.sizes[n] in COMPARED)
            found |= most_alike(unpaired, ((n, sample(bytes(_mapped(old, self._base.entries[n])))) for n in gone))
        return found

    def _match(
        self, new: memoryview, entry: Entry, base: tuple[int, memoryview] | None, known: Mapping[bytes, Source]
    ) -> Match:
        if entry.extents is not None:
            return Match(new)
        with self._one_at_a_time if len(new) >= LARGE else nullcontext():
            return match(new, base, known, self._available)

    def _write(self, job: _Job, found: Match) -> None:
        members = []
        for member, encoder in zip(found.members, found.encoders, strict=True):
            number = self._encoders.setdefault(encoder, len(self._encoders))
            members.append(member._replace(kind=number))
        stream = _data_stream(found.data)
        size = len(found.data) if job.entry.extents is None else sum(length for _, length in runs(job.entry))
        recipe = Recipe(job.index, stream, size, found.sources, tuple(members), len(found.covers))
        for record in recipes.encode(recipe, found.covers):
            self._writers[CONTROL].record(record)
        for start, end in _literals(job.entry, found):
            for at in range(start, end, STEP):
                self._writers[stream].write(found.data[at : min(at + STEP, end)])
        self._writers[DIFFERENCE].write(found.differences)
        # A base file is unpacked beside the tree while it is needed.
        unpacked = sum(unpacked_size(self._base.entries.sizes[s.index], s.members) for s in found.sources if s.members)
        self._unpacked = max(self._unpacked, unpacked)
        # Holes take no room.
        taken = size if job.entry.extents is not None else job.entry.size
        self._written += taken - (0 if members else sum(c.length for c in found.covers if c.exact))


def _literals(entry: Entry, found: Match) -> Iterator[tuple[int, int]]:
    """The runs of a content that are stored as they are."""
    if entry.extents is not None:
        yield from ((offset, offset + length) for offset, length in runs(entry))
        return
    end = 0
    for cover in found.covers:
        if cover.new > end:
            yield end, cover.new
        end = cover.new + cover.length
    if len(found.data) > end:
        yield end, len(found.data)


def _mapped(tree: Descent, entry: Entry) -> memoryview:
    """The content of a file, as the operating system pages it in."""
    with tree.file(entry.path) as fd:
        if os.fstat(fd).st_size != entry.size:
            raise Failed(f"{printable(entry.path)!r} changed while the image was made", "Make it from snapshots.")
        return memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ)) if entry.size else memoryview(b"")


def _may_hold_others(tree: Descent, entry: Entry) -> bool:
    with tree.file(entry.path) as fd:
        head = os.pread(fd, 512, 0)
    return head.startswith(MAGICS) or head[257:262] == b"ustar"


def _data_stream(content: memoryview) -> int:
    head = bytes(content[:4096])
    if head.startswith(b"\x7fELF"):
        return MACHINE_CODE
    return OTHER if b"\0" in head else TEXT
