"""The last words of a kernel that panicked, which firmware or reserved memory kept over the restart (pstore)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tbupdate.boot.place import read_file

# Where the kernel shows them, and where systemd-pstore.service moves them when the system comes up.
PLACES = ("/sys/fs/pstore", "/var/lib/systemd/pstore")
_NAME = re.compile(r"dmesg-[a-z_-]+-(\d+)")
_HEAD = re.compile(r"Panic#\d+ Part(\d+)\n")
# A number that firmware keeps is made of the time, two digits of the part and three that count.
_EFI = 15
_TIME = 10
_SIZE_MAX, _FILES_MAX = 1 << 16, 1000


@dataclass(frozen=True)
class _Part:
    """A piece of what was said; the last piece is the first part."""

    when: float
    number: int
    text: str


def last_words(since: float) -> str:
    """What the last panic after that time has logged; nothing where none is kept."""
    parts = [part for part in _parts() if part.when >= since]
    last = max((part.when for part in parts), default=0.0)
    told = sorted((part for part in parts if part.when == last), key=lambda part: part.number, reverse=True)
    return "".join(part.text if part.text.endswith("\n") else f"{part.text}\n" for part in told)


def _parts() -> Iterator[_Part]:
    for place in PLACES:
        paths = (os.path.join(where, name) for where, _, names in os.walk(place) for name in sorted(names))
        for _, path in zip(range(_FILES_MAX), paths, strict=False):
            named = _NAME.fullmatch(os.path.basename(path))
            if named is None:
                continue
            try:
                said, when = read_file(path, _SIZE_MAX).decode("utf-8", "replace"), os.stat(path).st_mtime
            except OSError:
                continue
            head = _HEAD.match(said)
            if head is not None:
                number = named[1]
                kept = float(number[:_TIME]) if len(number) == _EFI else when
                yield _Part(kept, int(head[1]), re.sub(r"(?m)^<\d+>", "", said[head.end() :]))
