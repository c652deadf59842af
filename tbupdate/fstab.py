"""/etc/fstab: what it mounts, what would defeat the default subvolume, and lines that are added."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tbupdate import flags

_NOT_OUTSIDE = ("/boot", "/efi", "/proc", "/sys", "/dev", "/run", "/tmp")  # noqa: S108 - a name in a table
_NO_FILE_SYSTEM = ("swap", "proc", "sysfs", "devpts", "devtmpfs", "cgroup", "cgroup2", "efivarfs", "debugfs", "none")
_OCTAL = re.compile(rb"\\(?!000)([0-3][0-7]{2})")
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
        with (
            flags.unlocked(path),
            open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            file.write(after)


def is_plain(tree: str) -> bool:
    """Whether a tree has a table that is a file, or none so far."""
    path = os.path.join(tree, "etc/fstab")
    there = os.path.isdir(os.path.dirname(path)) and not os.path.islink(os.path.dirname(path))
    return there and not os.path.islink(path) and (os.path.isfile(path) or not os.path.lexists(path))


def add(tree: str, mounts: Iterable[tuple[str, str]], file_system: str) -> None:
    """Mount subvolumes of the Btrfs with that UUID at the points, with the options that / has."""
    root = next((line.options for line in read(tree) if line.point == "/" and line.kind == "btrfs"), ())
    plain = [one for one in root if not _OPTION.match(one) and one not in ("defaults", "ro") and one[:2] != "x-"]
    path = os.path.join(tree, "etc/fstab")
    with (
        flags.unlocked(path),
        open(path, "a+", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        file.seek(0)
        before = file.read()
        file.write("" if before.endswith("\n") or not before else "\n")
        for point, subvolume in mounts:
            options = ",".join((*plain, f"subvol={subvolume}"))
            file.write(f"# {point} is a subvolume of its own, beside the root; moved there by tb-update.\n")
            file.write(f"UUID={file_system} {point} btrfs {options} 0 0\n")


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
        fields = [_spoken(field) for field in line.split()]
        if len(fields) > 2 and not fields[0].startswith("#"):
            options = tuple((fields[3] if len(fields) > 3 else "defaults").split(","))
            found.append(Line(fields[0], os.path.normpath(fields[1]), fields[2], options))
    return found


def _spoken(field: str) -> str:
    """A field as it is meant: a space, a tab, a line feed or a backslash in it is written as an octal number."""
    raw = field.encode("utf-8", "surrogateescape")
    return _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), raw).decode("utf-8", "surrogateescape")


def outside(table: Iterable[Line]) -> list[Line]:
    """The lines that mount something over a directory of the root; not the boot partition, nor what is the kernel's."""
    found = []
    for line in table:
        inside = any(line.point == place or line.point.startswith(f"{place}/") for place in _NOT_OUTSIDE)
        if line.point.startswith("/") and line.point != "/" and not inside and line.kind not in _NO_FILE_SYSTEM:
            found.append(line)
    return found


def points(table: Iterable[Line]) -> set[str]:
    """Where a table mounts something that lies on a disk, the boot partition as well; but for / itself."""
    table = list(table)
    boot = {line.point for line in table if line.point in ("/boot", "/boot/efi", "/boot/firmware", "/efi")}
    return boot | {line.point for line in outside(table) if line.kind not in ("tmpfs", "ramfs")}


def subvolume_of(line: Line) -> str | None:
    """The subvolume that a line names by its path or its number; None where it names none."""
    for option in line.options:
        name, _, value = option.partition("=")
        if name in ("subvol", "subvolid") and value:
            return value.strip("/")
    return None
