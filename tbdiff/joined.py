"""Images that follow one on the other, as one image: from the first one's base to the last one's target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbdiff.chain import Link, opened_chain
from tbdiff.entry import Listing
from tbdiff.errors import NothingToDo
from tbdiff.manifest import Manifest
from tbdiff.opened import Expect, OpenedImage, anything
from tbdiff.tree import Progress, quiet, read_tree

if TYPE_CHECKING:
    from tbdiff.signature import KeyRing


class JoinedImages:
    """Several opened images; they are applied one by one, and in between the tree is none of anybody's."""

    def __init__(self, links: Sequence[Link]) -> None:
        self._images = [link.image for link in links]
        first, last = self._images[0].manifest.way, self._images[-1].manifest
        way = last.way.model_copy(
            update={
                "base": first.base,
                "container": first.container,
                "free": sum(image.manifest.way.free for image in self._images),
            }
        )
        self.manifest = Manifest(target=last.target, way=way)
        self.signers = tuple(dict.fromkeys(signer for image in self._images for signer in image.signers))

    @property
    def digest(self) -> str:
        """What names the last image."""
        return self._images[-1].digest

    def apply(
        self, tree: Path, base: Listing | None = None, progress: Progress = quiet, expect: Expect = anything
    ) -> Listing:
        """Turn `tree` into the last image's target; return its listing. What fails in between leaves it as none."""
        for image in self._images:
            image.check_encoders()
        for n, image in enumerate(self._images, 1):
            try:
                base = image.apply(
                    tree, base, partial(_named, progress, n), expect if n == len(self._images) else anything
                )
            except NothingToDo:
                # A layer in between may bring nothing.
                base = base or read_tree(tree, progress=progress)
        if base is None:
            raise AssertionError("no image was applied")
        return base


def _named(progress: Progress, number: int, phase: str, done: int, total: int) -> None:
    progress(f"{phase} {number}", done, total)


@contextmanager
def opened_as_one(sources: Sequence[str], keys: KeyRing | None, **said: Any) -> Iterator[OpenedImage | JoinedImages]:
    """The images, opened and verified, as one."""
    with opened_chain(sources, keys, **said) as links:
        yield links[0].image if len(links) == 1 else JoinedImages(links)
