"""An image made out of two trees."""

from __future__ import annotations

import hashlib
import lzma
import os
import tempfile
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tbdiff import encoders, labels, wire
from tbdiff.carry import CarriedContents
from tbdiff.compare import compare
from tbdiff.content import Contents, Nowhere, needed
from tbdiff.dsse import Signature
from tbdiff.entry import Listing
from tbdiff.errors import Failed, Rejected
from tbdiff.generation import read_pair
from tbdiff.head import Head
from tbdiff.manifest import LZMA, Manifest, Target, Way, parse_target
from tbdiff.matching import Available
from tbdiff.memory import LARGE, return_pieces
from tbdiff.output import appearing, check_place
from tbdiff.packer import lzma_packer, zstd_packer
from tbdiff.pairing import Pairing
from tbdiff.payload import CONTROL, DIFFERENCE, LABELS, META, Streams, StreamWriter, chunk_table, interleave
from tbdiff.rebuild import Rebuilt, rebuild
from tbdiff.signature import PrivateKey, load_private_key
from tbdiff.signing import signed
from tbdiff.tree import Progress, quiet

CHUNK_SIZE = 1 << 18
# How far back a repetition may be, as a power of two; a device holds a window for every stream at once. Twice as far
# would make no image a hundredth smaller.
WINDOW_LOG = 20
STREAMS = 7
ALL = range(STREAMS)
STEP = 1 << 20
ENTRY_COST = 1024


@dataclass(frozen=True)
class Effort:
    """How hard to compress: which streams by LZMA2 and its preset, the others by zstd and its level."""

    level: int
    lzma: Collection[int] = ()
    preset: int = 0


EFFORTS = {
    "fast": Effort(3),
    # LZMA2 takes long to unpack, but not what is sparse; full images have nothing of that.
    "default": Effort(9, (CONTROL, DIFFERENCE), 3),
    "best": Effort(19, ALL, 9 | lzma.PRESET_EXTREME),
}


@dataclass(frozen=True)
class Label:
    """What an image says about itself: the parts of the manifest that a person chooses; else ValueError."""

    name: str = ""
    release: str | None = None
    device_types: tuple[str, ...] = ()
    epoch: int = 0
    kernel: str | None = None
    initrd: str | None = None
    devicetree: str | None = None

    def __post_init__(self) -> None:
        # Before trees are read for it.
        Target(**asdict(self))


def create_image(
    base: Path | None,
    target: Path,
    out: Path,
    *,
    label: Label | None = None,
    stated: Stated | None = None,
    key: Path | None = None,
    effort: str = "default",
    available: Available | None = encoders.available,
    kept: Path | None = None,
    progress: Progress = quiet,
    notice: Callable[[str], None] | None = None,
) -> Manifest:
    """Write to `out` an image that turns a copy of the tree `base` (None: an empty directory) into the tree `target`.

    With `key` both its statements are signed; or its way only, where what it leads to was `stated` and signed before.
    `out` appears when it is complete; the same trees give the same bytes.
    `available` tells which compressors the devices have to re-create packed files with (None: do not rely on any).
    Listings of read-only snapshots are kept in the directory `kept`; what is known from there is not read again.
    """
    private = load_private_key(key) if key else None
    check_place(out, base, target)
    old, new = read_pair(base, target, kept, progress, notice)
    if stated is None:
        stated = state(Known(target, new), label or Label())
    elif parse_target(stated.target).tree != new.digest.hex():
        raise Rejected(
            f"{target} is not the tree that was stated; no image was made", "Name the tree that it is about."
        )
    return write_image(Known(base, old), Known(target, new), out, stated, private, effort, available, progress)


@dataclass(frozen=True)
class Known:
    """A tree and its listing; nothing (an empty one) has no path."""

    tree: Path | None
    listing: Listing


@dataclass(frozen=True)
class Stated:
    """A target statement, with the signatures over it that there are already."""

    target: bytes
    signatures: tuple[Signature, ...] = ()


def state(target: Known, label: Label) -> Stated:
    """The statement of what a tree is, and what it is called."""
    for path in filter(None, (label.kernel, label.initrd, label.devicetree)):
        if target.listing.get(os.fsencode(path)) is None:
            raise Rejected(f"there is no {path} in {target.tree}; no image was made", "Name a path inside of the tree.")
    return Stated(_target(label, target.listing))


def write_image(
    base: Known,
    target: Known,
    out: Path,
    stated: Stated,
    key: PrivateKey | None,
    effort: str,
    available: Available | None,
    progress: Progress,
) -> Manifest:
    """Write to `out` an image from one known tree to another, which is the one that `stated` speaks of."""
    old, new = base.listing, target.listing
    if target.tree is None:
        raise AssertionError("no image leads to nothing")
    return_pieces(LARGE)
    delta = compare(old, new)
    rebuilt = rebuild(old, delta)
    if rebuilt.target.entries != new.entries and rebuilt.target.digest != new.digest:
        raise AssertionError("the delta does not lead to the target")
    try:
        with ExitStack() as stack:

            def spool() -> BinaryIO:
                # Beside what is made, where there is room for it; without a name, so that no run leaves it behind.
                return stack.enter_context(tempfile.TemporaryFile(dir=out.parent))

            writers = _stream_writers(spool, EFFORTS[effort])
            writers[META].write(wire.encode(delta))
            if base.tree:
                writers[LABELS].write(labels.encode(old, delta))
            for writer in writers[:CONTROL]:
                writer.finish()
            pairing = Pairing(old, delta, rebuilt)
            usable = available if effort != "fast" else None
            contents = CarriedContents(old, rebuilt.target, pairing, writers, usable)
            contents.store(base.tree, target.tree, progress)
            for writer in writers[CONTROL:]:
                writer.finish()
            payload = spool()
            by_lzma = tuple(n for n in EFFORTS[effort].lzma if writers[n].size)
            interleave(writers, by_lzma, lambda streams: _as_a_device(streams, old, rebuilt), payload)
            written = contents.written + ENTRY_COST * (len(delta.edits) + len(delta.adds))
            way = {"free": written, "encoders": contents.encoders, "streams": tuple(w.size for w in writers)}
            if by_lzma:
                way |= {"requires": (LZMA,), "lzma": by_lzma}
            payload.seek(0)
            table, size = chunk_table(payload, CHUNK_SIZE)
            head = _head(stated, old, table, size, way)
            if key:
                head = signed(head, key, only_way=bool(stated.signatures))
            _assemble(head, table, payload, out)
    except OSError as error:
        raise Failed(f"{out} could not be written: {error.strerror}") from error
    return head.manifest()


def _stream_writers(spool: Callable[[], BinaryIO], effort: Effort) -> list[StreamWriter]:
    # One worker or many give the same bytes; none at all gives others.
    workers = os.cpu_count() or 1
    return [
        StreamWriter(
            spool(),
            lzma_packer(effort.preset) if n in effort.lzma else zstd_packer(effort.level, WINDOW_LOG, workers),
        )
        for n in range(STREAMS)
    ]


def _as_a_device(streams: Streams, base: Listing, rebuilt: Rebuilt) -> None:
    """Read the streams as `apply` does."""
    streams.read(META, streams.left(META))
    streams.read(LABELS, streams.left(LABELS))
    contents = Contents(streams, base, needed(base, rebuilt.target))
    for recipe, record in contents:
        contents.follow(recipe, record, Nowhere())


def _target(label: Label, new: Listing) -> bytes:
    return Target(
        **asdict(label),
        tree=new.digest.hex(),
        entries=len(new),
        size=new.content_size,
        largest=new.largest,
    ).to_bytes()


def _head(stated: Stated, old: Listing, table: bytes, size: int, way: dict[str, Any]) -> Head:
    return Head(
        stated.target,
        Way(
            target=hashlib.sha256(stated.target).hexdigest(),
            base=old.digest.hex() if old.entries else None,
            payload=size,
            chunk_size=CHUNK_SIZE,
            chunks=hashlib.sha256(table).hexdigest(),
            **way,
        ).to_bytes(),
        stated.signatures,
    )


def _assemble(head: Head, table: bytes, payload: BinaryIO, out: Path) -> None:
    payload.seek(0)
    with appearing(out) as image:
        image.write(head.to_bytes())
        image.write(table)
        while part := payload.read(STEP):
            image.write(part)
