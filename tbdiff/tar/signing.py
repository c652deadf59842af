"""A tarball's detached signature: made by reading the tarball once, as a device would."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tbdiff.dsse import Signature
from tbdiff.entry import Listing
from tbdiff.errors import Failed, Rejected
from tbdiff.head import DETACHED_MAGIC, Head, read_head
from tbdiff.manifest import Target, Way
from tbdiff.output import appearing
from tbdiff.payload import Readable
from tbdiff.signature import load_private_key
from tbdiff.signing import signed
from tbdiff.source import open_source
from tbdiff.tar.filter import packing_of
from tbdiff.tar.header import BLOCK
from tbdiff.tar.tarball import facts_of

CHUNK_SIZE = 1 << 18


def sign_tarball(image: Path, key: Path, *, delta: bool = False, **said: Any) -> Path:
    """Write a tarball's detached signature, `IMAGE.sig`: the two statements and the digests of all its chunks.

    The tarball is read as applying it would read it, so that what is signed can be applied; of a full system the
    signature holds the exact tree. Where the file holds another key's signature over the same, that one stays.
    """
    private = load_private_key(key)
    place = image.with_name(image.name + ".sig")
    try:
        with open_source(str(image)) as tarball:
            packing = packing_of(tarball.look(BLOCK))
            if packing is None:
                raise Rejected(f"{image} is not an image that tbdiff knows; it was not signed")
            chunked = ChunkedReading(tarball, CHUNK_SIZE)
            facts = facts_of(chunked, packing, delta=delta)
        table = chunked.table()
        target = Target(**said, **_exact(facts.tree)).to_bytes()
        way = Way(
            target=hashlib.sha256(target).hexdigest(),
            container="tar-delta" if delta else "tar",
            payload=chunked.size,
            chunk_size=CHUNK_SIZE,
            chunks=hashlib.sha256(table).hexdigest(),
            free=facts.free,
        ).to_bytes()
        head = signed(Head(target, way, _earlier_signatures(place, target, way)), private).to_bytes(DETACHED_MAGIC)
        with appearing(place) as out:
            out.write(head + table)
    except OSError as error:
        raise Failed(f"{image} could not be signed: {error.strerror}") from None
    return place


def _exact(tree: Listing | None) -> dict[str, Any]:
    if tree is None:
        return {}
    return {
        "tree": tree.digest.hex(),
        "entries": len(tree),
        "size": tree.content_size,
        "largest": tree.largest,
    }


def _earlier_signatures(place: Path, target: bytes, way: bytes) -> tuple[Signature, ...]:
    try:
        with place.open("rb") as old:
            head = read_head(old) if old.read(len(DETACHED_MAGIC)) == DETACHED_MAGIC else None
    except (FileNotFoundError, Rejected):
        return ()
    return head.signatures if head and (head.target, head.way) == (target, way) else ()


class ChunkedReading:
    """A source that is read, with the digests of its chunks."""

    def __init__(self, source: Readable, chunk_size: int) -> None:
        self._source = source
        self._chunk_size = chunk_size
        self._digests: list[bytes] = []
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        data = self._source.read(size)
        view = memoryview(data)
        while view:
            part = view[: self._chunk_size - self.size % self._chunk_size]
            self._hash.update(part)
            self.size += len(part)
            if not self.size % self._chunk_size:
                self._digests.append(self._hash.digest())
                self._hash = hashlib.sha256()
            view = view[len(part) :]
        return data

    def table(self) -> bytes:
        """The digests of all chunks; the last one may be short."""
        last = self._hash.digest() if self.size % self._chunk_size else b""
        return b"".join(self._digests) + last
