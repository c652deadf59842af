"""The boot chooser: what every boot loader is to tb-update. It knows entries, and which of them boots next."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

OURS = "tb-update"
# In a kernel set: device trees of which the boot loader knows by itself which one is meant.
DEVICETREES = "dtbs"
MARK = "# tb-update: "
ENTRY_MAX = 1 << 16
STARTED_WITH = "/proc/cmdline"
# A word of a command line that no boot loader's script reads as more.
PLAIN_WORD = re.compile(r"[A-Za-z0-9._,:=/@+%~-]+")


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

    @property
    def files(self) -> tuple[str, ...]:
        """What has to be in its kernel set."""
        return ("vmlinuz", "initrd") if self.initrd else ("vmlinuz",)

    def to_line(self) -> str:
        """The entry as a comment in its own file, by which it is read again."""
        return MARK + json.dumps(asdict(self))


def was_chosen(deployment: str | None = None) -> bool:
    """Whether the running kernel was started by an entry of ours: of that deployment, or of any."""
    ids = [word.removeprefix("tb.id=") for word in command_line().split() if word.startswith("tb.id=")]
    return bool(ids) if deployment is None else deployment in ids


def command_line() -> str:
    """What the running kernel was started with; it may be no UTF-8."""
    with open(STARTED_WITH, errors="replace") as file:
        return file.read()


def parse_entry(content: bytes) -> Entry | None:
    """The entry that the first line of a file tells of, or None where it tells of none."""
    line = content.partition(b"\n")[0].decode("utf-8", "replace")
    try:
        entry = Entry(**json.loads(line.removeprefix(MARK))) if line.startswith(MARK) else None
    except (ValueError, TypeError, RecursionError):
        return None
    return entry if entry is not None and _is_sound(entry) else None


def _is_sound(entry: Entry) -> bool:
    texts = (entry.deployment, entry.title, entry.kernels, entry.devicetree, entry.options)
    return all(isinstance(text, str) for text in texts) and "/" not in entry.kernels + entry.deployment


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

    def require_tools(self, tree: int, current: int) -> None:
        """Refuse a system that could not tell it anything: its tree and the one before it, by descriptors."""

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
