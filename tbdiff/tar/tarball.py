"""Tarballs as images: a full system or a layer over a base, with a detached signature; the way in of other builders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tbdiff.arrival import Arrivals, Hashing, PassingBy, Receiver
from tbdiff.changes import Change
from tbdiff.compare import compare
from tbdiff.entry import EMPTY, Entry, Kind, Listing, printable
from tbdiff.errors import Malformed, NothingToDo, Rejected
from tbdiff.head import DETACHED_MAGIC, Head, read_head
from tbdiff.line import DIRECT, Line
from tbdiff.manifest import Manifest, Target, Way
from tbdiff.opened import Expect, OpenedImage, anything, changing, check_empty
from tbdiff.overlay import Layer, layer_changes, layer_of, overlay
from tbdiff.payload import Chunks, Readable
from tbdiff.rebuild import from_nothing, rebuild
from tbdiff.rehearsal import rehearse
from tbdiff.source import Source, read_beside, read_small
from tbdiff.tar.filter import Packing, unpacked
from tbdiff.tar.header import SIZE_MAX
from tbdiff.tar.members import members
from tbdiff.tree import Progress, quiet, read_tree

if TYPE_CHECKING:
    from tbdiff.signature import KeyRing

# Bounds for what no signature bounds. Zeros cost time only, but they do: some seconds for each of these.
HOLES_MAX = 1 << 36
ENTRIES_MAX = 1 << 21
METADATA_MAX = 1 << 28
SIGNATURE_FILE_MAX = 1 << 25


class Tarball(OpenedImage):
    """An opened tarball. Without a signature its manifest says nothing, and its digest is known when it was read."""

    def __init__(
        self, source: Source, head: Head, manifest: Manifest, signers: tuple[str, ...], packing: Packing, *, bare: bool
    ) -> None:
        super().__init__(source, head, manifest, signers)
        self._packing = packing
        self._bare = bare
        self._found = ""

    @property
    def is_delta(self) -> bool:
        """Whether it is a layer over a base."""
        return self.manifest.way.container == "tar-delta"

    @property
    def digest(self) -> str:
        """What names the image; of a tarball without a signature file the SHA-256 of its bytes, once it was read."""
        return self._found if self._bare else super().digest

    def changes(self) -> list[Change]:
        """What it brings and removes."""
        return layer_changes(self._look("read", quiet))

    def check(self, progress: Progress = quiet) -> None:
        """Read all of it, without a tree."""
        self._look("verify", progress)

    def _look(self, phase: str, progress: Progress) -> Layer:
        layer = self._read(PassingBy(), phase, progress)
        if not self.is_delta:
            # What could not be applied is not worth showing.
            overlay(EMPTY, layer)
        return layer

    def apply(
        self, tree: Path, base: Listing | None = None, progress: Progress = quiet, expect: Expect = anything
    ) -> Listing:
        """Turn `tree`, which must be empty or a layer's base, into the target; return the target's listing."""
        with changing(tree) as writer:
            base = self._check_base(tree, base, progress)
            self.check_space(tree)
            target = self._target(base, writer.begin(base).fd, progress)
            if target.digest == base.digest:
                raise NothingToDo(f"{tree} holds all that the layer brings already")
            expect(target)
            delta = compare(base, target)
            rebuilt = rebuild(base, delta) if base.entries else from_nothing(target)
            writer.transform(base, delta, rebuilt, progress)
        return rebuilt.target

    def _target(self, base: Listing, staging: int, progress: Progress) -> Listing:
        """The listing of what comes of it, with all contents in the directory `staging`."""
        layer = self._read(Arrivals(staging, base), "apply", progress)
        target = overlay(base, layer)
        self._check_target(target)
        rehearse(staging, layer.entries)
        return target

    def _check_base(self, tree: Path, base: Listing | None, progress: Progress) -> Listing:
        if not self.is_delta:
            check_empty(tree)
            return EMPTY
        base = base or read_tree(tree, progress=progress)
        wanted = self.manifest.way.base
        if wanted is not None and base.digest.hex() != wanted:
            raise Rejected(f"{tree} is not the tree that the layer goes over; it was left as it is")
        return base

    def _check_target(self, listing: Listing) -> None:
        target = self.manifest.target
        if target.tree is None:
            return
        exact = (listing.digest.hex(), len(listing), listing.content_size, listing.largest)
        if exact != (target.tree, target.entries, target.size, target.largest):
            raise Malformed("the image does not lead to the target that its signer answers for; nothing was changed")

    def _read(self, receiver: Receiver, phase: str, progress: Progress) -> Layer:
        """Read all members; their contents go to `receiver`."""
        target = self.manifest.target
        bounds = _Bounds(target if target.tree is not None else None)
        source = _Hashed(self._source) if self._bare else _Verified(Chunks(self._source, self.manifest.way))
        total = self.manifest.way.payload

        def pieces() -> Iterator[bytes]:
            for piece in unpacked(self._packing, source):
                progress(phase, source.done, total)
                yield piece

        layer = _layer(pieces(), receiver, bounds, delta=self.is_delta)
        self._found = source.finish()
        return layer


def _layer(pieces: Iterator[bytes], receiver: Receiver, bounds: _Bounds, *, delta: bool) -> Layer:
    entries = []
    for arriving in members(pieces):
        entry = arriving.entry
        bounds.admit(entry)
        entries.append(receiver.take(entry, arriving.blocks) if entry.kind is Kind.FILE else entry)
    return layer_of(entries, delta=delta)


class _Bounds:
    """How much a tarball may hold: what its signed target says, or what a device can bear."""

    def __init__(self, target: Target | None, holes: int = HOLES_MAX) -> None:
        self._target = target
        self._holes_max = holes
        self._entries = self._size = self._holes = self._metadata = 0

    def admit(self, entry: Entry) -> None:
        """Count one entry; Rejected if it is too much."""
        self._entries += 1
        self._size += entry.size
        self._metadata += len(entry.path) + len(entry.link) + sum(len(n) + len(v) for n, v in entry.xattrs)
        if entry.extents is not None:
            self._holes += entry.size - sum(length for _, length in entry.extents)
            self._metadata += 16 * len(entry.extents)
        if self._target is not None and (entry.size > self._target.largest or self._size > self._target.size):
            raise Malformed("the image does not lead to the target that its signer answers for; nothing was changed")
        if self._target is None and self._holes > self._holes_max:
            raise Rejected(
                f"the tarball has more than {self._holes_max >> 30} GiB of holes, as far as {printable(entry.path)!r}",
                "Sign it as a full system: then its size is known, and bounds it.",
            )
        if self._entries > ENTRIES_MAX or self._metadata > METADATA_MAX:
            raise Malformed("the tarball has more entries than a device can hold")


class _Verified:
    """A signed tarball's bytes; none before its chunk was verified."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks

    @property
    def done(self) -> int:
        return self._chunks.done

    def read(self, size: int, /) -> bytes:
        return self._chunks.read_some(size)

    def finish(self) -> str:
        self._chunks.check_end()
        return ""


class _Hashed:
    """The bytes of a tarball that nobody signed, with their digest."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self.done = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        self.done += len(data)
        return data

    def finish(self) -> str:
        return self._hash.hexdigest()


# --- opened


def signature_of(source: str, named: str | None, line: Line = DIRECT) -> bytes | None:
    """The content of the signature file that was named, or that lies beside the source; None if there is none."""
    if named is None:
        return read_beside(source, ".sig", SIGNATURE_FILE_MAX + 1, line)
    found = read_small(named, SIGNATURE_FILE_MAX + 1, line)
    if found is None:
        raise Rejected(f"there is no signature file {named}")
    return found


def open_tarball(
    source: Source,
    packing: Packing,
    signature: bytes | None,
    keys: KeyRing | None,
    *,
    unsigned_ok: bool,
    delta: bool | None,
) -> Tarball:
    """Open a tarball of which nothing was read yet; `signature` is the content of its signature file, if it has one."""
    if signature is None:
        if keys is not None and not unsigned_ok:
            raise Rejected(
                f"{source.name} is not signed: there is no {source.name}.sig",
                "Sign it with `tbdiff sign`, or name its signature with --signature.",
            )
        return Tarball(source, *_unsigned(delta=bool(delta)), (), packing, bare=True)
    head, table = _read_signature(signature)
    manifest, signers = head.verify(keys, unsigned_ok=unsigned_ok)
    way = manifest.way
    if way.container not in ("tar", "tar-delta"):
        raise Malformed("the signature file is not one of a tarball")
    if delta is not None and delta != (way.container == "tar-delta"):
        signed = "a layer over a base" if way.container == "tar-delta" else "a full system"
        raise Rejected(f"{source.name} is signed as {signed}, and something else was asked for")
    if len(table) != 32 * way.chunk_count:
        raise Rejected("the signature file is damaged: its table of digests has another length", "Fetch it again.")
    # From here on the two files are read as one image.
    source.put_back(table)
    return Tarball(source, head, manifest, signers, packing, bare=False)


def _read_signature(content: bytes) -> tuple[Head, bytes]:
    from io import BytesIO  # noqa: PLC0415

    if len(content) > SIGNATURE_FILE_MAX or not content.startswith(DETACHED_MAGIC):
        raise Rejected("the signature file is none", "Make one with `tbdiff sign`.")
    stream = BytesIO(content[len(DETACHED_MAGIC) :])
    return read_head(stream, DETACHED_MAGIC), stream.read()


def _unsigned(*, delta: bool) -> tuple[Head, Manifest]:
    """What a tarball without a signature says of itself: nothing."""
    target = Target()
    way = Way(
        target=hashlib.sha256(target.to_bytes()).hexdigest(),
        container="tar-delta" if delta else "tar",
        chunks=hashlib.sha256().hexdigest(),
    )
    return Head(target.to_bytes(), way.to_bytes()), Manifest(target=target, way=way)


# --- read once by who signs it


@dataclass(frozen=True)
class Facts:
    """What a signer answers for: of a full system the exact tree, of each tarball what its contents take."""

    free: int
    tree: Listing | None


def facts_of(source: Readable, packing: Packing, *, delta: bool) -> Facts:
    """Read a whole tarball, as applying it would."""
    receiver = PassingBy() if delta else Hashing()
    layer = _layer(unpacked(packing, source), receiver, _Bounds(None, SIZE_MAX), delta=delta)
    free = sum(
        entry.size if entry.extents is None else sum(length for _, length in entry.extents) for entry in layer.entries
    )
    return Facts(free, None if delta else overlay(EMPTY, layer))
