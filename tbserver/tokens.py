"""Secrets that are made here, shown once, and kept as digests."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

# 256 bits: a digest without salt or stretching is as good as the secret is long.
SECRET_BYTES = 32
DAY = 24 * 3600


def create_secret(prefix: str = "") -> tuple[str, str]:
    """A new secret and its digest; a prefix lets people and scanners tell what it is."""
    secret = prefix + secrets.token_urlsafe(SECRET_BYTES)
    return secret, digest(secret)


def ends(days: int | None) -> int | None:
    """When a secret ends that is good for so many days from now on; None: never."""
    return int(time.time()) + days * DAY if days else None


def digest(secret: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_same(one: str | None, other: str | None) -> bool:
    """Whether two are equal, in a time that does not tell where they differ; nothing equals nothing."""
    return hmac.compare_digest((one or "").encode(), (other or "").encode()) and bool(one)
