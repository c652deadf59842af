"""A signature put on an image that exists: for a build host that does not sign itself."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tbdiff.errors import Failed
from tbdiff.head import DETACHED_MAGIC, MAGIC, Head, merged_signatures, read_head
from tbdiff.manifest import Target, Way
from tbdiff.payload import chunk_table
from tbdiff.signature import load_private_key, sign

CHUNK_SIZE = 1 << 20


def signed(head: Head, key: Ed25519PrivateKey) -> Head:
    """The head with this key's signatures over both statements."""
    made = (sign(key, head.target, of_target=True), sign(key, head.way, of_target=False))
    return Head(head.target, head.way, merged_signatures(head.signatures, made))


def sign_image(image: Path, key: Path) -> Path | None:
    """Add a signature to a `.tbdiff` image; None if it is no such image. It is replaced as a whole or not at all."""
    private = load_private_key(key)
    try:
        with image.open("rb") as old:
            if old.read(len(MAGIC)) != MAGIC:
                return None
            head = read_head(old)
            head.manifest()

            def fill(out: BinaryIO) -> None:
                out.write(signed(head, private).to_bytes())
                shutil.copyfileobj(old, out)

            _replace(image, fill)
    except OSError as error:
        raise Failed(f"{image} could not be signed: {error.strerror}; it is as it was") from None
    return image


def sign_tarball(image: Path, key: Path, *, delta: bool = False, **said: Any) -> Path:
    """Write a tarball's detached signature, `IMAGE.sig`: the two statements and the digests of all its chunks."""
    private = load_private_key(key)
    place = image.with_name(image.name + ".sig")
    try:
        with image.open("rb") as tarball:
            table, size = chunk_table(tarball, CHUNK_SIZE)
        target = Target(**said).to_bytes()
        way = Way(
            target=hashlib.sha256(target).hexdigest(),
            container="tar-delta" if delta else "tar",
            payload=size,
            chunk_size=CHUNK_SIZE,
            chunks=hashlib.sha256(table).hexdigest(),
        ).to_bytes()
        head = signed(Head(target, way), private).to_bytes(DETACHED_MAGIC)
        _replace(place, lambda out: out.write(head + table))
    except OSError as error:
        raise Failed(f"{image} could not be signed: {error.strerror}") from None
    return place


def _replace(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("wb") as out:
            fill(out)
            out.flush()
            os.fsync(out.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
