"""Trust statements: which keys are trusted from now on and which never again, signed by the keys before them."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic

from tbdiff.dsse import Algorithm
from tbdiff.errors import Malformed, Rejected
from tbdiff.index import Instant
from tbdiff.manifest import Statement, Word, parse
from tbdiff.sealed import BYTES_OF_PART, ENVELOPE_PARTS, Envelope, Sealed, check_parts, opened
from tbdiff.signature import KeyRing, PublicKey, public_key

NAME = "trust.json"
TYPE = "application/vnd.tbdiff.trust+json"
WHAT = "the chain of trust statements"
CHAIN_MAX = 1 << 20
STATEMENTS_MAX = 256
KEYS_MAX = 32
REVOKED_MAX = 256

Raw = Annotated[str, pydantic.StringConstraints(pattern=r"^([0-9a-f]{64}|04[0-9a-f]{128})$")]
Threshold = Annotated[int, pydantic.Field(ge=1, le=KEYS_MAX)]


class Key(pydantic.BaseModel):
    """A public key by its bytes, in hexadecimal digits."""

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, strict=True, extra="ignore")

    name: Word
    algorithm: Algorithm
    public: Raw

    @pydantic.model_validator(mode="after")
    def _is_one(self) -> Key:
        if self.key.algorithm != self.algorithm:
            raise ValueError("a key of another algorithm than it says")
        return self

    @property
    def key(self) -> PublicKey:
        """The same, to verify with."""
        return public_key(self.name, bytes.fromhex(self.public))

    @classmethod
    def of(cls, key: PublicKey) -> Key:
        """A key as a statement names it."""
        return cls(name=key.name, algorithm=key.algorithm, public=key.raw.hex())


Keys = Annotated[tuple[Key, ...], pydantic.Field(max_length=KEYS_MAX)]


@dataclass(frozen=True)
class Authority:
    """Who says which keys are trusted next: so many of these keys together."""

    keys: tuple[PublicKey, ...]
    threshold: int = 1

    def without(self, revoked: Collection[bytes]) -> Authority:
        """The same without keys that were revoked."""
        return Authority(tuple(key for key in self.keys if key.raw not in revoked), self.threshold)


class Trust(Statement):
    """The trusted keys. The first statement has version 1, each later one the next number.

    `threshold` of the `release` keys answer for a release; `delivery` keys answer for ways. The next statement is
    signed by `trust_threshold` of the `trust` keys; where there are none, by `threshold` of the release keys.
    `revoked` are the bytes of keys that count for nothing any more, wherever they come from.
    """

    type: Literal["tbdiff-trust"] = "tbdiff-trust"
    version: Annotated[int, pydantic.Field(ge=1, le=STATEMENTS_MAX)]
    issued: Instant
    expires: Instant
    release: Annotated[Keys, pydantic.Field(min_length=1)]
    threshold: Threshold = 1
    delivery: Keys = ()
    trust: Keys = ()
    trust_threshold: Threshold = 1
    revoked: Annotated[tuple[Raw, ...], pydantic.Field(max_length=REVOKED_MAX)] = ()

    @pydantic.model_validator(mode="after")
    def _can_be_met(self) -> Trust:
        for keys, threshold in (
            (self.release, self.threshold),
            (self.trust, self.trust_threshold if self.trust else 0),
        ):
            if len({key.public for key in keys}) < threshold:
                raise ValueError("fewer keys than must sign")
        if {key.public for key in (*self.release, *self.delivery, *self.trust)} & set(self.revoked):
            raise ValueError("a key that is trusted and revoked")
        return self

    @property
    def authority(self) -> Authority:
        """Who signs the next statement."""
        if self.trust:
            return Authority(tuple(key.key for key in self.trust), self.trust_threshold)
        return Authority(tuple(key.key for key in self.release), self.threshold)

    @property
    def ring(self) -> KeyRing:
        """The keys that images and indexes are verified with."""
        release, delivery = (tuple(key.key for key in keys) for keys in (self.release, self.delivery))
        return KeyRing(release, delivery, self.threshold)

    @property
    def revoked_keys(self) -> frozenset[bytes]:
        """The bytes of the keys that were revoked."""
        return frozenset(map(bytes.fromhex, self.revoked))


class _Chain(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, strict=True, extra="ignore")

    statements: Annotated[tuple[Envelope, ...], pydantic.Field(max_length=STATEMENTS_MAX)]


def read_chain(raw: bytes) -> tuple[Sealed, ...]:
    """The envelopes of all statements so far, the first one first; nothing in them is verified or read yet."""
    try:
        if len(raw) > CHAIN_MAX:
            raise ValueError("too long")
        check_parts(raw, ENVELOPE_PARTS + len(raw) // BYTES_OF_PART)
        return tuple(opened(envelope, TYPE) for envelope in _Chain.model_validate_json(raw).statements)
    except (pydantic.ValidationError, ValueError):
        raise Rejected(f"{WHAT} is none: it is damaged, or something else stands in its place") from None


def write_chain(chain: Sequence[Sealed]) -> bytes:
    """The chain as it is stored."""
    return json.dumps({"statements": [one.to_fields() for one in chain]}, indent=1).encode() + b"\n"


def follow(
    sealed: Sealed, version: int, before: Authority, revoked: Collection[bytes], distrusted: Collection[bytes] = ()
) -> Trust:
    """The statement with that version, if enough of the keys before it have signed it, and enough of its own.

    Keys that were `revoked` before, or are `distrusted` by who asks, count for nothing; what was revoked stays so. It
    may have expired: a later one is known by it all the same.
    """
    nothing = {*revoked, *distrusted}
    _require(sealed, before.without(nothing), version, "the keys that were trusted before it")
    trust = read_statement(sealed)
    if trust.version != version:
        raise Malformed(f"a trust statement of version {trust.version} stands where {version} belongs")
    if not set(revoked) <= trust.revoked_keys:
        why = f"trust statement {version} takes back that a key was revoked; what was trusted before stays so"
        raise Malformed(why)
    _require(sealed, trust.authority.without(nothing), version, "the keys that it names itself")
    return trust


def read_statement(sealed: Sealed) -> Trust:
    """What is in an envelope that was verified."""
    try:
        check_parts(sealed.payload, ENVELOPE_PARTS + len(sealed.payload) // BYTES_OF_PART)
    except ValueError:
        raise Malformed("a trust statement has more parts than can belong to it") from None
    return parse(Trust, sealed.payload, "the trust statement")


def lacking(sealed: Sealed, authority: Authority) -> int:
    """How many signatures of these keys it still needs."""
    return max(0, authority.threshold - len(sealed.signers(authority.keys)))


def _require(sealed: Sealed, authority: Authority, version: int, whose: str) -> None:
    if lacking(sealed, authority):
        signed = len(sealed.signers(authority.keys))
        raise Rejected(
            f"trust statement {version} is signed by {signed} of {whose}, and {authority.threshold} must have "
            f"({sealed.claimed}); what was trusted before stays so",
            "Whoever made it has it signed by more of them: tbdiff sign trust.json --key KEY",
        )
