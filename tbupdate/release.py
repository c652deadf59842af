"""Which of two releases is newer: the UAPI version format specification, as systemd compares versions."""

from __future__ import annotations

import itertools
import string

_LETTERS = frozenset(string.ascii_letters)
_DIGITS = frozenset(string.digits)
_KNOWN = _LETTERS | _DIGITS | frozenset("~-^.")


def compare(one: str, other: str) -> int:
    """Negative if `one` is older than `other`, positive if it is newer, 0 if neither."""
    a = "".join(c for c in one if c in _KNOWN)
    b = "".join(c for c in other if c in _KNOWN)
    while True:
        a, b, order = _separators(a, b)
        if order is not None:
            return order
        kind = _DIGITS if a[0] in _DIGITS or b[0] in _DIGITS else _LETTERS
        head_a = "".join(itertools.takewhile(kind.__contains__, a))
        head_b = "".join(itertools.takewhile(kind.__contains__, b))
        order = _numbers(head_a, head_b) if kind is _DIGITS else (head_a > head_b) - (head_a < head_b)
        if order:
            return order
        a, b = a[len(head_a) :], b[len(head_b) :]


def _separators(a: str, b: str) -> tuple[str, str, int | None]:
    """Compare and drop what may stand between parts; the order is None while it is undecided and both go on."""
    for mark in ("~", "", "-", "^", "."):
        if mark == "":
            if not a or not b:
                return a, b, bool(a) - bool(b)
        elif a.startswith(mark) or b.startswith(mark):
            if not (a.startswith(mark) and b.startswith(mark)):
                return a, b, b.startswith(mark) - a.startswith(mark)
            return _separators(a[1:], b[1:])
    return a, b, None


def _numbers(a: str, b: str) -> int:
    # A part that is missing is older than any number, even 0.
    if not a or not b:
        return bool(a) - bool(b)
    a, b = a.lstrip("0"), b.lstrip("0")
    return (len(a) > len(b)) - (len(a) < len(b)) or (a > b) - (a < b)
