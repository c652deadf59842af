"""systemd-boot: it takes the first of the entries that it sees, and counts the tries in their file names itself.

Entries (BLS, type 1) are `loader/entries/tb-update-NUMBER-ID+LEFT-DONE.conf`. The one with the highest number comes
first, while it has tries left; an entry whose name ends in `.off` is not seen. The switch is one rename, which needs no
room: nothing but the name says in which order entries are taken.

A rename is no single act on FAT. What a power cut in the middle of it leaves: the old name, and the new one without
content; none of them; or both, twins that lead to the same blocks. To remove one twin would free the blocks of the
other, so both are put aside, and a new file takes their place. No two files that were written are alike, so what is
alike is twins. (A file whose writing was cut is never looked into: Linux ends all writing to a FAT that is damaged.)
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tbdiff.errors import Failed, Rejected
from tbupdate.boot import place
from tbupdate.boot.chooser import DEVICETREES, ENTRY_MAX, OURS, Choice, Coverage, Entry, parse_entry

ENTRIES = "loader/entries"
NOTE = "note"
# What is not removed while it has a twin.
ASIDE = ".aside"
_NAME = re.compile(
    r"tb-update-(?P<number>\d{6})-(?P<id>[A-Za-z0-9._-]+?)(?P<count>\+(?P<left>\d+)(-\d+)?)?\.(?P<end>conf|off)"
)


_NUMBER = re.compile(r"tb-update-(\d{6})-")


@dataclass(frozen=True)
class _Named:
    """An entry's file, by its name."""

    file: str
    number: int
    deployment: str
    left: int | None
    seen: bool

    @property
    def order(self) -> tuple[bool, int, bool, bool, int]:
        """As systemd-boot sorts: what has no tries left comes last. Of twins, what was kept, or has more tries."""
        return (self.left != 0, self.number, self.seen, self.left is None, self.left or 0)


COVERAGE = Coverage(
    True, "systemd-boot counts the tries before it starts a kernel, so even one that dies at once is given up"
)


@dataclass(frozen=True)
class SystemdBoot:
    """systemd-boot with its files on the partition that is mounted at `directory`."""

    directory: str
    name: str = "systemd-boot"
    coverage: Coverage = COVERAGE

    @property
    def _entries(self) -> str:
        return os.path.join(self.directory, ENTRIES)

    def _path(self, file: str) -> str:
        return os.path.join(self._entries, file)

    def _read(self, file: str) -> bytes:
        return place.read_file(self._path(file), ENTRY_MAX)

    def _files(self) -> list[str]:
        """All that is ours among the entries."""
        names = os.listdir(self._entries) if os.path.isdir(self._entries) else []
        return [name for name in names if name.startswith(f"{OURS}-") and place.is_plain(self._path(name))]

    def _has_twin(self, file: str) -> bool:
        content, others = self._read(file), os.listdir(self._entries)
        if file.removesuffix(ASIDE) + place.PARTIAL in others:
            return True
        # Of a long name a cut may leave the short one.
        return any(self._read(other) == content for other in others if other != file and ".par" not in other)

    def _named(self) -> list[_Named]:
        """Our entries' files, the one that is taken first in front."""
        found = []
        for file in self._files():
            said = _NAME.fullmatch(file)
            # One without content systemd-boot passes over, too.
            if said is not None and self._read(file):
                left = int(said["left"]) if said["left"] is not None else None
                found.append(_Named(file, int(said["number"]), said["id"], left, said["end"] == "conf"))
        return sorted(found, key=lambda one: one.order, reverse=True)

    def require_tools(self, tree: int, current: int) -> None:
        """Files are all that it takes."""

    def choice(self) -> Choice | None:
        seen = [one for one in self._named() if one.seen]
        if not seen:
            return None
        firsts = {one.deployment: one for one in reversed(seen)}
        trial = next((one for one in seen if one.left is not None and one == firsts[one.deployment]), None)
        plain = list(dict.fromkeys(one.deployment for one in seen if one.left is None))
        if not plain:
            raise Failed(
                f"{self._entries} has no entry without a counter: nobody knows what boots when the tries are used up",
                "Rename the entry that is good, so that its name has no + in it.",
            )
        if trial is None or trial.left is None or trial.number < max(one.number for one in seen):
            return Choice(plain[0], back=next(iter(plain[1:]), None))
        return Choice(plain[0], trial.deployment, trial.left, plain[0])

    def entries(self) -> Mapping[str, Entry]:
        found: dict[str, Entry] = {}
        for one in self._named():
            entry = parse_entry(self._read(one.file))
            if entry is not None and entry.deployment == one.deployment:
                found.setdefault(one.deployment, entry)
        return found

    def add(self, entry: Entry) -> None:
        if self.entries().get(entry.deployment) != entry:
            self._write(entry)

    def _write(self, entry: Entry) -> _Named:
        """A new file that is not seen yet, with a number above all others."""
        os.makedirs(self._entries, exist_ok=True)
        place.make_room(self.directory, self._entries)
        # Not that of a name that a cut has left, either.
        number = max((int(n[1]) for n in map(_NUMBER.match, self._files()) if n), default=0) + 1
        file = f"tb-update-{number:06}-{entry.deployment}.off"
        lines = [
            entry.to_line(),
            f"# {number}",
            f"title {entry.title}",
            "sort-key 00-tb-update",
            f"linux /{OURS}/{entry.kernels}/vmlinuz",
        ]
        if entry.initrd:
            lines.append(f"initrd /{OURS}/{entry.kernels}/initrd")
        if entry.devicetree not in ("", DEVICETREES):
            lines.append(f"devicetree /{OURS}/{entry.kernels}/{entry.devicetree}")
        # Its name says whether it is on trial, its content cannot: a panic is always to become the next start.
        text = "\n".join([*lines, f"options {entry.options} panic=10", ""])
        place.write_new(self._path(file), text.encode("ascii", "replace"))
        place.flush(self.directory)
        return _Named(file, number, entry.deployment, None, False)

    def choose(self, choice: Choice) -> None:
        wanted = [choice.trial, choice.default, choice.back]
        parted = [self._part(deployment) for deployment in wanted if deployment is not None]
        if any(parted) or self.choice() != choice:
            if choice.trial is not None:
                self._show(choice.default, None)
                self._show_first(choice.trial, choice.tries, wanted)
            else:
                self._show_first(choice.default, None, wanted)
            if choice.back is not None and choice.back in self.entries():
                self._show(choice.back, None)
        for one in self._named():
            same = [other for other in self._named() if other.deployment == one.deployment and other.seen]
            if same and one != same[0]:
                # An older file of the same deployment.
                self._drop(one.file)
            elif one.seen and one.deployment not in wanted:
                self._rename(one, f"tb-update-{one.number:06}-{one.deployment}.off")
        self._sweep()
        place.flush(self.directory)

    def _part(self, deployment: str) -> bool:
        """Let an entry whose file has a twin have one of its own; whether it has to be shown."""
        entry = self.entries().get(deployment)
        files = [one.file for one in self._named() if one.deployment == deployment]
        if entry is None or not any(map(self._has_twin, files)):
            return False
        try:
            if self._has_twin(self._file(deployment).file):
                self._write(entry)
        except OSError as error:
            # Either twin boots, as long as nobody removes the other.
            if error.errno != errno.ENOSPC:
                raise
            return False
        return True

    def _drop(self, file: str) -> None:
        """Remove a file, or put it aside."""
        if not os.path.getsize(self._path(file)) or not self._has_twin(file):
            os.unlink(self._path(file))
        elif not file.endswith(ASIDE):
            os.rename(self._path(file), self._path(file + ASIDE))

    def _sweep(self) -> None:
        """Remove names without content, and what lies aside whose twin is gone by a repair of the file system."""
        for file in self._files():
            if file.endswith(ASIDE) or not os.path.getsize(self._path(file)):
                self._drop(file)

    def _file(self, deployment: str) -> _Named:
        there = [one for one in self._named() if one.deployment == deployment]
        if not there:
            raise Failed(f"{deployment} has no boot entry", "Deploy it again, or go to another one.")
        return max(there, key=lambda one: one.number)

    def _show_first(self, deployment: str, left: int | None, wanted: list[str | None]) -> None:
        """Let an entry be seen above all that are seen or will be."""
        number = self._file(deployment).number
        others = [one.number for one in self._named() if one.seen or one.deployment in wanted]
        self._show(deployment, left, max([number, *(other + 1 for other in others if other > number)]))

    def _show(self, deployment: str, left: int | None, number: int | None = None) -> None:
        """Let an entry be seen, with a counter or without, by one rename."""
        there = self._file(deployment)
        count = "" if left is None else f"+{left}"
        self._rename(there, f"tb-update-{number or there.number:06}-{deployment}{count}.conf")

    def _rename(self, one: _Named, to: str) -> None:
        if one.file == to:
            return
        if self._read(to):
            # Its twin.
            self._drop(one.file)
        else:
            os.rename(self._path(one.file), self._path(to))
        place.flush(self.directory)

    def forget(self, deployment: str) -> None:
        gone = [one for one in self._named() if one.deployment == deployment]
        for one in gone:
            self._drop(one.file)
        if gone:
            self._sweep()
            place.flush(self.directory)

    def set_up(self, choice: Choice) -> None:
        loader = os.path.join(self.directory, "loader/loader.conf")
        if os.path.isfile(loader):
            with open(loader, errors="replace") as file:
                if re.search(r"^default\s", file.read(), re.MULTILINE):
                    raise Rejected(
                        f"{loader} names a default, which would be taken however often it fails; nothing was changed",
                        "Remove that line, then try again.",
                    )
        os.makedirs(os.path.join(self.directory, OURS), exist_ok=True)
        place.make_block(os.path.join(self.directory, OURS, NOTE), b"\n" * place.BLOCK)
        self.choose(choice)

    def leads(self) -> bool:
        # It finds entries by itself.
        return True

    def take_down(self) -> None:
        for one in self._named():
            self._drop(one.file)
        self._sweep()
        place.flush(self.directory)
        place.remove_directory(self.directory, OURS)

    def note(self) -> str:
        return place.read_text(os.path.join(self.directory, OURS, NOTE))

    def clear_note(self) -> None:
        if self.note():
            place.write_block(os.path.join(self.directory, OURS, NOTE), b"\n" * place.BLOCK)


def is_used(directory: str) -> bool:
    """Whether systemd-boot has its files on a partition."""
    return os.path.isfile(os.path.join(directory, "loader/loader.conf")) or os.path.isfile(
        os.path.join(directory, "EFI/systemd/systemd-bootx64.efi")
    )
