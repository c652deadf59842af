"""How a signature stands in an image: by which key, with which algorithm, over which statement, in which envelope."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

KEY_ID = 8
SIGNATURE = 64
# How the algorithms are numbered in an image. P-256 is what tokens behind PKCS #11 know.
ED25519, P256 = 1, 2
Algorithm = Literal["ed25519", "p256"]
ALGORITHMS: dict[int, Algorithm] = {ED25519: "ed25519", P256: "p256"}
TARGET_TYPE = b"application/vnd.tbdiff.target+json"
WAY_TYPE = b"application/vnd.tbdiff.way+json"


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature by the key with this id over one statement: the target or the way."""

    of_target: bool
    key_id: bytes
    value: bytes
    algorithm: int = ED25519


def key_id(raw: bytes) -> bytes:
    """How a key is named in an image."""
    return hashlib.sha256(raw).digest()[:KEY_ID]


def envelope(kind: bytes, statement: bytes) -> bytes:
    """The bytes that are signed: DSSE's pre-authentication encoding, so that no statement passes for another kind."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(statement), statement)
