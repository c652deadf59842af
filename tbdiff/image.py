"""The front door: an image opened, its head verified, and its payload applied to a tree as it streams in."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tbdiff import labels, wire
from tbdiff.changes import Change, image_changes
from tbdiff.content import follow, runs
from tbdiff.entry import EMPTY, Listing
from tbdiff.errors import Failed, NothingToDo, Rejected
from tbdiff.head import MAGIC, Head, read_head
from tbdiff.manifest import Manifest
from tbdiff.operation import TreeDelta
from tbdiff.payload import LABELS, META, Chunks, Streams, frames_of
from tbdiff.rebuild import Rebuilt, rebuild
from tbdiff.signature import KeyRing
from tbdiff.source import Source, open_source
from tbdiff.tree import STAGING, Progress, quiet, read_tree
from tbdiff.writer import TreeWriter

META_MAX = 1 << 29


@dataclass(frozen=True)
class Contents:
    """What an image does, as far as it tells without its base: the delta, and the names of base entries by number."""

    delta: TreeDelta
    labels: dict[int, bytes]


class Image:
    """A `.tbdiff` image whose head was read and verified; its payload is read once, by one of the methods."""

    def __init__(self, source: Source, head: Head, manifest: Manifest, signers: tuple[str, ...]) -> None:
        self._source = source
        self._head = head
        self.manifest = manifest
        self.signers = signers

    def __enter__(self) -> Image:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._source.__exit__(kind, error, where)

    @property
    def digest(self) -> str:
        """What names the image: the SHA-256 of its way, which holds the digests of all the rest."""
        return hashlib.sha256(self._head.way).hexdigest()

    @property
    def claimed_signers(self) -> tuple[str, ...]:
        """The ids of the keys under which it says it is signed, verified or not."""
        return tuple(dict.fromkeys(f"key {s.key_id.hex()}" for s in self._head.signatures))

    def changes(self) -> list[Change]:
        """What it changes, in words."""
        contents = self.contents()
        return image_changes(contents.delta, contents.labels)

    def contents(self) -> Contents:
        """Read only what the image changes."""
        return self._contents(self._streams()[1])

    def _streams(self) -> tuple[Chunks, Streams]:
        way = self.manifest.way
        chunks = Chunks(self._source, way)
        return chunks, Streams(way.streams, frames_of(chunks))

    def _contents(self, streams: Streams) -> Contents:
        if max(streams.left(META), streams.left(LABELS)) > META_MAX:
            raise Rejected("the image's metadata is too large to be read")
        delta = wire.decode(streams.read(META, streams.left(META)))
        return Contents(delta, labels.decode(streams.read(LABELS, streams.left(LABELS)), delta))

    def apply(self, tree: Path, base: Listing | None = None, progress: Progress = quiet) -> Listing:
        """Turn `tree`, which must be the image's base, into its target; return the target's listing.

        `base` is the listing of the tree where it is known; else the tree is read. Rejected: the tree is as it was.
        """
        base = self._check_base(tree, base, progress)
        chunks, streams = self._streams()
        contents = self._contents(streams)
        labels.check(contents.labels, base)
        rebuilt = rebuild(base, contents.delta)
        self._check_target(rebuilt)
        self._check_space(tree)
        return _Application(tree, base, contents.delta, rebuilt).run(
            chunks, streams, self.manifest.way.payload, progress
        )

    def _check_base(self, tree: Path, base: Listing | None, progress: Progress) -> Listing:
        wanted = self.manifest.way.base
        if wanted is None:
            held = [name for name in os.listdir(tree) if os.fsencode(name) != STAGING] if tree.is_dir() else None
            if held is None:
                raise Rejected(f"{tree} is not a directory", "Make an empty directory for a full image.")
            if held:
                raise Rejected(f"{tree} is not empty, and this is a full image", "Apply it to an empty directory.")
            return EMPTY
        if base is None:
            base = read_tree(tree, progress=progress)
        if base.digest.hex() == wanted:
            return base
        if base.digest.hex() == self.manifest.target.tree:
            raise NothingToDo(f"{tree} is the image's target already")
        raise Rejected(
            f"{tree} is not the tree that the image starts from (it is {base.digest.hex()[:16]}…, "
            f"the image wants {wanted[:16]}…); it was left as it is",
            "Use an image that was made for it, or a full one.",
        )

    def _check_target(self, rebuilt: Rebuilt) -> None:
        target, listing = self.manifest.target, rebuilt.target
        exact = (listing.digest.hex(), len(listing), listing.content_size, max(entry.size for entry in listing))
        if exact != (target.tree, target.entries, target.size, target.largest):
            raise Rejected("the image does not lead to the target that its signer answers for; nothing was changed")

    def _check_space(self, tree: Path) -> None:
        status = os.statvfs(tree)
        if status.f_bavail * status.f_frsize < self.manifest.way.free:
            raise Rejected(
                f"{tree} has {status.f_bavail * status.f_frsize >> 20} MiB free, "
                f"and the image needs {self.manifest.way.free + (1 << 20) - 1 >> 20} MiB; nothing was changed",
                "Make room first.",
            )

    def check(self, progress: Progress = quiet) -> Contents:
        """Read the whole payload and verify every chunk of it, without a tree."""
        chunks, streams = self._streams()
        contents = self._contents(streams)
        while chunks.left:
            chunks.read_some(1 << 18)
            progress("verify", chunks.done, self.manifest.way.payload)
        chunks.check_end()
        return contents


class _Application:
    """One payload on its way into one tree."""

    def __init__(self, tree: Path, base: Listing, delta: TreeDelta, rebuilt: Rebuilt) -> None:
        self.tree = tree
        self.base = base
        self.delta = delta
        self.rebuilt = rebuilt
        self.changing = False

    def run(self, chunks: Chunks, streams: Streams, size: int, progress: Progress) -> Listing:
        """Stage all contents, then change the tree."""
        try:
            with TreeWriter(self.tree, self.base) as writer:
                for entry, sink in writer.contents(self.rebuilt.target):
                    follow(streams, sum(length for _, length in runs(entry)), self.base, sink)
                    progress("apply", chunks.done, size)
                streams.check_end(chunks)
                self.changing = True
                writer.transform(self.delta, self.rebuilt, progress)
        except (OSError, Rejected) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            if self.changing:
                raise Failed(f"{self.tree} could not be changed to the end, and is neither base nor target: {reason}",
                             "Start again from a copy of the base.") from error  # fmt: skip
            if isinstance(error, Rejected):
                raise
            raise Failed(
                f"the image could not be applied to {self.tree}, which was left as it was: {reason}"
            ) from error
        return self.rebuilt.target


def open_image(source: str, keys: KeyRing | None = None, *, unsigned_ok: bool = False) -> Image:
    """Open a path, "-" or URL, and verify its signatures against `keys` (None: do not look at signatures).

    With `unsigned_ok` an image that nobody signed passes; one with a wrong signature never does.
    """
    opened = open_source(source)
    try:
        magic = _first(opened, len(MAGIC))
        if magic != MAGIC:
            raise Rejected(f"{opened.name} is not an image that tbdiff knows", "Make one with `tbdiff create`.")
        head = read_head(opened)
        manifest, signers = head.verify(keys, unsigned_ok=unsigned_ok)
        if manifest.way.container != "tbdiff":
            raise Rejected("the image says that it is something else than it is")
        return Image(opened, head, manifest, signers)
    except BaseException:
        opened.__exit__(None, None, None)
        raise


def _first(source: Source, size: int) -> bytes:
    parts = b""
    while len(parts) < size and (part := source.read(size - len(parts))):
        parts += part
    return parts
