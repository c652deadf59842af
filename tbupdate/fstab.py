"""/etc/fstab: the one thing in it that would defeat the default subvolume."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

_NOT_OUTSIDE = ("/boot", "/efi", "/proc", "/sys", "/dev", "/run", "/tmp")  # noqa: S108 - a name in a table
_NO_FILE_SYSTEM = ("swap", "proc", "sysfs", "devpts", "devtmpfs", "cgroup", "cgroup2", "efivarfs", "debugfs", "none")
_OPTION = re.compile(r"subvol(?:id)?=")


def without_subvolume(text: str) -> str:
    """The same table, where the line of / names no subvolume."""
    return "".join(map(_line_without, text.splitlines(keepends=True)))


def _line_without(line: str) -> str:
    fields = re.split(r"(\s+)", line.rstrip("\n"))
    words = [n for n, field in enumerate(fields) if field and not field.isspace()]
    if len(words) < 4 or fields[words[0]].startswith("#") or fields[words[1]] != "/":
        return line
    options = fields[words[3]].split(",")
    left = [one for one in options if not _OPTION.match(one)]
    if left == options:
        return line
    fields[words[3]] = ",".join(left) or "defaults"
    return "".join(fields) + line[len(line.rstrip("\n")) :]


def free(tree: str) -> None:
    """Rewrite the table in a tree, if need be; a tree without one, or with a link in its place, stays as it is."""
    path = os.path.join(tree, "etc/fstab")
    if os.path.islink(os.path.join(tree, "etc")) or os.path.islink(path) or not os.path.isfile(path):
        return
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        before = file.read()
    after = without_subvolume(before)
    if after != before:
        with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(after)


@dataclass(frozen=True)
class Line:
    """One line of the table, without what tells nothing here."""

    device: str
    point: str
    kind: str
    options: tuple[str, ...]


def read(tree: str) -> list[Line]:
    """The lines of a system's table, as far as they can be read."""
    path = os.path.join(tree, "etc/fstab")
    if os.path.islink(os.path.join(tree, "etc")) or os.path.islink(path) or not os.path.isfile(path):
        return []
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return lines(file.read())


def lines(text: str) -> list[Line]:
    """The lines of a table; later ones mount over earlier ones."""
    found = []
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        if len(fields) > 2:
            options = tuple((fields[3] if len(fields) > 3 else "defaults").split(","))
            found.append(Line(fields[0], os.path.normpath(fields[1]), fields[2], options))
    return found


def outside(table: Iterable[Line]) -> list[Line]:
    """The lines that mount something over a directory of the root; not the boot partition, nor what is the kernel's."""
    found = []
    for line in table:
        inside = any(line.point == place or line.point.startswith(f"{place}/") for place in _NOT_OUTSIDE)
        if line.point.startswith("/") and line.point != "/" and not inside and line.kind not in _NO_FILE_SYSTEM:
            found.append(line)
    return found


def subvolume_of(line: Line) -> str | None:
    """The subvolume that a line names by its path or its number; None where it names none."""
    for option in line.options:
        name, _, value = option.partition("=")
        if name in ("subvol", "subvolid") and value:
            return value.strip("/")
    return None
