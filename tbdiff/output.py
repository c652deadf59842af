"""A file that is written aside, and appears under its name when it is complete."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tbdiff.errors import Rejected


def check_place(out: Path, *trees: Path | None) -> None:
    """Rejected where nothing may appear, before much is done for it.

    That is in the place of anything else than an image, behind a link, and within a tree that it is made of.
    """
    if str(out) == "-":
        raise Rejected("the result is written to a file, not to standard output", "Name a file.")
    if not out.parent.is_dir():
        raise Rejected(f"there is no directory {out.parent}, so nothing was written", "Make it first.")
    if out.is_dir():
        raise Rejected(f"{out} is a directory, so nothing was written", "Name a file.")
    if out.exists() and not stat.S_ISREG(out.stat().st_mode):
        raise Rejected(f"{out} is a device or a pipe, and would be replaced by a file; nothing was written")
    if out.is_symlink():
        raise Rejected(
            f"{out} is a symbolic link, and what it leads to would be replaced; nothing was written",
            "Name a file, or remove the link.",
        )
    if out.exists() and not _is_image(out):
        raise Rejected(f"{out} is there, and is no image; nothing was written", "Name another file, or remove it.")
    place = out.parent.resolve()
    for tree in filter(None, trees):
        if place.is_relative_to(tree.resolve()):
            raise Rejected(f"{out} lies in {tree}, which it is made of; nothing was written", "Name a file elsewhere.")


def _is_image(path: Path) -> bool:
    """Whether a file looks like what would take its place: an image of any kind, or nothing at all."""
    from tbdiff.head import MAGIC  # noqa: PLC0415 - who writes something else needs none of it
    from tbdiff.legacy.commands import START  # noqa: PLC0415
    from tbdiff.tar.filter import packing_of  # noqa: PLC0415

    with path.open("rb") as file:
        start = file.read(512)
    return not start or start.startswith((MAGIC, START)) or packing_of(start) is not None


@contextmanager
def appearing(out: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `out`, or of what `out` links to, when all of it is written and on disk."""
    place = Path(os.path.realpath(out))
    if place.exists() and not place.is_file():
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(place))
    with replacing(place) as file:
        yield file


@contextmanager
def replacing(place: Path) -> Iterator[BinaryIO]:
    """The same for what is ours alone: a link or a device in its place is replaced itself, and not written through."""
    temporary = place.with_name(f".{place.name}.new")
    # A run that was killed may have left one there.
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(place)
    finally:
        temporary.unlink(missing_ok=True)
