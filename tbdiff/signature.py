"""Keys and signatures: Ed25519 or ECDSA over the two statements of an image, and the keys that are trusted."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from tbdiff.dsse import (
    ALGORITHMS,
    ED25519,
    P256,
    SIGNATURE,
    TARGET_TYPE,
    WAY_TYPE,
    Algorithm,
    Signature,
    envelope,
    key_id,
)
from tbdiff.entry import printable
from tbdiff.errors import Failed, Malformed, Rejected

PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey

KEY_FILE_MAX = 1 << 16
_P = 2**255 - 19
_ORDER_8 = 2707385501144840649318225287225658788936804267575313519463743609750303021402
# The y coordinates of the points under whose keys anybody can sign anything (RFC 7748, section 7; curve order 8).
_SMALL_ORDER = frozenset({0, 1, _P - 1, _ORDER_8, _P - _ORDER_8})


@dataclass(frozen=True)
class PublicKey:
    """A public key under the name that its owner gave it; `raw` are the 32 bytes of Ed25519, or P-256's point in 65."""

    name: str
    raw: bytes
    key: Ed25519PublicKey | ec.EllipticCurvePublicKey

    @property
    def key_id(self) -> bytes:
        """The first bytes of the digest of the key's own bytes."""
        return key_id(self.raw)

    @property
    def algorithm(self) -> Algorithm:
        """What it signs with."""
        return "ed25519" if isinstance(self.key, Ed25519PublicKey) else "p256"

    def verifies(self, signature: bytes, kind: bytes, statement: bytes) -> bool:
        """Whether this key made the signature."""
        if len(signature) != SIGNATURE:
            return False
        message = envelope(kind, statement)
        try:
            if isinstance(self.key, Ed25519PublicKey):
                self.key.verify(signature, message)
            else:
                halves = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
                self.key.verify(encode_dss_signature(*halves), message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


def create_key(path: Path, algorithm: Algorithm = "ed25519") -> str:
    """Write a new private key to `path` and its public key to `path`.pub; return the key's id in hex."""
    private: PrivateKey
    private = Ed25519PrivateKey.generate() if algorithm == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    public = path.with_name(path.name + ".pub")
    if public.exists():
        raise Rejected(f"{public} exists already; nothing was written", "Choose another name, or remove it first.")
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    shown = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for file, content, mode in ((path, secret, 0o600), (public, shown, 0o644)):
        try:
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError:
            raise Rejected(f"{file} exists already; it was left as it is", "Choose another name.") from None
        except OSError as error:
            raise Failed(f"{file} cannot be written: {error.strerror}") from None
        try:
            with os.fdopen(fd, "wb") as out:
                out.write(content)
        except OSError as error:
            for begun in (path, file):
                begun.unlink(missing_ok=True)
            raise Failed(f"{file} cannot be written: {error.strerror}; there is no new key") from None
    return key_id(_raw(private.public_key())).hex()


def _key_file(path: Path) -> bytes:
    """What a key file holds; nothing where it is no file, or no key for its mere size."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        return file.read() if stat.S_ISREG(found.st_mode) and found.st_size <= KEY_FILE_MAX else b""


def _raw(key: Ed25519PublicKey | ec.EllipticCurvePublicKey) -> bytes:
    if isinstance(key, Ed25519PublicKey):
        return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def _is_p256(key: object) -> bool:
    of_curves = isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey)
    return of_curves and isinstance(key.curve, ec.SECP256R1)  # type: ignore[attr-defined] # what was asked just before


def load_private_key(path: Path) -> PrivateKey:
    """Read a private key file that `create_key` (or `openssl genpkey -algorithm ed25519`) wrote."""
    try:
        key = serialization.load_pem_private_key(_key_file(path), password=None)
    except OSError as error:
        raise Failed(f"the key {path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Rejected(f"{path} is not a private key in PEM form without a passphrase") from None
    if isinstance(key, Ed25519PrivateKey) or (isinstance(key, ec.EllipticCurvePrivateKey) and _is_p256(key)):
        return key
    raise Rejected(f"{path} is neither an Ed25519 key nor one of the curve P-256", "Make one with `tbdiff keygen`.")


def load_public_key(path: Path) -> PublicKey:
    """Read a public key file; Rejected if it is none, or one under which anybody could sign."""
    try:
        key = serialization.load_pem_public_key(_key_file(path))
    except OSError as error:
        raise Failed(f"the key {path} cannot be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Rejected(f"{path} is not a public key in PEM form") from None
    if not (isinstance(key, Ed25519PublicKey) or (isinstance(key, ec.EllipticCurvePublicKey) and _is_p256(key))):
        raise Rejected(f"{path} is neither an Ed25519 key nor one of the curve P-256")
    raw = _raw(key)
    if _is_degenerate(raw):
        raise Rejected(f"{path} is a degenerate key under which anybody could sign", "Remove it from the trusted keys.")
    return PublicKey(printable(os.fsencode(path.name.removesuffix(".pub"))), raw, key)


def public_key(name: str, raw: bytes) -> PublicKey:
    """The key with these bytes; ValueError if there is none, or anybody could sign under it."""
    if len(raw) == 32:
        if _is_degenerate(raw):
            raise ValueError("a degenerate key under which anybody could sign")
        return PublicKey(name, raw, Ed25519PublicKey.from_public_bytes(raw))
    if len(raw) != 65:
        raise ValueError("neither the 32 bytes of an Ed25519 key nor the 65 of one of the curve P-256")
    return PublicKey(name, raw, ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw))


def _is_degenerate(raw: bytes) -> bool:
    return len(raw) == 32 and int.from_bytes(raw, "little") % 2**255 % _P in _SMALL_ORDER


def sign(private: PrivateKey, statement: bytes, *, of_target: bool) -> Signature:
    """Sign a statement of an image."""
    algorithm = ED25519 if isinstance(private, Ed25519PrivateKey) else P256
    return Signature(of_target, *sign_as(private, TARGET_TYPE if of_target else WAY_TYPE, statement), algorithm)


def sign_as(private: PrivateKey, kind: bytes, statement: bytes) -> tuple[bytes, bytes]:
    """The id of the key, and its signature over a statement of this kind."""
    message, made_by = envelope(kind, statement), key_id(_raw(private.public_key()))
    if isinstance(private, Ed25519PrivateKey):
        return made_by, private.sign(message)
    halves = decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA256())))
    return made_by, b"".join(half.to_bytes(32, "big") for half in halves)


def public_half(private: PrivateKey, name: str) -> PublicKey:
    """The key that verifies what `private` signs."""
    public = private.public_key()
    return PublicKey(name, _raw(public), public)


def answering(
    keys: Iterable[PublicKey], kind: bytes, statement: bytes, signatures: Iterable[tuple[bytes, bytes]]
) -> tuple[PublicKey, ...]:
    """The keys that made any of the signatures, by their ids and values. One key counts once, whatever its names."""
    made = tuple(signatures)
    found: dict[bytes, PublicKey] = {}
    for key in keys:
        if key.raw not in found and any(
            by == key.key_id and key.verifies(value, kind, statement) for by, value in made
        ):
            found[key.raw] = key
    return tuple(found.values())


def _answering(
    keys: Sequence[PublicKey], statement: bytes, signatures: Sequence[Signature], of_target: bool
) -> tuple[PublicKey, ...]:
    """The keys that signed a statement of an image; a signature is by a key of the algorithm that it names."""
    found: tuple[PublicKey, ...] = ()
    for number, name in ALGORITHMS.items():
        of_kind = [key for key in keys if key.algorithm == name]
        made = [(s.key_id, s.value) for s in signatures if s.algorithm == number]
        found += answering(of_kind, TARGET_TYPE if of_target else WAY_TYPE, statement, made)
    return found


@dataclass(frozen=True)
class KeyRing:
    """The trusted keys. Release keys answer for targets and ways, delivery keys for ways only.

    `threshold` release keys together answer for a release; or one of its `own` keys, which the device's owner enrolled.
    """

    release: tuple[PublicKey, ...]
    delivery: tuple[PublicKey, ...] = ()
    threshold: int = 1
    own: tuple[PublicKey, ...] = ()

    @classmethod
    def load(cls, directory: Path) -> KeyRing:
        """All `*.pub` in the directory are release keys, all in its sub-directory `delivery` delivery keys."""
        return cls(_load_all(directory), _load_all(directory / "delivery"))

    @classmethod
    def of(cls, paths: Iterable[Path]) -> KeyRing:
        """A ring of release keys from single files."""
        return cls(tuple(map(load_public_key, paths)))

    def __len__(self) -> int:
        return len(self.release)

    @property
    def every_key(self) -> tuple[PublicKey, ...]:
        """All of them: each may say which of the signed images there are."""
        return self.release + self.own + self.delivery

    @property
    def fingerprint(self) -> str:
        """What is the same as long as the same keys answer for an image."""
        held = hashlib.sha256(b"%d" % self.threshold)
        for keys in (self.release, self.delivery, self.own):
            held.update(b"".join(sorted({key.raw for key in keys})) + b"/")
        return held.hexdigest()[:16]

    @property
    def names(self) -> tuple[str, ...]:
        """What the release keys are called."""
        return tuple(key.name for key in self.release)

    def signers_of_target(self, target: bytes, signatures: Sequence[Signature]) -> tuple[str, ...]:
        """The names of the keys that answer for a target statement; Rejected if they are too few."""
        if not self.release and not self.own:
            raise Rejected(
                "no key is trusted here, so no image can be; nothing was changed",
                "Put the public key of who makes your images (KEY.pub) into the directory of trusted keys: "
                "that of --keys, or on a device /etc/tb-update/keys, if `keys` in config.toml names no other.",
            )
        if not signatures:
            raise Rejected(
                "the image is not signed; nothing was changed", "Sign it with `tbdiff sign IMAGE --key KEY`."
            )
        return self._signers(self.release, self.threshold, target, signatures, of_target=True)

    def signers_of_way(self, way: bytes, signatures: Sequence[Signature], *, delivery: bool) -> tuple[str, ...]:
        """The names of the keys that answer for a way statement: as for a target; with `delivery` any one."""
        keys, threshold = (self.release + self.delivery, 1) if delivery else (self.release, self.threshold)
        return self._signers(keys, threshold, way, signatures, of_target=False)

    def _signers(
        self,
        keys: Sequence[PublicKey],
        threshold: int,
        statement: bytes,
        signatures: Sequence[Signature],
        *,
        of_target: bool,
    ) -> tuple[str, ...]:
        mine = [s for s in signatures if s.of_target == of_target]
        enough = _answering(keys, statement, mine, of_target)
        answer = enough if len(enough) >= threshold else _answering(self.own, statement, mine, of_target)
        if answer:
            return tuple(key.name for key in answer)
        if enough:
            raise Rejected(
                f"the image is signed by {', '.join(key.name for key in enough)} only, and {threshold} of the trusted "
                "keys must have; nothing was changed",
                "Whoever makes it has it signed by more of them: tbdiff sign IMAGE --key KEY",
            )
        known = {key.key_id for key in (*keys, *self.own)}
        if any(signature.key_id in known for signature in mine):
            raise Malformed(
                "the image's signature is not valid: it was changed after it was signed; nothing was changed here"
            )
        made = ", ".join(signature.key_id.hex() for signature in mine) or "none"
        raise Rejected(
            f"the image's {'target' if of_target else 'way'} is signed by no trusted key ({made}); nothing was changed",
            f"Trusted are: {', '.join(f'{key.name} ({key.key_id.hex()})' for key in (*keys, *self.own))}.",
        )


def _load_all(directory: Path) -> tuple[PublicKey, ...]:
    if not directory.is_dir():
        return ()
    return tuple(load_public_key(path) for path in sorted(directory.glob("*.pub")))
