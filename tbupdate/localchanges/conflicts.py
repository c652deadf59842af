"""Conflicts of local changes with an image: kept in the record of the deployment, with the image's versions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import pydantic

from tbdiff.entry import printable
from tbupdate.layout import CONFLICTS

LIST = "list.json"
_LIST_MAX = 16 << 20
_NAME_MAX = 200


class Conflict(pydantic.BaseModel):
    """The local version of `path` stays, and `why` it is one of two; `stored` is the file with the image's version."""

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, extra="ignore")

    path_hex: str
    why: str
    stored: str | None = None

    @property
    def path(self) -> bytes:
        """The path, relative to the root."""
        return bytes.fromhex(self.path_hex)

    @property
    def line(self) -> str:
        """It as a line for a person."""
        where = f"; the image's version: {CONFLICTS}/{self.stored}" if self.stored else ""
        return f"/{printable(self.path)}: {self.why}{where}"

    def to_fields(self) -> dict[str, Any]:
        """It for programs."""
        fields: dict[str, Any] = {"path": printable(self.path), "why": self.why, "stored": self.stored}
        return fields | ({"path_bytes": self.path_hex} if self.path != fields["path"].encode() else {})


def name_for(path: bytes) -> str:
    """The file that keeps the image's version of `path`."""
    from urllib.parse import quote_from_bytes  # noqa: PLC0415 - most runs need none of its memory

    name = quote_from_bytes(path, safe="")
    return name if len(name) <= _NAME_MAX and name != LIST else hashlib.sha256(path).hexdigest()


def read(record: str) -> tuple[Conflict, ...]:
    """The conflicts kept in the record directory; none where there are none, or the list cannot be read."""
    try:
        with open(os.path.join(record, CONFLICTS, LIST), "rb") as file:
            return pydantic.TypeAdapter(tuple[Conflict, ...]).validate_json(file.read(_LIST_MAX))
    except (OSError, pydantic.ValidationError):
        return ()


def keep(record: str, found: Mapping[bytes, tuple[str, bytes | None]]) -> tuple[Conflict, ...]:
    """Keep conflicts, each path with why and with the image's version if it is a file; those that are new."""
    if not found:
        return ()
    directory = os.path.join(record, CONFLICTS)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    kept = {one.path: one for one in read(record)}
    for path, (why, content) in sorted(found.items()):
        if content is not None:
            _write(os.path.join(directory, name_for(path)), content)
        stored = name_for(path) if content is not None else None
        kept[path] = Conflict(path_hex=path.hex(), why=why, stored=stored)
    shown = pydantic.TypeAdapter(tuple[Conflict, ...]).dump_json(tuple(kept.values()), indent=1)
    _write(os.path.join(directory, LIST), shown + b"\n")
    return tuple(kept[path] for path in sorted(found))


def _write(path: str, content: bytes) -> None:
    """Write a file that only root can read, durably: it may be one of passwords."""
    temporary = path + ".partial"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
