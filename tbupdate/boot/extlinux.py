"""extlinux: its extlinux.conf includes our choice, which names a default and includes the entries."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from tbupdate.boot.chooser import DEVICETREES, OURS, Choice, Coverage, Entry
from tbupdate.boot.inplace import CHOICE, ENTRIES, add_end, add_line, has_line, remove_end, remove_line

LINE = f"INCLUDE /{OURS}/{CHOICE}"
# U-Boot puts what is included behind the end of the text that includes it. Since 2023 there is nothing but the heap of
# U-Boot, which hangs then. It takes a zero for the end of a text: so room can be kept within the file, which U-Boot
# reads up to 64 KiB.
ROOM = b"# Behind this line U-Boot finds room for what is included.\n\0" + b"\n" * 32768
_WORDS = re.compile(r"^# tb-update default=(\S+) trial=(\S*) tries=(\d+) back=(\S*)$", re.MULTILINE)


@dataclass(frozen=True)
class Extlinux:
    """How extlinux is told."""

    name = "extlinux"
    suffix = ".conf"
    coverage = Coverage(
        False,
        "extlinux cannot count: tries are counted by the hook in the initramfs, so a kernel that dies before it is "
        "tried again and again until somebody chooses the other entry",
    )

    def write_choice(self, choice: Choice) -> str:
        chosen = f"tb-{choice.trial}-trial" if choice.trial else f"tb-{choice.default}"
        lines = [
            f"# tb-update default={choice.default} trial={choice.trial or ''} tries={choice.tries} "
            f"back={choice.back or ''}",
            f"DEFAULT {chosen}",
        ]
        named = filter(None, (choice.trial, choice.default))
        lines += [f"INCLUDE /{OURS}/{ENTRIES}/{one}{self.suffix}" for one in named]
        return "\n".join([*lines, ""])

    def read_choice(self, text: str) -> Choice | None:
        found = _WORDS.search(text)
        if found is None:
            return None
        return Choice(found[1], found[2] or None, int(found[3]), found[4] or None)

    def write_entry(self, entry: Entry) -> str:
        lines = []
        for label, more in ((f"tb-{entry.deployment}", ""), (f"tb-{entry.deployment}-trial", " panic=10")):
            lines += [f"LABEL {label}", f"  MENU LABEL {entry.title}"]
            lines.append(f"  LINUX /{OURS}/{entry.kernels}/vmlinuz")
            if entry.initrd:
                lines.append(f"  INITRD /{OURS}/{entry.kernels}/initrd")
            if entry.devicetree:
                word = "FDTDIR" if entry.devicetree == DEVICETREES else "FDT"
                lines.append(f"  {word} /{OURS}/{entry.kernels}/{entry.devicetree}")
            lines.append(f"  APPEND {entry.options}{more}")
        return "\n".join([*lines, ""])

    def include(self, directory: str) -> None:
        path = configuration(directory)
        add_line(path, LINE)
        if not is_syslinux(directory):
            add_end(path, ROOM)

    def leads(self, directory: str) -> bool:
        path = configuration(directory)
        if not has_line(path, LINE):
            return False
        with open(path, "rb") as file:
            return is_syslinux(directory) or ROOM in file.read()

    def exclude(self, directory: str) -> None:
        remove_end(configuration(directory), ROOM)
        remove_line(configuration(directory), LINE)


def is_syslinux(directory: str) -> bool:
    """Whether it is extlinux itself that reads its file, and not U-Boot, which reads the same."""
    return any(os.path.isfile(os.path.join(directory, name)) for name in ("extlinux/ldlinux.sys", "ldlinux.sys"))


def configuration(directory: str) -> str:
    """The file that extlinux reads first; empty where it is not used."""
    found = (os.path.join(directory, name) for name in ("extlinux/extlinux.conf", "extlinux.conf"))
    return next((path for path in found if os.path.isfile(path)), "")
