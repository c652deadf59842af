"""Keys and signatures: Ed25519 over the two statements of an image, and the keys that are trusted."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tbdiff.entry import printable
from tbdiff.errors import Failed, Rejected

KEY_ID = 8
SIGNATURE = 64
TARGET_TYPE = b"application/vnd.tbdiff.target+json"
WAY_TYPE = b"application/vnd.tbdiff.way+json"

KEY_FILE_MAX = 1 << 16
_P = 2**255 - 19
_ORDER_8 = 2707385501144840649318225287225658788936804267575313519463743609750303021402
# The y coordinates of the points under whose keys anybody can sign anything (RFC 7748, section 7; curve order 8).
_SMALL_ORDER = frozenset({0, 1, _P - 1, _ORDER_8, _P - _ORDER_8})


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature by the key with this id over one statement: the target or the way."""

    of_target: bool
    key_id: bytes
    value: bytes


@dataclass(frozen=True)
class PublicKey:
    """A public key under the name that its owner gave it."""

    name: str
    raw: bytes
    key: Ed25519PublicKey

    @property
    def key_id(self) -> bytes:
        """The first bytes of the digest of the key's own bytes."""
        return key_id(self.raw)

    def verifies(self, signature: bytes, kind: bytes, statement: bytes) -> bool:
        """Whether this key made the signature."""
        try:
            self.key.verify(signature, envelope(kind, statement))
        except InvalidSignature:
            return False
        return True


def key_id(raw: bytes) -> bytes:
    """How a key is named in an image."""
    return hashlib.sha256(raw).digest()[:KEY_ID]


def envelope(kind: bytes, statement: bytes) -> bytes:
    """The bytes that are signed: DSSE's pre-authentication encoding, so that no statement passes for another kind."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(statement), statement)


def create_key(path: Path) -> str:
    """Write a new private key to `path` and its public key to `path`.pub; return the key's id in hex."""
    private = Ed25519PrivateKey.generate()
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


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key file that `create_key` (or `openssl genpkey -algorithm ed25519`) wrote."""
    try:
        key = serialization.load_pem_private_key(_key_file(path), password=None)
    except OSError as error:
        raise Failed(f"the key {path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Rejected(f"{path} is not a private key in PEM form without a passphrase") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Rejected(f"{path} is not an Ed25519 key", "Make one with `tbdiff keygen`.")
    return key


def load_public_key(path: Path) -> PublicKey:
    """Read a public key file; Rejected if it is none, or one under which anybody could sign."""
    try:
        key = serialization.load_pem_public_key(_key_file(path))
    except OSError as error:
        raise Failed(f"the key {path} cannot be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Rejected(f"{path} is not a public key in PEM form") from None
    if not isinstance(key, Ed25519PublicKey):
        raise Rejected(f"{path} is not an Ed25519 key")
    raw = _raw(key)
    if int.from_bytes(raw, "little") % 2**255 % _P in _SMALL_ORDER:
        raise Rejected(f"{path} is a degenerate key under which anybody could sign", "Remove it from the trusted keys.")
    return PublicKey(printable(os.fsencode(path.name.removesuffix(".pub"))), raw, key)


def sign(private: Ed25519PrivateKey, statement: bytes, *, of_target: bool) -> Signature:
    """Sign a statement of an image."""
    return Signature(of_target, *sign_as(private, TARGET_TYPE if of_target else WAY_TYPE, statement))


def sign_as(private: Ed25519PrivateKey, kind: bytes, statement: bytes) -> tuple[bytes, bytes]:
    """The id of the key, and its signature over a statement of this kind."""
    return key_id(_raw(private.public_key())), private.sign(envelope(kind, statement))


def public_half(private: Ed25519PrivateKey, name: str) -> PublicKey:
    """The key that verifies what `private` signs."""
    public = private.public_key()
    return PublicKey(name, _raw(public), public)


@dataclass(frozen=True)
class KeyRing:
    """The trusted keys: release keys answer for targets and ways, delivery keys for ways only."""

    release: tuple[PublicKey, ...]
    delivery: tuple[PublicKey, ...] = ()

    @classmethod
    def load(cls, directory: Path) -> KeyRing:
        """All `*.pub` in the directory are release keys, all in its sub-directory `delivery` delivery keys."""
        return cls(*(_load_all(place) for place in (directory, directory / "delivery")))

    @classmethod
    def of(cls, paths: Iterable[Path]) -> KeyRing:
        """A ring of release keys from single files."""
        return cls(tuple(map(load_public_key, paths)))

    def __len__(self) -> int:
        return len(self.release)

    @property
    def names(self) -> tuple[str, ...]:
        """What the release keys are called."""
        return tuple(key.name for key in self.release)

    def signer_of_target(self, target: bytes, signatures: Sequence[Signature]) -> str:
        """The name of the release key that answers for a target statement; Rejected if none does."""
        if not self.release:
            raise Rejected(
                "no key is trusted here, so no image can be; nothing was changed",
                "Put the public key of who makes your images (KEY.pub) into the directory of trusted keys.",
            )
        if not signatures:
            raise Rejected(
                "the image is not signed; nothing was changed", "Sign it with `tbdiff sign IMAGE --key KEY`."
            )
        return self._signer(self.release, target, signatures, of_target=True)

    def signer_of_way(self, way: bytes, signatures: Sequence[Signature], *, delivery: bool) -> str:
        """The name of the key that answers for a way statement: a release key or, with `delivery`, a delivery key."""
        keys = self.release + self.delivery if delivery else self.release
        return self._signer(keys, way, signatures, of_target=False)

    def _signer(
        self, keys: Sequence[PublicKey], statement: bytes, signatures: Sequence[Signature], *, of_target: bool
    ) -> str:
        kind = TARGET_TYPE if of_target else WAY_TYPE
        mine = [s for s in signatures if s.of_target == of_target]
        for signature in mine:
            for key in keys:
                if key.key_id == signature.key_id and key.verifies(signature.value, kind, statement):
                    return key.name
        known = {key.key_id for key in keys}
        if any(signature.key_id in known for signature in mine):
            raise Rejected(
                "the image's signature is not valid: it was changed after it was signed; nothing was changed here"
            )
        made = ", ".join(signature.key_id.hex() for signature in mine) or "none"
        raise Rejected(
            f"the image's {'target' if of_target else 'way'} is signed by no trusted key ({made}); nothing was changed",
            f"Trusted are: {', '.join(f'{key.name} ({key.key_id.hex()})' for key in keys)}.",
        )


def _load_all(directory: Path) -> tuple[PublicKey, ...]:
    if not directory.is_dir():
        return ()
    return tuple(load_public_key(path) for path in sorted(directory.glob("*.pub")))
