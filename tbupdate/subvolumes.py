"""Btrfs subvolumes: the only importer of btrfsutil, and the one place that knows how it can be missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from tbdiff.errors import Failed

TOP_LEVEL_ID = 5
_READ_ONLY = 1


@dataclass(frozen=True)
class Found:
    """One subvolume as Btrfs knows it; `path` is relative to the top level."""

    path: str
    id: int
    uuid: bytes
    parent_uuid: bytes
    read_only: bool
    seal: str


@cache
def _bindings() -> Any:
    """The bindings of Btrfs, when they are needed first: what needs none works without."""
    try:
        import btrfsutil  # noqa: PLC0415 - see above
    except ImportError as error:
        # btrfsutil 6.14 and later from PyPI builds against an older libbtrfsutil, and then lacks a symbol here.
        raise Failed(
            f"the Python module btrfsutil does not load, and nothing was changed: {error}",
            "Install your distribution's python3-btrfsutil (and use a virtual environment with "
            "--system-site-packages), or pip's btrfsutil in a version that is not newer than the installed "
            "libbtrfsutil.",
        ) from None
    return btrfsutil


def is_top_level(path: str) -> bool:
    """Whether the directory `path` is the root of subvolume 5."""
    return bool(_bindings().is_subvolume(path)) and _bindings().subvolume_id(path) == TOP_LEVEL_ID


def containing(path: str) -> int:
    """The id of the subvolume that `path` lies in."""
    return int(_bindings().subvolume_id(path))


def find_all(top: str) -> Iterator[Found]:
    """Every subvolume of the file system but the top level itself."""
    with _bindings().SubvolumeIterator(top, TOP_LEVEL_ID, info=True) as found:
        for path, known in found:
            yield Found(path, known.id, known.uuid, known.parent_uuid, bool(known.flags & _READ_ONLY), _seal(known))


def default(top: str) -> int:
    """The id of the default subvolume."""
    return int(_bindings().get_default_subvolume(top))


def set_default(path: str) -> None:
    """Make the subvolume at `path` the default one. Not durable before the next syncfs."""
    _bindings().set_default_subvolume(path)


def create(path: str) -> None:
    """Create an empty subvolume."""
    _bindings().create_subvolume(path)


def snapshot(source: str, path: str, *, read_only: bool) -> None:
    """Make `path` a snapshot of the subvolume `source`."""
    _bindings().create_snapshot(source, path, read_only=read_only)


def make_read_only(path: str) -> None:
    """Close the subvolume at `path` to changes."""
    _bindings().set_subvolume_read_only(path, True)


def seal(path: str) -> str:
    """What becomes another one when anything within the subvolume is changed: its UUID and its last transaction.

    Only what was synced, or a snapshot was taken of, is seen. Snapshots of it, its read-only flag, its name, a balance,
    a scrub and a mount change nothing; a copy by `btrfs receive` is another subvolume.
    """
    known = _bindings().subvolume_info(path)
    return _seal(known)


def _seal(known: Any) -> str:
    return f"{known.uuid.hex()}:{known.ctransid}"


def is_cleaning(top: str) -> bool:
    """Whether Btrfs is still giving back the room of subvolumes that were deleted."""
    return bool(_bindings().deleted_subvolumes(top))


def delete(path: str) -> None:
    """Delete the subvolume at `path`, but no other one within it. A mounted one is deleted as well: ask before."""
    if not _bindings().is_subvolume(path):
        raise NotADirectoryError(20, os.strerror(20), path)
    _bindings().delete_subvolume(path)
