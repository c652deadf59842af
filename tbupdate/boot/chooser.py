"""The boot chooser: what every boot loader is to tb-update. It knows entries, and which of them boots next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

OURS = "tb-update"
# In a kernel set: device trees of which the boot loader knows by itself which one is meant.
DEVICETREES = "dtbs"
MARK = "# tb-update: "


@dataclass(frozen=True)
class Entry:
    """What boots a deployment: its own kernel set, and a command line that names the deployment.

    `devicetree` is the name of one in the set, or of the directory of several.
    """

    deployment: str
    title: str
    kernels: str
    initrd: bool
    devicetree: str
    options: str

    def to_line(self) -> str:
        """The entry as a comment in its own file, by which it is read again."""
        return MARK + json.dumps(asdict(self))


def parse_entry(line: str) -> Entry | None:
    """The entry that a comment tells of, or None where it tells of none."""
    try:
        return Entry(**json.loads(line.removeprefix(MARK))) if line.startswith(MARK) else None
    except (ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Choice:
    """What boots: `trial` while it has tries left, else `default`; and `back`, which the hook falls back to.

    Tries without a trial are a counter that runs for nobody: it has to be stopped.
    """

    default: str
    trial: str | None = None
    tries: int = 0
    back: str | None = None

    def is_due(self, deployment: str) -> bool:
        """Whether that deployment is what boots next."""
        return deployment == (self.trial if self.trial is not None and self.tries > 0 else self.default)


@dataclass(frozen=True)
class Coverage:
    """What a boot loader does and does not do for a system that does not come up."""

    counts: bool
    sentence: str


class Chooser(Protocol):
    """A boot loader that was found; its files are ours alone, beside those of others."""

    @property
    def name(self) -> str:
        """The word for it in the configuration."""

    @property
    def directory(self) -> str:
        """Where the boot partition is mounted."""

    @property
    def coverage(self) -> Coverage:
        """What it covers."""

    def choice(self) -> Choice | None:
        """What boots; None where `init` has not set it up."""

    def entries(self) -> Mapping[str, Entry]:
        """Our entries, by deployment."""

    def add(self, entry: Entry) -> None:
        """Write an entry that nothing chooses yet, durably and for the boot loader to see."""

    def choose(self, choice: Choice) -> None:
        """THE SWITCH: what boots from now on, whole or not at all."""

    def forget(self, deployment: str) -> None:
        """Remove an entry that is not chosen; one that is not there is no error."""

    def set_up(self, choice: Choice) -> None:
        """Let the boot loader look at our entries from now on; done again it changes nothing more."""

    def leads(self) -> bool:
        """Whether the boot loader's own files still lead it to ours, as `set_up` has left them."""

    def take_down(self) -> None:
        """Undo that, and remove all that is ours."""

    def note(self) -> str:
        """What the hook said of the last boot; empty if it had nothing to say."""

    def clear_note(self) -> None:
        """Forget it."""
