"""An image made out of one in another form: applied to a copy of its base, and the result compared anew."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tbdiff.compare import compare
from tbdiff.create import Label, create_image
from tbdiff.descent import Descent
from tbdiff.entry import EMPTY, Kind, Listing
from tbdiff.errors import NothingToDo, Rejected
from tbdiff.image import changing, open_image
from tbdiff.manifest import Manifest
from tbdiff.metadata import copy_content
from tbdiff.opened import OpenedImage
from tbdiff.rebuild import from_nothing
from tbdiff.signature import KeyRing
from tbdiff.tree import Progress, quiet, read_tree


def convert(
    source: str,
    base: Path | None,
    out: Path,
    *,
    keys: KeyRing | None = None,
    signature: str | None = None,
    delta: bool | None = None,
    scratch: Path | None = None,
    label: Label | None = None,
    key: Path | None = None,
    effort: str = "default",
    progress: Progress = quiet,
    notice: Callable[[str], None] | None = None,
) -> Manifest:
    """Write to `out` an image that does to the tree `base` (None: an empty directory) what the image `source` does.

    The result is built in a directory that is made in `scratch` (where `out` is, if None) and goes away again; on one
    Btrfs with the base it takes no more room than what changes.
    """
    with (
        open_image(source, keys, signature=signature, delta=delta) as image,
        built(image, base, scratch or out.parent, progress) as target,
    ):
        for text in image.notices:
            if notice:
                notice(text)
        return create_image(base, target, out, label=label, key=key, effort=effort, progress=progress, notice=notice)


@contextmanager
def built(image: OpenedImage, base: Path | None, scratch: Path, progress: Progress) -> Iterator[Path]:
    """What an image makes of the tree `base` (None: nothing), for a while, in a directory in `scratch`."""
    if base is None and image.manifest.way.over_any_base:
        raise Rejected("the image goes over a base, and none was named", "Name the tree that it was made for.")
    with scratch_copy(base, scratch, progress) as (target, listing):
        try:
            image.apply(target, listing if base else None, progress)
        except NothingToDo:
            pass  # an image of no change is one too
        yield target


@contextmanager
def scratch_copy(base: Path | None, scratch: Path, progress: Progress) -> Iterator[tuple[Path, Listing]]:
    """A copy of the tree `base` (None: an empty directory), with its listing, that goes away again.

    On one Btrfs with the base it takes no more room than what changes.
    """
    with tempfile.TemporaryDirectory(prefix=".tbdiff-", dir=scratch) as place:
        listing = EMPTY
        if base is not None:
            listing = read_tree(base, progress=progress)
            copy_tree(base, listing, Path(place), progress)
        yield Path(place), listing


def copy_tree(source: Path, listing: Listing, target: Path, progress: Progress = quiet) -> None:
    """Make the empty directory `target` the tree `listing`, whose contents are in `source`; extents are shared."""
    with changing(target) as writer, Descent(source) as descent:
        staging = writer.begin(EMPTY)
        staged: set[bytes] = set()
        for entry in listing:
            if entry.kind is Kind.FILE and entry.digest not in staged:
                staged.add(entry.digest)
                with descent.file(entry.path) as fd:
                    new = staging.new_file(entry.digest.hex().encode())
                    try:
                        copy_content(fd, new)
                    finally:
                        os.close(new)
        writer.transform(EMPTY, compare(EMPTY, listing), from_nothing(listing), progress)
