"""The head of an image as bytes: magic, the two statements, their signatures; and the same as a detached file."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tbdiff.dsse import ALGORITHMS, KEY_ID, SIGNATURE, Signature
from tbdiff.errors import Malformed
from tbdiff.manifest import STATEMENT_MAX, Manifest, parse_target, parse_way
from tbdiff.payload import Readable, read_exactly

if TYPE_CHECKING:
    from tbdiff.signature import KeyRing

MAGIC = b"\x89tbdiff\n"
DETACHED_MAGIC = b"\x89tbdsig\n"
SIGNATURES_MAX = 32
SIGNATURE_MAX = 1 << 14
# Role (0: over the target, 1: over the way), algorithm, key id, length of the signature.
_RECORD = struct.Struct(f"<BB{KEY_ID}sH")


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
        parts += (_RECORD.pack(not s.of_target, s.algorithm, s.key_id, len(s.value)) + s.value for s in self.signatures)
        return b"".join(parts)

    def verify(self, keys: KeyRing | None, *, unsigned_ok: bool = False) -> tuple[Manifest, tuple[str, ...]]:
        """The manifest and who signed it; nothing of it is parsed before the signatures are verified.

        Without `keys` no signature is looked at. With `unsigned_ok` an image without any signature passes.
        """
        if keys is None or (unsigned_ok and not self.signatures):
            return self.manifest(), ()
        of_target = keys.signers_of_target(self.target, self.signatures)
        # A delivery key carries devices to a tree that a release key answers for; where none is named, it has no say.
        named = parse_target(self.target).tree is not None
        of_way = keys.signers_of_way(self.way, self.signatures, delivery=named)
        return self.manifest(), tuple(dict.fromkeys((*of_target, *of_way)))

    def manifest(self) -> Manifest:
        """The two statements, parsed."""
        target, way = parse_target(self.target), parse_way(self.way, self.target)
        if way.container == "tbdiff" and target.tree is None:
            raise Malformed("the image does not say to which tree it leads")
        return Manifest(target=target, way=way)


def read_head(source: Readable, magic: bytes = MAGIC) -> Head:
    """Read the head behind its magic, which was read already."""
    statements = []
    for _ in range(2):
        (size,) = struct.unpack("<I", read_exactly(source, 4))
        if size > STATEMENT_MAX:
            raise Malformed("the image's manifest is too long to be one")
        statements.append(read_exactly(source, size))
    count = read_exactly(source, 1)[0]
    if count > SIGNATURES_MAX:
        raise Malformed("the image has more signatures than a reader counts")
    signatures = []
    for _ in range(count):
        role, algorithm, key_id, size = _RECORD.unpack(read_exactly(source, _RECORD.size))
        if size > SIGNATURE_MAX:
            raise Malformed("the image has a signature that is too long to be one")
        value = read_exactly(source, size)
        # Other roles and algorithms may come to be; here they count for nothing.
        if role <= 1 and algorithm in ALGORITHMS and size == SIGNATURE:
            signatures.append(Signature(not role, key_id, value, algorithm))
    return Head(statements[0], statements[1], tuple(signatures))


def merged_signatures(old: Sequence[Signature], new: Sequence[Signature]) -> tuple[Signature, ...]:
    """The old signatures and the new; a key that signed before signs anew."""
    made = {(s.of_target, s.key_id): s for s in (*old, *new)}
    return tuple(made.values())
