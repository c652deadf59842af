"""Choosers that overwrite one block: the boot loader reads our choice from it, and finds our entries by it.

Each entry has a file of its own that is never replaced. What is chosen stands in `choice`, which is one block and is
only ever overwritten in place; `back` is the block that the hook puts over it when it falls back, and `note` has room
for the hook to say why.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tbdiff.errors import Failed, Rejected
from tbupdate.boot import place
from tbupdate.boot.chooser import ENTRY_MAX, OURS, Choice, Coverage, Entry, parse_entry

CHOICE, BACK, NOTE, ENTRIES = "choice", "back", "note", "entries"


class Dialect(Protocol):
    """How a boot loader wants to be told; all of it pure but `include`."""

    @property
    def name(self) -> str:
        """The word for it in the configuration."""

    @property
    def suffix(self) -> str:
        """How the names of entries' files end."""

    @property
    def coverage(self) -> Coverage:
        """What it covers."""

    def write_choice(self, choice: Choice) -> str:
        """The text that chooses; it is padded to a block."""

    def read_choice(self, text: str) -> Choice | None:
        """The choice that the text makes."""

    def write_entry(self, entry: Entry) -> str:
        """The entry's own file."""

    def include(self, directory: str) -> None:
        """Let the boot loader's own configuration lead to ours."""

    def leads(self, directory: str) -> bool:
        """Whether it does."""

    def exclude(self, directory: str) -> None:
        """Let it lead to ours no longer."""


def to_variables(choice: Choice) -> str:
    """A choice as the variables that scripts of boot loaders read."""
    fields = {"tb_default": choice.default, "tb_trial": choice.trial or "", "tb_tries": str(choice.tries)}
    fields["tb_back"] = choice.back or ""
    return "".join(f"{name}={value}\n" for name, value in fields.items())


def variables(text: str) -> dict[str, str]:
    """Those variables in a text."""
    return dict(re.findall(r"^(tb_\w+)=(\S*)$", text, re.MULTILINE))


def of_variables(found: Mapping[str, str]) -> Choice | None:
    """The choice that they make; what is no number of tries is none."""
    if not found.get("tb_default"):
        return None
    tries = found.get("tb_tries", "")
    left = int(tries) if tries.isdecimal() else 0
    return Choice(found["tb_default"], found.get("tb_trial") or None, left, found.get("tb_back") or None)


@dataclass(frozen=True)
class InPlace:
    """A boot loader on the boot partition that is mounted at `directory`."""

    directory: str
    dialect: Dialect

    @property
    def name(self) -> str:
        """The word for it in the configuration."""
        return self.dialect.name

    @property
    def coverage(self) -> Coverage:
        """What it covers."""
        return self.dialect.coverage

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, OURS, name)

    def _file(self, deployment: str) -> str:
        return self._path(f"{ENTRIES}/{deployment}{self.dialect.suffix}")

    def require_tools(self, tree: int, current: int) -> None:
        """Files are all that it takes."""

    def choice(self) -> Choice | None:
        path = self._path(CHOICE)
        if not os.path.lexists(path):
            return None
        block = place.read_block(path)
        choice = self.dialect.read_choice(block.decode("ascii", "replace")) if block else None
        if choice is None:
            raise Failed(f"{path} is damaged: nobody knows what boots", "Remove that file, then run: tb-update init")
        return choice

    def entries(self) -> Mapping[str, Entry]:
        found = {}
        try:
            names = os.listdir(self._path(ENTRIES))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        for name in names:
            if name.endswith(self.dialect.suffix):
                entry = parse_entry(place.read_file(self._path(f"{ENTRIES}/{name}"), ENTRY_MAX))
                if entry is not None and f"{entry.deployment}{self.dialect.suffix}" == name:
                    found[entry.deployment] = entry
        return found

    def add(self, entry: Entry) -> None:
        os.makedirs(self._path(ENTRIES), exist_ok=True)
        if self.entries().get(entry.deployment) != entry:
            text = f"{entry.to_line()}\n{self.dialect.write_entry(entry)}"
            place.write_new(self._file(entry.deployment), text.encode("ascii", "replace"))
        place.flush(self.directory)

    def choose(self, choice: Choice) -> None:
        # The way back first: from the switch on it may be needed. (Somebody may have removed it.)
        place.make_block(self._path(BACK), self._block(Choice(choice.back or choice.default)))
        place.write_block(self._path(BACK), self._block(Choice(choice.back or choice.default)))
        place.flush(self.directory)
        place.write_block(self._path(CHOICE), self._block(choice))
        place.flush(self.directory)

    def forget(self, deployment: str) -> None:
        try:
            os.unlink(self._file(deployment))
        except (FileNotFoundError, NotADirectoryError):
            return
        place.flush(self.directory)

    def set_up(self, choice: Choice) -> None:
        os.makedirs(self._path(ENTRIES), exist_ok=True)
        known = os.path.lexists(self._path(CHOICE))
        for name, content in (
            (NOTE, b"\n" * place.BLOCK),
            (BACK, self._block(choice)),
            (CHOICE, self._block(choice)),
        ):
            place.make_block(self._path(name), content)
        self.choose(choice)
        try:
            self.dialect.include(self.directory)
        except Rejected:
            if not known:
                # Without it, nothing takes the boot loader for one that was told.
                os.unlink(self._path(CHOICE))
            raise
        place.flush(self.directory)

    def leads(self) -> bool:
        return self.dialect.leads(self.directory)

    def take_down(self) -> None:
        # Before its files go nothing may lead to them.
        self.dialect.exclude(self.directory)
        place.flush(self.directory)
        place.remove_directory(self.directory, OURS)

    def note(self) -> str:
        return place.read_text(self._path(NOTE))

    def clear_note(self) -> None:
        if self.note():
            place.write_block(self._path(NOTE), b"\n" * place.BLOCK)

    def _block(self, choice: Choice) -> bytes:
        return padded(self.dialect.write_choice(choice))


def padded(text: str) -> bytes:
    """A text as a block, filled up with a comment."""
    return text.encode("ascii").ljust(place.BLOCK, b"#")


def add_line(path: str, line: str) -> None:
    """Add a line of ours to a file of somebody else, which keeps what it holds, its mode and its owner."""
    try:
        with open(path, "rb") as file:
            before = file.read()
    except FileNotFoundError:
        place.write_new(_led_to(path), line.encode() + b"\n")
        return
    if line.encode() not in before.splitlines():
        ending = b"" if before.endswith(b"\n") or not before else b"\n"
        _rewrite(path, before + ending + line.encode() + b"\n")


def has_line(path: str, line: str) -> bool:
    """Whether a line of ours is in a file of somebody else."""
    try:
        with open(path, "rb") as file:
            return line.encode() in file.read().splitlines()
    except FileNotFoundError:
        return False


def add_end(path: str, end: bytes) -> None:
    """Let a file of somebody else, which is there, end in bytes of ours."""
    with open(path, "rb") as file:
        before = file.read()
    if not before.endswith(end):
        _rewrite(path, before.replace(end, b"") + end)


def remove_end(path: str, end: bytes) -> None:
    """Take them away again, wherever they are by now."""
    try:
        with open(path, "rb") as file:
            before = file.read()
    except FileNotFoundError:
        return
    if end in before:
        _rewrite(path, before.replace(end, b""))


def remove_line(path: str, line: str) -> None:
    """Take our line away again; a file that held nothing else goes with it."""
    try:
        with open(path, "rb") as file:
            before = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return
    after = b"".join(one for one in before if one.rstrip(b"\n") != line.encode())
    if after or os.path.islink(path):
        _rewrite(path, after)
    else:
        os.unlink(path)


def _rewrite(path: str, content: bytes) -> None:
    path = _led_to(path)
    state = os.stat(path)
    place.write_new(path, content, state.st_mode & 0o7777, (state.st_uid, state.st_gid))


def _led_to(path: str) -> str:
    """The file itself, where somebody has put a link to it, which stays one."""
    real = os.path.realpath(path)
    if os.stat(os.path.dirname(real)).st_dev != os.stat(os.path.dirname(path)).st_dev:
        raise Rejected(
            f"{path} is a link that leads off the boot partition, where no boot loader follows it; it was told nothing",
            "Put the file itself there, then run: tb-update init",
        )
    return real
