"""What every opened image has, whatever its form: who made it, where it leads, and what may be done with it."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tbdiff.changes import Change
from tbdiff.dsse import Signature
from tbdiff.entry import Listing
from tbdiff.errors import Failed, Rejected
from tbdiff.head import Head
from tbdiff.manifest import Manifest
from tbdiff.source import Source
from tbdiff.tree import STAGING, Progress, quiet
from tbdiff.writer import TransformError, TreeWriter

Self = TypeVar("Self", bound="OpenedImage")
Expect = Callable[[Listing], None]


def anything(target: Listing) -> None:
    """What is expected of a target by who takes any."""


class OpenedImage(ABC):
    """An image whose head was read and verified; its payload is read once, by one of the methods."""

    def __init__(self, source: Source, head: Head, manifest: Manifest, signers: tuple[str, ...]) -> None:
        self._source = source
        self._head = head
        self.manifest = manifest
        self.signers = signers
        # What applying it could not do as it says, in sentences.
        self.notices: list[str] = []

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._source.__exit__(kind, error, where)

    @property
    def digest(self) -> str:
        """What names the image: the SHA-256 of its way, which holds the digests of all the rest."""
        return hashlib.sha256(self._head.way).hexdigest()

    @property
    def stated(self) -> tuple[bytes, tuple[Signature, ...]]:
        """The target statement's bytes, and the signatures over it."""
        return self._head.target, tuple(s for s in self._head.signatures if s.of_target)

    @property
    def claimed_signers(self) -> tuple[str, ...]:
        """The ids of the keys under which it says it is signed, verified or not."""
        return tuple(dict.fromkeys(f"key {s.key_id.hex()}" for s in self._head.signatures))

    @abstractmethod
    def changes(self) -> list[Change]:
        """What it changes, in words."""

    @abstractmethod
    def apply(
        self, tree: Path, base: Listing | None = None, progress: Progress = quiet, expect: Expect = anything
    ) -> Listing:
        """Turn `tree`, which must be the image's base, into its target; return the target's listing.

        `base` is the listing of the tree where it is known; else the tree is read. `expect` is shown the target's
        listing as soon as that is known, and may raise. Rejected: the tree is as it was.
        """

    @abstractmethod
    def check(self, progress: Progress = quiet) -> object:
        """Read the whole payload and verify every byte of it, without a tree."""

    def check_encoders(self) -> None:
        """Rejected where a compressor that it needs is not here."""
        if self.manifest.way.encoders:
            from tbdiff.encoders import resolve  # noqa: PLC0415 - most images need none of its memory

            resolve(self.manifest.way.encoders)

    def check_space(self, tree: Path) -> None:
        """Rejected where there is no room for what applying writes."""
        status = os.statvfs(tree)
        if status.f_bavail * status.f_frsize < self.manifest.way.free:
            raise Rejected(
                f"{tree} has {status.f_bavail * status.f_frsize >> 20} MiB free, "
                f"and the image needs {self.manifest.way.free + (1 << 20) - 1 >> 20} MiB; nothing was changed",
                "Make room first.",
            )


def check_empty(tree: Path) -> None:
    """Rejected where a full image would not start from nothing."""
    held = [name for name in os.listdir(tree) if os.fsencode(name) != STAGING] if tree.is_dir() else None
    if held is None:
        raise Rejected(f"{tree} is not a directory", "Make an empty directory for a full image.")
    if held:
        raise Rejected(f"{tree} is not empty, and this is a full image", "Apply it to an empty directory.")


@contextmanager
def changing(tree: Path) -> Iterator[TreeWriter]:
    """A writer for `tree`; what goes wrong says whether the tree is as it was."""
    with _explained(tree), TreeWriter(tree) as writer:
        yield writer


@contextmanager
def _explained(tree: Path) -> Iterator[None]:
    try:
        yield
    except TransformError as error:
        raise Failed(
            f"{tree} could not be changed to the end, and is neither base nor target: {error}",
            "Start again from a copy of the base.",
        ) from error
    except OSError as error:
        raise Failed(f"the image could not be applied to {tree}, which was left as it was: {error.strerror}") from error
