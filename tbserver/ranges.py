"""Which part of a file a client asks for (RFC 9110, ranges). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

# More of them than any honest client asks for.
RANGES_MAX = 16
_RANGE = re.compile(r"(\d{0,18})-(\d{0,18})")


def wanted(header: str | None, condition: str | None, validators: Sequence[str], size: int) -> list[range] | None:
    """The parts that are asked for, within a file of `size` bytes: none where none of them is there; None: all of it.

    `condition` is what If-Range says; if it is none of the `validators` the client has a part of another file.
    """
    if header is None or (condition is not None and condition not in validators):
        return None
    unit, _, said = header.partition("=")
    parts = [part.strip() for part in said.split(",")]
    if unit.strip().lower() != "bytes" or len(parts) > RANGES_MAX:
        return None
    found = []
    for part in parts:
        numbers = _RANGE.fullmatch(part)
        if numbers is None or part == "-":
            return None
        first, last = numbers[1], numbers[2]
        if first and last and int(last) < int(first):
            return None
        begin = int(first) if first else max(size - int(last), 0)
        end = min(int(last) + 1, size) if first and last else size
        if begin < end:
            found.append(range(begin, end))
    # What overlaps would be sent several times over.
    if len(found) > 1 and sum(len(one) for one in found) > size:
        return None
    return found
