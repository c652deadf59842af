"""The front door: an image opened, its head verified, and its payload applied to a tree as it streams in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tbdiff import labels, wire
from tbdiff.assembly import assemble
from tbdiff.changes import Change, image_changes
from tbdiff.content import Contents, needed
from tbdiff.descent import Descent
from tbdiff.entry import EMPTY, Entry, Listing
from tbdiff.errors import Malformed, NothingToDo, Rejected
from tbdiff.head import MAGIC, read_head
from tbdiff.legacy.commands import START as LEGACY_START
from tbdiff.line import DIRECT, Line
from tbdiff.opened import Expect, OpenedImage, anything, changing, check_empty
from tbdiff.operation import TreeDelta
from tbdiff.payload import LABELS, META, Chunks, Streams, frames_of
from tbdiff.rebuild import Rebuilt, rebuild
from tbdiff.source import Source, open_source
from tbdiff.staging import Staging
from tbdiff.tree import Progress, quiet, read_tree

if TYPE_CHECKING:
    from tbdiff.costs import Costs
    from tbdiff.encoders import Factory
    from tbdiff.signature import KeyRing

META_MAX = 1 << 27


@dataclass(frozen=True)
class Changes:
    """What an image does, as far as it tells without its base: the delta, and the names of base entries by number."""

    delta: TreeDelta
    labels: dict[int, bytes]


@dataclass(frozen=True)
class Over:
    """An image over its base, as far as its names: `contents`, those of `needs`, can be read once."""

    base: Listing
    delta: TreeDelta
    rebuilt: Rebuilt
    needs: Sequence[Entry]
    contents: Contents
    chunks: Chunks
    streams: Streams

    def stage(self, staging: Staging, encoders: Sequence[Factory], step: Callable[[], None]) -> None:
        """Stage all contents, each checked against its digest, and the payload to its end."""
        for _ in assemble(self.contents, staging, self.base, self.needs, encoders):
            step()
        self.streams.check_end(self.chunks)


class Image(OpenedImage):
    """A `.tbdiff` image: a listing's delta in columns, and the contents that its base does not have."""

    def changes(self) -> list[Change]:
        """What it changes, in words."""
        contents = self.contents()
        return image_changes(contents.delta, contents.labels)

    def costs(self) -> Costs:
        """What its bytes are spent on."""
        from tbdiff import costs  # noqa: PLC0415 - a device has no use for it
        from tbdiff.metering import Metered  # noqa: PLC0415

        way, head = self.manifest.way, self._source.position
        signatures = head - len(MAGIC) - 8 - len(self._head.target) - len(self._head.way)
        chunks = Chunks(self._source, way)
        streams = Metered(way.streams, frames_of(chunks), way.lzma)
        contents = self._contents(streams)
        found = costs.weigh(streams)
        streams.check_end(chunks)
        before = head - signatures + 32 * way.chunk_count
        return costs.account(streams, found, contents.delta, contents.labels, head=before, signatures=signatures)

    def over(self, tree: Path | None, progress: Progress = quiet) -> Over:
        """What it makes of its base `tree` (None for a full image); the contents are still to be read."""
        return self._over(EMPTY if tree is None else self._check_base(tree, None, progress))

    def _over(self, base: Listing) -> Over:
        chunks, streams = self._streams()
        contents = self._contents(streams)
        labels.check(contents.labels, base)
        rebuilt = rebuild(base, contents.delta)
        self._check_target(rebuilt)
        needs = needed(base, rebuilt.target)
        return Over(base, contents.delta, rebuilt, needs, Contents(streams, base, needs), chunks, streams)

    def listing(self, base: Listing) -> Listing:
        """The listing of its target, by that of its base (empty for a full image); no content is read."""
        return self._over(base).rebuilt.target

    def contents(self) -> Changes:
        """Read only what the image changes."""
        return self._contents(self._streams()[1])

    def _streams(self) -> tuple[Chunks, Streams]:
        way = self.manifest.way
        chunks = Chunks(self._source, way)
        return chunks, Streams(way.streams, frames_of(chunks), way.lzma)

    def _contents(self, streams: Streams) -> Changes:
        if max(streams.left(META), streams.left(LABELS)) > META_MAX:
            raise Malformed("the image's metadata is too large to be read")
        delta = wire.decode(streams.read(META, streams.left(META)))
        streams.release(META)
        names = labels.decode(streams.read(LABELS, streams.left(LABELS)), delta)
        streams.release(LABELS)
        return Changes(delta, names)

    def apply(
        self, tree: Path, base: Listing | None = None, progress: Progress = quiet, expect: Expect = anything
    ) -> Listing:
        """Turn `tree`, which must be the image's base, into its target; return the target's listing.

        `base` is the listing of the tree where it is known; else the tree is read. `expect` is shown the target's
        listing before any content is read, and may raise. Rejected: the tree is as it was.
        """
        encoders = self._encoders()
        with changing(tree) as writer:
            base = self._check_base(tree, base, progress)
            over = self._over(base)
            self.check_space(tree)
            expect(over.rebuilt.target)
            over.stage(writer.begin(base), encoders, self._step("apply", over, progress))
            writer.transform(base, over.delta, over.rebuilt, progress)
        return over.rebuilt.target

    def lay_out(self, held: Path | None, base: Listing, place: Path, progress: Progress = quiet) -> Listing:
        """Lay out its target in the empty directory `place` as a bare tree; return the target's listing.

        `held` is the bare tree of `base` that the image starts from (None: it is a full image).
        """
        from tbdiff.bare import lay_out  # noqa: PLC0415 - a device has no use for it

        encoders = self._encoders()
        over = self._over(self._check_base(held or place, base, progress))
        self.check_space(place)
        with Descent(held or place) as tree, closing(Staging(tree, base)) as staging:
            over.stage(staging, encoders, self._step("lay out", over, progress))
            lay_out(over.rebuilt.target, staging, base, place)
        return over.rebuilt.target

    def _step(self, phase: str, over: Over, progress: Progress) -> Callable[[], None]:
        return lambda: progress(phase, over.chunks.done, self.manifest.way.payload)

    def _encoders(self) -> list[Factory]:
        wanted = self.manifest.way.encoders
        if not wanted:
            return []
        from tbdiff.encoders import resolve  # noqa: PLC0415 - most memory that it takes is for images that need it

        return resolve(wanted)

    def _check_base(self, tree: Path, base: Listing | None, progress: Progress) -> Listing:
        wanted = self.manifest.way.base
        if wanted is None:
            check_empty(tree)
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
        exact = (listing.digest.hex(), len(listing), listing.content_size, listing.largest)
        if exact != (target.tree, target.entries, target.size, target.largest):
            raise Malformed("the image does not lead to the target that its signer answers for; nothing was changed")

    def check(self, progress: Progress = quiet) -> Changes:
        """Read the whole payload and verify every chunk of it, without a tree."""
        chunks, streams = self._streams()
        contents = self._contents(streams)
        while chunks.left:
            chunks.read_some(1 << 18)
            progress("verify", chunks.done, self.manifest.way.payload)
        chunks.check_end()
        return contents


def open_image(
    source: str,
    keys: KeyRing | None = None,
    *,
    unsigned_ok: bool = False,
    signature: str | None = None,
    delta: bool | None = None,
    kept: Path | None = None,
    line: Line = DIRECT,
) -> OpenedImage:
    """Open a path, "-" or URL, and verify its signatures against `keys` (None: do not look at signatures).

    What is fetched by `line` from a URL is kept in the directory `kept` until the image was used, for a run after a
    cut.

    With `unsigned_ok` an image that nobody signed passes; one with a wrong signature never does. For a tarball:
    `signature` names its signature file where it is not beside it, `delta` says that it is a layer over a base.
    """
    opened = open_source(source, kept, line)
    try:
        start = opened.look(512)
        if start.startswith(LEGACY_START) and signature is None and delta is None:
            from tbdiff.legacy.image import open_legacy  # noqa: PLC0415 - hardly any image is one

            return open_legacy(opened, keys, unsigned_ok=unsigned_ok)
        if not start.startswith(MAGIC):
            said = Said(source, signature, delta, line)
            return _open_tarball(opened, start, keys, said, unsigned_ok=unsigned_ok)
        if signature is not None or delta is not None:
            raise Rejected(f"{opened.name} is no tarball: it holds its signature, and says itself where it starts from")
        opened.read(len(MAGIC))
        head = read_head(opened)
        manifest, signers = head.verify(keys, unsigned_ok=unsigned_ok)
        if manifest.way.container != "tbdiff":
            raise Malformed("the image says that it is something else than it is")
        return Image(opened, head, manifest, signers)
    except BaseException as error:
        opened.__exit__(type(error), error, None)
        raise


@dataclass(frozen=True)
class Said:
    """What was said of a tarball, which does not say it itself; and how its signature is fetched."""

    source: str
    signature: str | None
    delta: bool | None
    line: Line


def _open_tarball(
    opened: Source,
    start: bytes,
    keys: KeyRing | None,
    said: Said,
    *,
    unsigned_ok: bool,
) -> OpenedImage:
    from tbdiff.tar.filter import packing_of  # noqa: PLC0415
    from tbdiff.tar.tarball import open_tarball, signature_of  # noqa: PLC0415 - most images are none

    packing = packing_of(start)
    if packing is None:
        raise Rejected(f"{opened.name} is not an image that tbdiff knows", "Make one with `tbdiff create`.")
    signed = signature_of(said.source, said.signature, said.line)
    return open_tarball(opened, packing, signed, keys, unsigned_ok=unsigned_ok, delta=said.delta)
