"""The head of an image as bytes: magic, the two statements, their signatures; and the same as a detached file."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tbdiff.errors import Rejected
from tbdiff.manifest import STATEMENT_MAX, Manifest, parse_target, parse_way
from tbdiff.payload import Readable, read_exactly
from tbdiff.signature import KEY_ID, SIGNATURE, KeyRing, Signature

MAGIC = b"\x89tbdiff\n"
DETACHED_MAGIC = b"\x89tbdsig\n"
SIGNATURES_MAX = 32
_RECORD = struct.Struct(f"<B{KEY_ID}s{SIGNATURE}s")


@dataclass(frozen=True, slots=True)
class Head:
    """The statements' own bytes, and the signatures over them."""

    target: bytes
    way: bytes
    signatures: tuple[Signature, ...] = ()

    def to_bytes(self, magic: bytes = MAGIC) -> bytes:
        """The head as it is stored."""
        parts = [magic]
        for statement in (self.target, self.way):
            parts += (struct.pack("<I", len(statement)), statement)
        parts.append(bytes((len(self.signatures),)))
        parts += (_RECORD.pack(not s.of_target, s.key_id, s.value) for s in self.signatures)
        return b"".join(parts)

    def verify(self, keys: KeyRing | None, *, unsigned_ok: bool = False) -> tuple[Manifest, tuple[str, ...]]:
        """The manifest and who signed it; nothing of it is parsed before the signatures are verified.

        Without `keys` no signature is looked at. With `unsigned_ok` an image without any signature passes.
        """
        signers: tuple[str, ...] = ()
        if keys is not None and not (unsigned_ok and not self.signatures):
            signers = keys.check(self.target, self.way, self.signatures)
        return self.manifest(), signers

    def manifest(self) -> Manifest:
        """The two statements, parsed."""
        return Manifest(target=parse_target(self.target), way=parse_way(self.way, self.target))


def read_head(source: Readable, magic: bytes = MAGIC) -> Head:
    """Read the head behind its magic, which was read already."""
    statements = []
    for _ in range(2):
        (size,) = struct.unpack("<I", read_exactly(source, 4))
        if size > STATEMENT_MAX:
            raise Rejected("the image's manifest is too long to be one")
        statements.append(read_exactly(source, size))
    count = read_exactly(source, 1)[0]
    if count > SIGNATURES_MAX:
        raise Rejected("the image has more signatures than a reader counts")
    signatures = []
    for _ in range(count):
        of_way, key_id, value = _RECORD.unpack(read_exactly(source, _RECORD.size))
        if of_way > 1:
            raise Rejected("the image has a signature over something unknown")
        signatures.append(Signature(not of_way, key_id, value))
    return Head(statements[0], statements[1], tuple(signatures))


def merged_signatures(old: Sequence[Signature], new: Sequence[Signature]) -> tuple[Signature, ...]:
    """The old signatures and the new; a key that signed before signs anew."""
    made = {(s.of_target, s.key_id): s for s in (*old, *new)}
    return tuple(made.values())
