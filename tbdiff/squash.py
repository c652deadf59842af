"""Consecutive images made one: applied to a copy of their base, and the way from there to the last target made anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tbdiff import encoders
from tbdiff.chain import Link, apply_chain, opened_chain
from tbdiff.convert import scratch_copy
from tbdiff.create import Known, Stated, write_image
from tbdiff.errors import NothingToDo, Rejected
from tbdiff.image import Image
from tbdiff.manifest import Manifest
from tbdiff.output import check_place
from tbdiff.signature import KeyRing, load_private_key
from tbdiff.tree import Progress, quiet


def squash(
    sources: Sequence[str],
    base: Path | None,
    out: Path,
    *,
    keys: KeyRing | None = None,
    scratch: Path | None = None,
    key: Path | None = None,
    effort: str = "default",
    progress: Progress = quiet,
    notice: Callable[[str], None] | None = None,
) -> Manifest:
    """Write to `out` one image that does what `sources` do one after the other, from the tree `base` on.

    It has the target statement of the last of them, with its signatures, so that `key` may be a delivery key; and it
    needs of a device no compressor that none of them needs.
    """
    private = load_private_key(key) if key else None
    check_place(out, base)
    with opened_chain(sources, keys) as links:
        _check_form(links)
        _check_named(links[0], base)
        relied_on = {mark for link in links for mark in link.image.manifest.way.encoders}
        with scratch_copy(base, scratch or out.parent, progress) as (tree, old):
            if base is not None and old.digest.hex() != links[0].image.manifest.way.base:
                raise Rejected(f"{base} is not the tree that {links[0].source} starts from; nothing was written")
            try:
                new = apply_chain(links, tree, keys, progress, notice, old if base else None)
            except NothingToDo:
                new = old  # there and back again
            return write_image(
                Known(base, old),
                Known(tree, new),
                out,
                Stated(*links[-1].image.stated),
                private,
                effort,
                encoders.stated(relied_on) if relied_on else None,
                progress,
            )


def _check_form(links: Sequence[Link]) -> None:
    for link in links:
        if not isinstance(link.image, Image):
            raise Rejected(
                f"{link.source} is in another form than tbdiff's own; nothing was written",
                "Make an image of it first, with `tbdiff convert`.",
            )


def _check_named(first: Link, base: Path | None) -> None:
    full = first.image.manifest.way.base is None
    if full and base is not None:
        raise Rejected(f"{first.source} is a full image: it starts from no tree", "Leave --base away.")
    if not full and base is None:
        raise Rejected(
            "deltas can be made one only with the tree that the first of them starts from; nothing was written",
            "Name that tree with --base.",
        )
