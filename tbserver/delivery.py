"""The delivery key of a server: the only private key that it has, which answers for ways to releases, never for one."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tbdiff.errors import Failed
from tbdiff.signature import PublicKey, create_key, load_private_key, load_public_key, public_half
from tbserver.settings import Settings

NAME = "the delivery key of this server"


def ready(settings: Settings) -> PublicKey:
    """The public half; a key is made (readable by its owner only) where there is none. Its `.pub` stands beside it."""
    path, public = settings.key, public_file(settings)
    try:
        if not path.exists():
            _make(path)
        key = public_half(load_private_key(path), NAME)
        if not public.exists():
            _write(public, key)
    except OSError as error:
        raise Failed(
            f"the delivery key {path} cannot be made: {error.strerror}", "Name another place with --delivery-key."
        ) from None
    return key


def _make(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        new = Path(place, path.name)
        create_key(new)
        # Of several processes that begin at once one makes the key of all.
        with suppress(FileExistsError):
            os.link(new, path)


def _write(path: Path, key: PublicKey) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        new = Path(place, path.name)
        new.write_bytes(key.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        new.replace(path)


def public_file(settings: Settings) -> Path:
    """What is put on devices."""
    return settings.key.with_name(f"{settings.key.name}.pub")


def known(settings: Settings) -> tuple[PublicKey, str] | None:
    """The public half, also in PEM form, where there is a key already."""
    path = public_file(settings)
    return (load_public_key(path), path.read_text()) if path.exists() else None


def advice(settings: Settings) -> str:
    """How devices come to trust it."""
    key = ready(settings)
    return (
        f"Deltas that this server makes are signed by its delivery key {key.key_id.hex()} ({public_file(settings)}). "
        "Devices take them once they trust it: put that file into /etc/tb-update/keys/delivery, "
        "or name it to `tbdiff rotate --delivery`; until then they fetch full images."
    )
