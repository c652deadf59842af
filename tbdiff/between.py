"""What is between the targets of two images - a delta, the news - by the images alone: no trees, and no root."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

from tbdiff import encoders
from tbdiff.create import Known, Stated, write_image
from tbdiff.entry import EMPTY, Listing
from tbdiff.errors import Failed, NothingToDo, Rejected
from tbdiff.image import Image, open_image
from tbdiff.manifest import Manifest, Target
from tbdiff.matching import Available
from tbdiff.output import check_place
from tbdiff.scratch import scratch_directory
from tbdiff.signature import KeyRing, load_private_key
from tbdiff.since import News, news
from tbdiff.tree import Progress, quiet


def make_between(
    base: str,
    target: str,
    out: Path,
    *,
    over: Sequence[str] = (),
    keys: KeyRing | None = None,
    scratch: Path | None = None,
    key: Path | None = None,
    effort: str = "default",
    available: Available | None = encoders.common,
    progress: Progress = quiet,
) -> Manifest:
    """Write to `out` an image that leads from the target of the image `base` to that of the image `target`.

    It has the target statement of `target`, with its signatures, so that `key` may be a delivery key. Where one of the
    two is a delta, what it starts from is the target of the other one, or of an image of `over`. Contents are laid out
    in `scratch` (where `out` is, if None) for a while.
    """
    private = load_private_key(key) if key else None
    check_place(out)
    images = _Images((*over, base, target), keys)
    old, new = images.tree_of(base), images.tree_of(target)
    if old == new:
        raise NothingToDo(f"{base} and {target} lead to the same tree, so there is nothing between them")
    with scratch_directory(scratch or out.parent) as place:
        laid: dict[str, Known] = {}
        for end in (old, new):
            for source in images.way_to(end, laid):
                images.lay_out(source, laid, place / str(len(laid)), progress)
        return write_image(laid[old], laid[new], out, images.stated(target), private, effort, available, progress)


def news_between(
    base: str, target: str, *, over: Sequence[str] = (), keys: KeyRing | None = None
) -> tuple[Target, Target, News]:
    """What the target of the image `target` has new against that of `base`; no content is read, nor anything written.

    The statements of both, and the news. Deltas are taken as for `make_between`.
    """
    images = _Images((*over, base, target), keys)
    listed: dict[str, Listing] = {}
    for end in (images.tree_of(base), images.tree_of(target)):
        for source in images.way_to(end, listed):
            images.list_of(source, listed)
    old, new = images.target_of(base), images.target_of(target)
    return old, new, news(listed[images.tree_of(base)], listed[images.tree_of(target)])


class _Images:
    """The images that were named, by the trees that they lead to."""

    def __init__(self, sources: Sequence[str], keys: KeyRing | None) -> None:
        self._keys = keys
        self._trees: dict[str, str] = {}
        self._bases: dict[str, str | None] = {}
        self._stated: dict[str, Stated] = {}
        self._targets: dict[str, Target] = {}
        self._makers: dict[str, str] = {}
        for source in dict.fromkeys(sources):
            with open_image(source, keys) as image:
                tree, base = image.manifest.target.tree, image.manifest.way.base
                if not isinstance(image, Image) or tree is None:
                    raise Rejected(
                        f"{source} is in another form than tbdiff's own; nothing was written",
                        "Make an image of it first, with `tbdiff convert`.",
                    )
                self._targets[source] = image.manifest.target
                self._trees[source], self._bases[source], self._stated[source] = tree, base, Stated(*image.stated)
            # A full image is the shortest way.
            if base is None or tree not in self._makers:
                self._makers[tree] = source

    def tree_of(self, source: str) -> str:
        """The tree that an image leads to."""
        return self._trees[source]

    def target_of(self, source: str) -> Target:
        """What is stated of it."""
        return self._targets[source]

    def stated(self, source: str) -> Stated:
        """What is stated of it, with the signatures."""
        return self._stated[source]

    def way_to(self, tree: str, laid: Container[str]) -> list[str]:
        """The images that lead to a tree from nothing, or from what is there; those first that come first."""
        way: list[str] = []
        wanted: str | None = tree
        while wanted is not None and wanted not in laid:
            source = self._makers.get(wanted)
            if source is None or source in way:
                raise Rejected(
                    f"{way[-1] if way else 'an image'} starts from the tree {wanted[:16]}…, and no image was named "
                    "that leads there from nothing; nothing was written",
                    "Name a full image, or with --over what leads there.",
                )
            way.insert(0, source)
            wanted = self._bases[source]
        return way

    def list_of(self, source: str, listed: dict[str, Listing]) -> None:
        """Read the names of what an image leads to, from those of what it starts from."""
        base = self._bases[source]
        with open_image(source, self._keys) as image:
            if not isinstance(image, Image) or image.manifest.way.base != base:
                raise Rejected(f"{source} changed while it was read; nothing was written")
            listing = image.listing(listed[base] if base is not None else EMPTY)
        listed[listing.digest.hex()] = listing

    def lay_out(self, source: str, laid: dict[str, Known], place: Path, progress: Progress) -> None:
        """Lay out what an image leads to, in a new directory."""
        base = self._bases[source]
        before = laid[base] if base is not None else Known(None, EMPTY)
        with open_image(source, self._keys) as image:
            if not isinstance(image, Image) or image.manifest.way.base != base:
                raise Rejected(f"{source} changed while it was read; nothing was written")
            try:
                place.mkdir()
                listing = image.lay_out(before.tree, before.listing, place, progress)
            except OSError as error:
                raise Failed(f"{source} could not be laid out in {place.parent}: {error.strerror}") from error
        laid[listing.digest.hex()] = Known(place, listing)
