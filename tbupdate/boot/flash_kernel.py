"""flash-kernel: the boot script that it writes for U-Boot holds our part, which boots what our choice names.

So flash-kernel runs once; from then on kernel, initrd, device tree and options change together, in one block.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from tbdiff.errors import Rejected
from tbupdate import programs
from tbupdate.boot import place
from tbupdate.boot.chooser import Choice, Coverage, Entry
from tbupdate.boot.inplace import of_variables, to_variables, variables

PROGRAM = "flash-kernel"
SCRIPT = "boot.scr"
USUAL = "/boot"
# The first line of boot-hooks/flash-kernel/tb-update.
PART = b"# tb-update: boots the deployment that tb-update/choice names\n"
_SCRIPT_MAX = 1 << 20


@dataclass(frozen=True)
class FlashKernel:
    """How the boot script is told: both files are variables, which U-Boot imports."""

    name = "flash-kernel"
    suffix = ".env"
    coverage = Coverage(
        False,
        "the boot script of flash-kernel cannot count: tries are counted by the hook in the initramfs, so a kernel "
        "that dies before it is tried again and again until somebody tells U-Boot: setenv tb_notrial 1; boot",
    )

    def write_choice(self, choice: Choice) -> str:
        return to_variables(choice)

    def read_choice(self, text: str) -> Choice | None:
        # GRUB's are the same, behind a head.
        found = variables(text) if not text.startswith("#") else {}
        return of_variables(found) if found.get("tb_tries", "").isdecimal() else None

    def write_entry(self, entry: Entry) -> str:
        return f"tb_kernels={entry.kernels}\ntb_append={entry.options}\n"

    def include(self, directory: str) -> None:
        # Only where it is mounted as flash-kernel expects it can that be let write there.
        if not _has_part(directory) and os.path.realpath(directory) == USUAL:
            self._run()
            place.flush(directory)
        if not _has_part(directory):
            raise Rejected(
                f"the boot script {os.path.join(directory, SCRIPT)} does not boot what tb-update chooses; "
                "the boot loader was told nothing",
                f"Install tb-update in that system (make install), then run {PROGRAM} there. A board for which it "
                "writes no boot script cannot be helped.",
            )

    def leads(self, directory: str) -> bool:
        return _has_part(directory)

    def exclude(self, directory: str) -> None:
        """Without our files the script goes on to flash-kernel's own."""

    def _run(self) -> None:
        done = programs.run([PROGRAM])
        if done.code not in (0, programs.NOT_FOUND):
            raise Rejected(
                f"{PROGRAM} failed: {done.last_line}; the boot loader was told nothing", f"Run it by hand: {PROGRAM}"
            )


def is_used(directory: str) -> bool:
    """Whether flash-kernel wrote what boots: our part is in its script, or its program is there to put it in."""
    return os.path.isfile(os.path.join(directory, SCRIPT)) and (
        _has_part(directory) or os.path.isfile("/usr/sbin/flash-kernel")
    )


def _has_part(directory: str) -> bool:
    try:
        with open(os.path.join(directory, SCRIPT), "rb") as file:
            return PART in file.read(_SCRIPT_MAX)
    except FileNotFoundError:
        return False
