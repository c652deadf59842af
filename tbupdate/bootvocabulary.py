"""The vocabulary of plans, where it is about booting: kernels, entries, tries, the switch on the boot partition."""

from __future__ import annotations

from dataclasses import dataclass

from tbupdate.boot.chooser import Choice, Entry
from tbupdate.boot.kernel import Overrides
from tbupdate.layout import SNAPSHOTS


@dataclass(frozen=True)
class RequireBootable:
    """Refuse a tree that cannot boot: its kernel, modules, init, and the hook in its initrd.

    `installed`: a system that was not deployed has its kernel on /boot, and not in its tree.
    """

    name: str
    overrides: Overrides
    installed: bool = False

    def __str__(self) -> str:
        return f"check that {SNAPSHOTS}/{self.name} has all that it needs to boot"


@dataclass(frozen=True)
class PutKernel:
    """Bring the kernel set of a deployment to /boot, unless it is there."""

    deployment: str
    overrides: Overrides
    installed: bool = False

    def __str__(self) -> str:
        return f"bring the kernel of {self.deployment} to /boot, if it is not there"


@dataclass(frozen=True)
class AddEntry:
    """A boot entry for the kernel set that was just put; nothing chooses it yet."""

    deployment: str
    title: str
    options: str

    def __str__(self) -> str:
        return f"add the boot entry of {self.deployment}"

    def with_kernels(self, kernels: str, files: frozenset[str]) -> Entry:
        """The entry, when it is known which set it boots."""
        tree = "devicetree" if "devicetree" in files else ""
        return Entry(self.deployment, self.title, kernels, "initrd" in files, tree, self.options)


@dataclass(frozen=True)
class SetUpBoot:
    """Let the boot loader look at our entries from now on."""

    choice: Choice

    def __str__(self) -> str:
        return f"THE SWITCH: let the boot loader boot {self.choice.default}"


@dataclass(frozen=True)
class TakeDownBoot:
    """Let the boot loader look at our entries no longer, and remove them."""

    def __str__(self) -> str:
        return "take our line out of the boot loader's configuration, and our files off /boot"


@dataclass(frozen=True)
class Choose:
    """THE SWITCH, where a boot chooser decides what boots next."""

    choice: Choice

    def __str__(self) -> str:
        if self.choice.trial is None:
            return f"THE SWITCH: let the boot loader boot {self.choice.default}"
        return (
            f"THE SWITCH: let the boot loader try {self.choice.trial} {self.choice.tries} times, "
            f"then {self.choice.default}"
        )


@dataclass(frozen=True)
class ForgetEntry:
    """Remove a boot entry that is not chosen."""

    deployment: str

    def __str__(self) -> str:
        return f"remove the boot entry of {self.deployment}"


@dataclass(frozen=True)
class CollectKernels:
    """Remove the kernel sets that no entry names."""

    def __str__(self) -> str:
        return "remove the kernels from /boot that nothing boots"


@dataclass(frozen=True)
class MakeTries:
    """Files that the hook in the initramfs takes away, one with each try."""

    deployment: str
    count: int

    def __str__(self) -> str:
        return f"give {self.deployment} {self.count} tries"


@dataclass(frozen=True)
class DropTries:
    """End the counting of tries: it was kept, or left."""

    deployment: str

    def __str__(self) -> str:
        return f"count the tries of {self.deployment} no longer"


@dataclass(frozen=True)
class ClearNote:
    """Forget what the hook said, when it is written down elsewhere."""

    def __str__(self) -> str:
        return "clear the note of the boot hook"
