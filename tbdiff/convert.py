"""An image made out of one in another form: applied to a copy of its base, and the result compared anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tbdiff.compare import compare
from tbdiff.create import Label, create_image
from tbdiff.descent import Descent
from tbdiff.entry import EMPTY, Kind, Listing
from tbdiff.errors import Failed, NothingToDo, Rejected
from tbdiff.image import open_image
from tbdiff.manifest import Manifest
from tbdiff.metadata import copy_content
from tbdiff.opened import OpenedImage, changing
from tbdiff.output import appearing, check_place
from tbdiff.rebuild import from_nothing
from tbdiff.scratch import scratch_directory
from tbdiff.signature import KeyRing
from tbdiff.source import open_source
from tbdiff.tar.filter import Packing
from tbdiff.tar.oci import as_tree, is_layout
from tbdiff.tar.tarball import facts_of
from tbdiff.tar.writer import packer, packing_of_name, write_tar
from tbdiff.tree import Progress, quiet, read_tree


def convert(
    source: str,
    base: Path | None,
    out: Path,
    *,
    scratch: Path | None = None,
    label: Label | None = None,
    key: Path | None = None,
    effort: str = "default",
    progress: Progress = quiet,
    notice: Callable[[str], None] | None = None,
    **how: Any,
) -> Manifest:
    """Write to `out` an image that does to the tree `base` (None: an empty directory) what `source` does.

    `how` it is read is for `result_of` to know. The result is built in `scratch` (where `out` is, if None).
    """
    with result_of(source, base, scratch or out.parent, progress, notice, **how) as target:
        return create_image(base, target, out, label=label, key=key, effort=effort, progress=progress, notice=notice)


def convert_to_tar(
    source: str,
    base: Path | None,
    out: Path,
    *,
    scratch: Path | None = None,
    progress: Progress = quiet,
    notice: Callable[[str], None] | None = None,
    **how: Any,
) -> Listing:
    """Write to `out` a tarball, packed as its name says, of the whole tree that `source` makes of the tree `base`."""
    packing = packing_of_name(out.name)
    if packing is None:
        raise AssertionError("the name is not one of a tarball")
    with result_of(source, base, scratch or out.parent, progress, notice, **how) as target:
        return pack_tree(target, out, packing, progress)


@contextmanager
def result_of(
    source: str,
    base: Path | None,
    scratch: Path,
    progress: Progress,
    notice: Callable[[str], None] | None,
    *,
    keys: KeyRing | None = None,
    signature: str | None = None,
    delta: bool | None = None,
    platform: str | None = None,
) -> Iterator[Path]:
    """What an image in whatever form makes of the tree `base`, for a while, in a directory in `scratch`.

    On one Btrfs with the base it takes no more room than what changes.
    """
    if is_layout(Path(source)):
        if keys is not None:
            raise Rejected(
                f"{source} is an OCI image layout, which has no signature that tbdiff knows",
                "Check it with the tool that fetched it, and leave --keys away.",
            )
        if base is not None or delta or signature:
            raise Rejected(
                f"{source} is an OCI image layout: a full system, which goes over no base",
                "`tbdiff create BASE LAYOUT` makes a delta to it.",
            )
        with as_tree(Path(source), scratch, platform, progress) as tree:
            yield tree
        return
    if platform is not None:
        raise Rejected(f"{source} is no OCI image layout, so no platform can be chosen in it", "Leave it away.")
    with (
        open_image(source, keys, signature=signature, delta=delta) as image,
        built(image, base, scratch, progress) as target,
    ):
        for text in image.notices:
            if notice:
                notice(text)
        yield target


def pack_tree(tree: Path, out: Path, packing: Packing, progress: Progress = quiet) -> Listing:
    """Write the tree to `out` as a tarball, which appears when it was read back as that very tree."""
    check_place(out, tree)
    listing = read_tree(tree, progress=progress)
    try:
        with appearing(out) as file:
            packed = packer(packing)
            write_tar(tree, listing, lambda data: file.write(packed.compress(data)), progress)
            file.write(packed.flush())
            file.flush()
            with open_source(file.name) as again:
                found = facts_of(again, packing, delta=False).tree
            if found is None or found.digest != listing.digest:
                raise Failed("the tarball did not read back as the tree that was packed; it was not kept")
    except OSError as error:
        raise Failed(f"{out} could not be written: {error.strerror}") from error
    return listing


@contextmanager
def built(image: OpenedImage, base: Path | None, scratch: Path, progress: Progress) -> Iterator[Path]:
    """What an image makes of the tree `base` (None: nothing), for a while, in a directory in `scratch`."""
    if base is None and (image.manifest.way.over_any_base or image.manifest.way.base is not None):
        raise Rejected("the image goes over a base, and none was named", "Name the tree that it was made for.")
    with scratch_copy(base, scratch, progress) as (target, listing):
        try:
            image.apply(target, listing if base else None, progress)
        except NothingToDo:
            pass  # an image of no change is one too
        except Rejected as stop:
            # What is said of the copy is true of the tree that it is a copy of.
            raise Rejected(str(stop).replace(str(target), str(base)), stop.remedy) from None
        yield target


@contextmanager
def scratch_copy(base: Path | None, scratch: Path, progress: Progress) -> Iterator[tuple[Path, Listing]]:
    """A copy of the tree `base` (None: an empty directory), with its listing, that goes away again.

    On one Btrfs with the base it takes no more room than what changes.
    """
    with scratch_directory(scratch) as place:
        listing = EMPTY
        if base is not None:
            listing = read_tree(base, progress=progress)
            copy_tree(base, listing, place, progress)
        yield place, listing


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
