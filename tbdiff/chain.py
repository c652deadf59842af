"""Several images that follow one on the other: opened and checked together, then applied to a tree one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbdiff.entry import Listing
from tbdiff.errors import Failed, NothingToDo, Rejected, Stop
from tbdiff.image import open_image
from tbdiff.opened import OpenedImage, changing
from tbdiff.tree import Progress, quiet, read_tree
from tbdiff.writer import sync

if TYPE_CHECKING:
    from tbdiff.signature import KeyRing


@dataclass(frozen=True)
class Link:
    """One image of a chain, under the name by which it was asked for."""

    source: str
    image: OpenedImage


@contextmanager
def opened_chain(sources: Sequence[str], keys: KeyRing | None, **tarball: Any) -> Iterator[list[Link]]:
    """The images, whose heads were verified and of which each may follow on the one before."""
    if sources.count("-") > 1:
        raise Rejected("only one image can come from standard input")
    with ExitStack() as stack:
        # Only of one that stands alone there is more to say.
        links = [Link(source, stack.enter_context(open_image(source, keys, **tarball))) for source in sources]
        for before, after in pairwise(links):
            _check_follows(before, after)
        yield links


def _check_follows(before: Link, after: Link) -> None:
    way, target = after.image.manifest.way, before.image.manifest.target
    if way.base is None and not way.over_any_base:
        raise Rejected(
            f"{after.source} is a full image, which starts from nothing; nothing was changed",
            f"Leave out what comes before it: {before.source}.",
        )
    # What a tarball that says nothing of itself leads to is seen when it was applied.
    if way.base is not None and target.tree is not None and way.base != target.tree:
        raise Rejected(
            f"{after.source} does not start where {before.source} ends (at tree {target.tree[:16]}…, "
            f"but from tree {way.base[:16]}…); nothing was changed",
            "Name the images in the order in which they follow on each other.",
        )


def apply_chain(
    links: Sequence[Link],
    tree: Path,
    keys: KeyRing | None,
    progress: Progress = quiet,
    notice: Callable[[str], None] | None = None,
    base: Listing | None = None,
) -> Listing:
    """Turn `tree` into the target of the last image, beginning with the image that starts from what the tree is.

    `base` is the listing of the tree where it is known. Rejected: the tree is as it was. Failed: it is as it was, or
    the target of the image that the message names.
    """
    listing = base
    if len(links) > 1:
        listing, links = _from_where_it_is(links, tree, base, progress)
        _check_all(links, tree, keys, progress)
    changed = False
    for n, link in enumerate(links):
        try:
            listing = link.image.apply(tree, listing, progress)
            changed = True
        except NothingToDo:
            # A layer in between may bring nothing.
            if n == len(links) - 1 and not changed:
                raise
            listing = listing or read_tree(tree, progress=progress)
        except Stop as stop:
            if not changed:
                raise
            sync(tree)
            raise Failed(
                f"{tree} became the target of {links[n - 1].source}, but {link.source} could not be applied to that: "
                f"{stop}",
                "The same command goes on from there.",
            ) from stop
        for text in link.image.notices:
            if notice:
                notice(text)
    if listing is None:
        raise AssertionError("no image was applied")
    return listing


def _from_where_it_is(
    links: Sequence[Link], tree: Path, listing: Listing | None, progress: Progress
) -> tuple[Listing | None, Sequence[Link]]:
    """The tree's listing, and the images from the one on that starts from it."""
    if listing is None:
        with changing(tree):
            # Now no leftover of a cut run is in it.
            listing = read_tree(tree, progress=progress)
    found = listing.digest.hex()
    for n, link in enumerate(links):
        if link.image.manifest.way.base == found:
            return listing, links[n:]
    if links[-1].image.manifest.target.tree == found:
        raise NothingToDo(f"{tree} is the target of {links[-1].source} already")
    first = links[0].image.manifest.way
    return (listing if first.base or first.over_any_base else None), links


def _check_all(links: Sequence[Link], tree: Path, keys: KeyRing | None, progress: Progress) -> None:
    """Whatever of all images can be known before the first one changes the tree."""
    for link in links:
        link.image.check_encoders()
    free = sum(link.image.manifest.way.free for link in links)
    status = os.statvfs(tree)
    if status.f_bavail * status.f_frsize < free:
        raise Rejected(
            f"{tree} has {status.f_bavail * status.f_frsize >> 20} MiB free, and the images need up to "
            f"{free + (1 << 20) - 1 >> 20} MiB together; nothing was changed",
            "Make room first, or apply them one by one.",
        )
    for link in links[1:]:
        # What is a file can be read twice: that it is whole is then known before.
        if Path(link.source).is_file():
            with open_image(link.source, keys) as again:
                if again.digest != link.image.digest:
                    raise Rejected(f"{link.source} changed while it was read; nothing was changed")
                again.check(progress)
