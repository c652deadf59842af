"""Saved local changes: for each read-only copy a file in the record of its deployment, which comes last and proves it.

The first line is a digest of the rest and of the contents of the files that the rest names. Not more than a shell can
check: the hook in the initramfs does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tbdiff.descent import Descent
from tbdiff.errors import Failed
from tbupdate import subvolumes
from tbupdate.layout import SAVED

PARTIAL = "partial"
_HEAD_MAX = 1 << 12
_HEAD = b"tb-update saved 1 "
_STEP = 1 << 20


@dataclass(frozen=True)
class Proof:
    """What the file of a saved copy says: its number, the seal of its subvolume, when it was saved (seconds)."""

    number: int
    seal: str
    time: float


@dataclass(frozen=True)
class Saved:
    """A saved copy of a deployment: what a root that is thrown away is made anew of, with the local changes in it.

    `whole`: as far as can be told without reading it, it is what was saved at `time` (seconds since 1970).
    """

    number: int
    name: str
    time: float = 0
    whole: bool = True


def read(record: str) -> tuple[Proof, ...]:
    """The files of saved copies in the directory of a record, by number; of what cannot be read, the seal is empty."""
    try:
        names = sorted(name for name in os.listdir(os.path.join(record, SAVED)) if name.isdecimal())
    except OSError:
        return ()
    return tuple(_read(os.path.join(record, SAVED, name), int(name)) for name in names)


def _read(path: str, number: int) -> Proof:
    try:
        with open(path, "rb") as file:
            lines = file.read(_HEAD_MAX).split(b"\n")
            time = os.fstat(file.fileno()).st_mtime
    except OSError:
        return Proof(number, "", 0)
    sealed = len(lines) > 1 and lines[1].startswith(_HEAD)
    return Proof(number, lines[1].removeprefix(_HEAD).decode("ascii", "replace") if sealed else "", time)


def write(record: str, number: int, copy: str, files: Iterable[bytes]) -> None:
    """Prove the read-only `copy`, which is durable, by the contents of those of its files that differ; durably."""
    directory = os.path.join(record, SAVED)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    # A name with a line break in it is no line for a shell. Such a file is covered by the seal, and by Btrfs.
    named = sorted(path for path in files if b"\n" not in path)
    body = b"".join(line + b"\n" for line in (_HEAD + subvolumes.seal(copy).encode(), *named))
    temporary = os.path.join(directory, PARTIAL)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(_digest(copy, body, named).encode() + b"\n" + body)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, os.path.join(directory, f"{number:06}"))


def _digest(copy: str, body: bytes, named: Iterable[bytes]) -> str:
    found = hashlib.sha256(body)
    with Descent(Path(copy)) as tree:
        for path in named:
            with tree.file(path) as fd:
                while part := os.read(fd, _STEP):
                    found.update(part)
    return found.hexdigest()


def is_whole(record: str, number: int, copy: str) -> bool:
    """Whether the copy is what was saved, by its contents, as the hook finds it."""
    try:
        with open(os.path.join(record, SAVED, f"{number:06}"), "rb") as file:
            said, _, body = file.read().partition(b"\n")
        return _digest(copy, body, body.split(b"\n")[1:-1]).encode() == said
    except (OSError, Failed):
        return False


def forget(record: str, number: int) -> None:
    """Remove the file of a saved copy, which is none from then on; one that is not there is no error."""
    try:
        os.unlink(os.path.join(record, SAVED, f"{number:06}"))
    except FileNotFoundError:
        pass
