"""The head of an image: two statements, and who signed them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import unicodedata
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.secondreader.cursor import Bytes, RefusedError, demand

MAGIC = bytes.fromhex("8974626469 66660a")
COUNT, DIGEST, PATH = "count", r"[0-9a-f]{64}", "path"
WORD, LINE = r"[A-Za-z0-9][A-Za-z0-9._+~:@-]{0,99}", r"[^\x00-\x1f\x7f-\x9f]{0,200}"
ENCODER = r"[a-z0-9]{1,16}(:[0-9]{1,4}){0,6}=[0-9a-f]{16}"
REQUIRED = object()
TARGET_FIELDS: dict[str, tuple[Any, Any]] = {
    "name": (LINE, ""), "release": (WORD, None), "device_types": ([WORD], []), "epoch": (COUNT, 0),
    "tree": (DIGEST, None), "entries": (COUNT, 0), "size": (COUNT, 0), "largest": (COUNT, 0),
    "kernel": (PATH, None), "initrd": (PATH, None), "devicetree": (PATH, None),
}  # fmt: skip
WAY_FIELDS: dict[str, tuple[Any, Any]] = {
    "target": (DIGEST, REQUIRED), "container": ("tbdiff|tar|tar-delta", "tbdiff"), "base": (DIGEST, None),
    "payload": (COUNT, 0), "chunk_size": (COUNT, 262144), "chunks": (DIGEST, REQUIRED), "streams": ([COUNT], []),
    "lzma": ([COUNT], []), "encoders": ([ENCODER], []), "free": (COUNT, 0),
}  # fmt: skip


@dataclasses.dataclass
class Head:
    target: dict[str, Any]
    way: dict[str, Any]


def read_head(image: Bytes, release: list[bytes] | None, delivery: list[bytes], threshold: int = 1) -> Head:
    """The statements; their signatures are verified if `release` keys are given."""
    demand(image.take(8) == MAGIC, "no image")
    raw = []
    for _ in range(2):
        size = image.fixed(4)
        demand(size <= 1 << 20, "a statement of too many bytes")
        raw.append(image.take(size))
    count = image.fixed(1)
    demand(count <= 32, "too many signatures")
    found = [(image.fixed(1), image.fixed(1), image.take(8), limited(image)) for _ in range(count)]
    # The algorithms, by the length of their keys.
    lengths = {1: 32, 2: 65}
    signatures = [(role, lengths[sort], name, v) for role, sort, name, v in found if sort in lengths and len(v) == 64]

    def signed(role: int, keys: list[bytes], least: int) -> bool:
        kind = b"application/vnd.tbdiff." + (b"target", b"way")[role] + b"+json"
        message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(raw[role]), raw[role])
        made_it = {
            key for at, length, name, value in signatures for key in keys
            if at == role and name == hashlib.sha256(key).digest()[:8] and len(key) == length
            and verifies(key, value, message)
        }  # fmt: skip
        return len(made_it) >= least

    demand(release is None or signed(0, release, threshold), "the target is not signed")
    target = statement(raw[0], "tbdiff-target", TARGET_FIELDS)
    trusted = (release or []) + (delivery if target["tree"] else [])
    demand(release is None or signed(1, trusted, 1 if target["tree"] else threshold), "the way is not signed")
    way = statement(raw[1], "tbdiff-way", WAY_FIELDS)
    by_lzma = way["lzma"]
    demand(all(n < len(way["streams"]) for n in by_lzma) and by_lzma == sorted(set(by_lzma)), "no such streams")
    demand(not by_lzma or json.loads(raw[1]).get("requires") == ["lzma"], "it does not say what it requires")
    demand(way["target"] == hashlib.sha256(raw[0]).hexdigest(), "the way leads elsewhere")
    demand(way["container"] == "tbdiff" and target["tree"], "no image of this sort")
    return Head(target, way)


def limited(image: Bytes) -> bytes:
    size = image.fixed(2)
    demand(size <= 1 << 14, "a signature of too many bytes")
    return image.take(size)


def verifies(key: bytes, signature: bytes, message: bytes) -> bool:
    if len(key) == 65:
        r, s = (int.from_bytes(signature[at : at + 32], "big") for at in (0, 32))
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)
        try:
            point.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True
    p, c = 2**255 - 19, 2707385501144840649318225287225658788936804267575313519463743609750303021402
    if int.from_bytes(key, "little") % 2**255 % p in (0, 1, p - 1, c, p - c):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def statement(raw: bytes, kind: str, fields: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    try:
        found = json.loads(raw.decode())
    except (ValueError, RecursionError):
        raise RefusedError("a statement that is no JSON") from None
    demand(isinstance(found, dict) and found.get("type") == kind, "a statement of another type")
    demand(type(found.get("format")) is int and found["format"] == 1, "another format")
    demand(found.get("requires", []) in ([], ["lzma"]), "it requires what is not known here")
    result = {}
    for name, (form, default) in fields.items():
        value = found.get(name, default)
        demand(value is not REQUIRED, f"{name} is missing")
        fits = all(fit(form[0], v) for v in value) if isinstance(form, list) and isinstance(value, list) else None
        demand(value is default or (fit(form, value) if fits is None else fits), f"{name} is not as it should be")
        result[name] = value
    return result


def fit(form: Any, value: Any) -> bool:
    if form is COUNT:
        return type(value) is int and 0 <= value < 2**63
    if form is PATH:
        return isinstance(value, str) and all(part not in ("", ".", "..") for part in value.split("/")) and plain(value)
    return isinstance(form, str) and isinstance(value, str) and re.fullmatch(form, value) is not None


def plain(path: str) -> bool:
    return len(path.encode()) <= 4095 and all(c == " " or unicodedata.category(c)[0] not in "CZ" for c in path)
