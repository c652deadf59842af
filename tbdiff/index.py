"""The signed index of a folder of images: which releases each channel has had, and which images lead to them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import pydantic

from tbdiff.entry import printable
from tbdiff.errors import Malformed, Rejected
from tbdiff.manifest import Count, EncoderName, Hex256, Line, Statement, Word, parse
from tbdiff.sealed import Sealed, check_parts, parts_of, unseal
from tbdiff.signature import PrivateKey, PublicKey

NAME = "index.json"
TYPE = "application/vnd.tbdiff.index+json"
INDEX_MAX = 8 << 20
MOMENT = "%Y-%m-%dT%H:%M:%SZ"


def _instant(text: str) -> str:
    """A moment as this program writes it: 2026-01-31T12:00:00Z."""
    if datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z").strftime("%Y-%m-%dT%H:%M:%SZ") != text:
        raise ValueError("not a moment such as 2026-01-31T12:00:00Z")
    return text


Instant = Annotated[str, pydantic.AfterValidator(_instant)]


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, strict=True, extra="ignore")


class Release(_Part):
    """A tree that a release key answers for, as its own statement says what it is; here for choosing only."""

    tree: Hex256
    name: Line = ""
    release: Word | None = None
    epoch: Count = 0
    device_types: tuple[Word, ...] = ()

    @property
    def called(self) -> str:
        """What it is called in few words: by its version, else its name, else its tree."""
        return self.release or self.name or self.tree[:12]


class ListedImage(_Part):
    """An image in the folder: its file, and what a device wants to know before it fetches it.

    `digest` names the image (the SHA-256 of its way). `size` is the file's, in bytes; `free` what applying writes at
    most. It leads to `tree` from `base` (None: from nothing), and needs the compressors `encoders`.
    """

    file: Word
    size: Count
    digest: Hex256
    tree: Hex256
    base: Hex256 | None = None
    free: Count = 0
    encoders: tuple[EncoderName, ...] = ()


class Index(Statement):
    """What a folder holds. A later one has a higher `version`; after `expires` nobody should go by it any more.

    `channels` are the releases of each by their trees, the oldest first.
    """

    type: Literal["tbdiff-index"] = "tbdiff-index"
    version: Annotated[int, pydantic.Field(ge=1, le=2**63 - 1)]
    issued: Instant
    expires: Instant
    releases: tuple[Release, ...] = ()
    channels: dict[Word, tuple[Hex256, ...]] = pydantic.Field(default_factory=dict)
    images: tuple[ListedImage, ...] = ()

    def release_of(self, tree: str) -> Release | None:
        """What the index says of a tree."""
        return next((release for release in self.releases if release.tree == tree), None)


def read_index(raw: bytes, keys: Sequence[PublicKey]) -> tuple[Index, str]:
    """The index and the name of the key that answers for it; nothing of it is read before that is known."""
    sealed = unseal(raw, TYPE, "the index of images")
    signers = sealed.signers(keys)
    if not signers:
        known = ", ".join(f"{printable(key.name.encode())} ({key.key_id.hex()})" for key in keys) or "no key"
        raise Rejected(f"the index of images is signed by no trusted key ({sealed.claimed})", f"Trusted are: {known}.")
    payload = sealed.payload
    try:
        check_parts(payload, parts_of(payload))
    except ValueError:
        raise Malformed("the index of images has more parts than can belong to it") from None
    index = parse(Index, payload, "the index of images")
    trees = {release.tree for release in index.releases}
    named = {tree for channel in index.channels.values() for tree in channel} | {image.tree for image in index.images}
    if len(trees) != len(index.releases) or not named <= trees:
        raise Malformed("the index of images names trees that it does not describe, or describes one twice")
    return index, signers[0].name


def write_index(index: Index, private: PrivateKey) -> bytes:
    """The index as it is stored, signed."""
    return Sealed(TYPE, index.to_bytes()).signed(private).to_bytes()
