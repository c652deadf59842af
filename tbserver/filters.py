"""Which devices are meant: conditions on what they say of themselves, as people write them. Pure.

device_type = kiosk and not (site = berlin-* or group = beta)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tbserver.refusals import NotValid

LENGTH_MAX, DEPTH_MAX = 2000, 20
# What every device has, beside what it says: its id, and the groups it is in.
ID, GROUP = "id", "group"
_TOKEN = re.compile(r"""\s*(?:(?P<mark>!=|=|\(|\))|"(?P<quoted>[^"]*)"|(?P<word>[^\s()=!"]+))""")
_WORDS = ("and", "or", "not")


@dataclass(frozen=True)
class Condition:
    """The value of a key looks like a pattern, in which * stands for anything."""

    key: str
    pattern: str


@dataclass(frozen=True)
class Not:
    """It is not so."""

    one: Filter


@dataclass(frozen=True)
class All:
    """All are so; of none: anything."""

    of: tuple[Filter, ...]


@dataclass(frozen=True)
class Any:
    """One of them is so."""

    of: tuple[Filter, ...]


Filter = Condition | Not | All | Any
EVERYTHING = All(())


def matches(given: Filter, attributes: Mapping[str, str], groups: frozenset[str] = frozenset()) -> bool:
    """Whether a device is meant; a key that it does not have is as one without a value."""
    match given:
        case Condition(key, pattern):
            expression = re.compile(translate(pattern))
            values = groups if key == GROUP else (attributes.get(key, ""),)
            return any(expression.fullmatch(value) for value in values)
        case Not(one):
            return not matches(one, attributes, groups)
        case All(of):
            return all(matches(one, attributes, groups) for one in of)
        case Any(of):
            return any(matches(one, attributes, groups) for one in of)


def translate(pattern: str) -> str:
    """A pattern as a regular expression."""
    return "".join(".*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", pattern)).join(("(?s:", ")"))


def parse(text: str) -> Filter:
    """Read what a person wrote; nothing means all devices."""
    if len(text) > LENGTH_MAX:
        raise NotValid(
            f"a filter has {LENGTH_MAX} characters at most", "Put the devices into a group, and write: group = NAME."
        )
    reader = _Reader(text)
    if reader.at_end():
        return EVERYTHING
    found = reader.any(0)
    if not reader.at_end():
        raise reader.refused("nothing more")
    return found


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._token, self._is_word = "", False
        self._next()

    def _next(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            if self._text[self._at :].strip():
                raise NotValid(f"the filter is not understood at {self._text[self._at :][:20]!r}", _EXAMPLE)
            self._token, self._is_word, self._at = "", False, len(self._text) + 1
            return
        self._at = found.end()
        self._is_word = found["mark"] is None
        self._token = found["mark"] or found["word"] or found["quoted"] or ""
        if found["word"] is not None and found["word"].lower() in _WORDS:
            self._token, self._is_word = found["word"].lower(), False

    def at_end(self) -> bool:
        return self._at > len(self._text)

    def refused(self, wanted: str) -> NotValid:
        found = repr(self._token) if not self.at_end() else "the end"
        return NotValid(f"the filter is not understood: {found} stands where {wanted} should", _EXAMPLE)

    def _take(self, token: str) -> bool:
        if self.at_end() or self._is_word or self._token != token:
            return False
        self._next()
        return True

    def any(self, depth: int) -> Filter:
        parts = [self._all(depth)]
        while self._take("or"):
            parts.append(self._all(depth))
        return parts[0] if len(parts) == 1 else Any(tuple(parts))

    def _all(self, depth: int) -> Filter:
        parts = [self._one(depth)]
        while self._take("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _one(self, depth: int) -> Filter:
        if depth > DEPTH_MAX:
            raise NotValid(
                "the filter is nested too deep", "Write it with fewer brackets, or put the devices into a group."
            )
        if self._take("not"):
            return Not(self._one(depth + 1))
        if self._take("("):
            inner = self.any(depth + 1)
            if not self._take(")"):
                raise self.refused("a )")
            return inner
        key = self._word("the name of a key")
        differs = self._take("!=")
        if not differs and not self._take("="):
            raise self.refused("= or !=")
        condition = Condition(key, self._word("a value"))
        return Not(condition) if differs else condition

    def _word(self, what: str) -> str:
        if not self._is_word:
            raise self.refused(what)
        word = self._token
        self._next()
        return word


_EXAMPLE = 'Write conditions such as: device_type = kiosk and not (site = "berlin *" or group = beta)'
