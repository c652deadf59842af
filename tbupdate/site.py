"""Where a plan is performed, and what its steps hand on to each other."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tbdiff.entry import Listing
from tbdiff.opened import Expect
from tbdiff.tree import Progress, quiet
from tbupdate.boot.chooser import Chooser
from tbupdate.layout import SNAPSHOTS, STATE
from tbupdate.localchanges.policy import DEFAULT, Policy
from tbupdate.system import System, survey


class Applicable(Protocol):
    """What performing needs of an opened image."""

    @property
    def digest(self) -> str:
        """What names the image; an unsigned tarball has a name only when it was read."""

    def apply(self, tree: Path, base: Listing | None, progress: Progress, expect: Expect) -> Listing:
        """Turn `tree` into the image's target, of which `expect` is told as soon as it is known; return its listing."""


@dataclass
class Site:
    """The mounted top level, and the boot chooser if there is one; then the image to apply, and what came of it.

    `options` and `tries` are what the configuration says of new boot entries, `local` what it says of local changes.
    `output` is the descriptor that a command in a new system prints to, if not where we do; `remarks` is what was found
    out on the way that a person should know.
    """

    top: str
    image: Applicable | None = None
    progress: Progress = quiet
    chooser: Chooser | None = None
    options: str = ""
    tries: int = 3
    local: Policy = DEFAULT
    listing: Listing | None = None
    kernels: tuple[str, frozenset[str]] | None = None
    output: int | None = None
    remarks: list[str] = field(default_factory=list)

    def survey(self) -> System:
        """The system as it is now."""
        return survey(self.top, self.chooser, self.options, self.tries)

    def path(self, name: str) -> str:
        """The path of a name in `snapshots/`."""
        return os.path.join(self.top, SNAPSHOTS, name)

    def record(self, deployment: str) -> str:
        """The directory of a deployment's record."""
        return os.path.join(self.top, STATE, deployment)
