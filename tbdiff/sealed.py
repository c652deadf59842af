"""A DSSE envelope in JSON: a statement's own bytes, and signatures over these."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import pydantic

from tbdiff.dsse import KEY_ID
from tbdiff.errors import Rejected
from tbdiff.signature import PrivateKey, PublicKey, answering, sign_as

SIGNATURES_MAX = 32
# A part of three bytes takes hundreds in memory. An envelope has few parts; those of a statement are not that small.
ENVELOPE_PARTS = 256
BYTES_OF_PART = 32


class _Signature(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, strict=True, extra="ignore")

    keyid: Annotated[str, pydantic.StringConstraints(pattern=rf"^[0-9a-f]{{{2 * KEY_ID}}}$")]
    sig: str


class Envelope(pydantic.BaseModel):
    """The envelope as it is stored."""

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, strict=True, extra="ignore")

    payloadType: str
    payload: str
    signatures: Annotated[tuple[_Signature, ...], pydantic.Field(max_length=SIGNATURES_MAX)]


@dataclass(frozen=True)
class Sealed:
    """A statement of some kind as it was signed, by the ids of who did, and their signatures."""

    kind: str
    payload: bytes
    signatures: tuple[tuple[bytes, bytes], ...] = ()

    def signers(self, keys: Sequence[PublicKey]) -> tuple[PublicKey, ...]:
        """Those of the keys that signed it."""
        return answering(keys, self.kind.encode(), self.payload, self.signatures)

    @property
    def claimed(self) -> str:
        """Who is said to have signed it, by ids."""
        return ", ".join(made_by.hex() for made_by, _ in self.signatures) or "nobody"

    def signed(self, private: PrivateKey) -> Sealed:
        """The same with a signature more; a key that signed before signs anew."""
        made = dict(self.signatures) | dict([sign_as(private, self.kind.encode(), self.payload)])
        return Sealed(self.kind, self.payload, tuple(made.items()))

    def to_fields(self) -> dict[str, object]:
        """As it is stored."""
        made = [{"keyid": by.hex(), "sig": base64.b64encode(value).decode()} for by, value in self.signatures]
        payload = base64.b64encode(self.payload).decode()
        return {"payloadType": self.kind, "payload": payload, "signatures": made}

    def to_bytes(self) -> bytes:
        """The same as a file."""
        return json.dumps(self.to_fields()).encode() + b"\n"


def unseal(raw: bytes, kind: str, what: str) -> Sealed:
    """Read an envelope; `what` should be in it, for the message where it cannot be."""
    try:
        check_parts(raw, ENVELOPE_PARTS)
        return opened(Envelope.model_validate_json(raw), kind)
    except (pydantic.ValidationError, ValueError):
        raise Rejected(f"{what} is none: it is damaged, or something else stands in its place") from None


def opened(envelope: Envelope, kind: str) -> Sealed:
    """What is in an envelope; ValueError if it is of another kind, or not in the form that it says."""
    if envelope.payloadType != kind:
        raise ValueError("another kind of statement")
    payload = base64.b64decode(envelope.payload, validate=True)
    made = [(bytes.fromhex(one.keyid), base64.b64decode(one.sig, validate=True)) for one in envelope.signatures]
    return Sealed(kind, payload, tuple(made))


def check_parts(raw: bytes, most: int) -> None:
    """Refuse what would take much more memory than it has bytes; ValueError."""
    if raw.count(b"{") + raw.count(b"[") + raw.count(b",") // 4 > most:
        raise ValueError("too many parts")


def parts_of(payload: bytes) -> int:
    """How many parts a statement of that length may have."""
    return ENVELOPE_PARTS + len(payload) // BYTES_OF_PART
