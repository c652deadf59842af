"""The last words of a kernel that panicked, which firmware or reserved memory kept over the restart (pstore)."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tbupdate.boot.place import read_file

# Where the kernel shows them, and where systemd-pstore.service moves them when the system comes up.
PLACES = ("/sys/fs/pstore", "/var/lib/systemd/pstore")
_NAME = re.compile(r"dmesg-[a-z_-]+-(\d+)")
_HEAD = re.compile(r"Panic#(\d+) Part(\d+)\n")
# A number that firmware keeps is made of the time, two digits of the part and three that count.
_EFI = 15
_TIME = 10
# Seconds that a kernel takes at most to keep all that it said.
_LONGEST = 60
_SIZE_MAX, _FILES_MAX = 1 << 16, 1000


@dataclass(frozen=True)
class _Part:
    """A piece of what was said; the last piece is the first part. It is dated when it was kept, each for itself."""

    when: float
    count: int
    number: int
    text: str


def last_words(since: float) -> str:
    """What the last panic after that time has logged; nothing where none is kept."""
    parts = [part for part in _parts() if part.when >= since]
    last = max((part for part in parts if part.number == 1), key=lambda part: part.when, default=None)
    if last is None:
        return ""
    # To keep them takes its time, more so in firmware; and an earlier panic may have left parts with the same numbers.
    told: dict[int, _Part] = {}
    for part in sorted(parts, key=lambda part: abs(part.when - last.when)):
        if part.count == last.count and abs(part.when - last.when) <= _LONGEST:
            told.setdefault(part.number, part)
    texts = [told[number].text for number in sorted(told, reverse=True)]
    return "".join(text if text.endswith("\n") else f"{text}\n" for text in texts)


def _parts() -> Iterator[_Part]:
    for place in PLACES:
        for path in itertools.islice(_paths(place), _FILES_MAX):
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
                yield _Part(kept, int(head[1]), int(head[2]), re.sub(r"(?m)^<\d+>", "", said[head.end() :]))


def _paths(place: str) -> Iterator[str]:
    """All files there, the newest first: systemd-pstore calls its directories by the time, and removes none."""
    for where, inner, names in os.walk(place):
        inner.sort(reverse=True)
        yield from (os.path.join(where, name) for name in sorted(names, reverse=True))
