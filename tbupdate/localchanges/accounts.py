"""Files of accounts - users, groups, passwords, id ranges -, put together entry by entry, or without people (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

# By file: which fields are lists of members; which one is the number that no two names should share.
FILES: Mapping[bytes, tuple[tuple[int, ...], int | None]] = {
    b"etc/passwd": ((), 2),
    b"etc/group": ((3,), 2),
    b"etc/shadow": ((), None),
    b"etc/gshadow": ((2, 3), None),
    b"etc/subuid": ((), None),
    b"etc/subgid": ((), None),
}
# One name may have several ranges: there a whole line is what is there or not.
RANGES = (b"etc/subuid", b"etc/subgid")
# The numbers that people have; below are the system's, which the image says, and above is nobody.
PEOPLE = range(1000, 60000)

Key = tuple[bytes, int]
Entries = dict[Key, bytes]


@dataclass(frozen=True)
class Accounts:
    """The file put together, and the names on which both sides disagree: of these the local entry stays."""

    content: bytes
    clashes: tuple[str, ...] = ()


def merge(path: bytes, base: bytes, ours: bytes, theirs: bytes) -> Accounts:
    """The file at `path` with both changes."""
    lists, number = FILES[path]
    whole = path in RANGES
    old, mine, other = (_entries(content, whole) for content in (base, ours, theirs))
    merged: Entries = {}
    clashes: list[str] = []
    # The image's order, then what is here alone.
    for key in [*other, *(key for key in mine if key not in other)]:
        line, agreed = _entry(old.get(key), mine.get(key), other.get(key), lists)
        if line is not None:
            merged[key] = line
        if not agreed:
            clashes.append(_name(key))
    if number is not None:
        clashes += _shared_numbers(number, merged, mine, other)
    # What the name service is told to look up elsewhere stands at the end.
    ordered = sorted(merged.items(), key=lambda one: one[0][0].startswith((b"+", b"-")))
    return Accounts(b"".join(line + b"\n" for _, line in ordered), tuple(clashes))


@dataclass(frozen=True)
class People:
    """The names of people on a machine, and of the groups that are theirs."""

    users: frozenset[bytes] = frozenset()
    groups: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, passwd: bytes, group: bytes) -> People:
        """Those that the two files have."""
        return cls(_numbered(passwd), _numbered(group))

    def without(self, path: bytes, content: bytes) -> bytes:
        """The file at `path` as it would be without them, and without the password of root."""
        lists, _ = FILES[path]
        theirs = self.groups if lists else self.users
        if path == b"etc/shadow":
            theirs |= {b"root"}
        kept = [line.split(b":") for line in content.split(b"\n") if line and line.split(b":")[0] not in theirs]
        return b"".join(b":".join(self._leave(fields, lists)) + b"\n" for fields in kept)

    def _leave(self, fields: list[bytes], lists: tuple[int, ...]) -> list[bytes]:
        return [
            b",".join(name for name in field.split(b",") if name not in self.users) if n in lists else field
            for n, field in enumerate(fields)
        ]


def _numbered(content: bytes) -> frozenset[bytes]:
    entries = (line.split(b":") for line in content.split(b"\n"))
    return frozenset(one[0] for one in entries if len(one) > 2 and one[2].isdigit() and int(one[2]) in PEOPLE)


def _entries(content: bytes, whole: bool) -> Entries:
    """Each line under its name; a line that comes again, or has none, under its count as well."""
    found: Entries = {}
    seen: Counter[bytes] = Counter()
    for line in content.split(b"\n"):
        if line:
            name, colon, _ = line.partition(b":")
            name = name if colon and not whole else line
            found[name, seen[name]] = line
            seen[name] += 1
    return found


def _name(key: Key) -> str:
    return key[0].partition(b":")[0].decode("utf-8", "backslashreplace")


def _entry(
    old: bytes | None, mine: bytes | None, other: bytes | None, lists: tuple[int, ...]
) -> tuple[bytes | None, bool]:
    """One entry, and whether both sides agree on it."""
    if mine in (old, other):
        return other, True
    if other == old:
        return mine, True
    if mine is None or other is None:
        return mine, False
    was = old.split(b":") if old is not None else []
    here, there = mine.split(b":"), other.split(b":")
    if len(here) != len(there):
        return mine, False
    was += [b""] * (len(here) - len(was))
    fields, agreed = [], True
    for n, (before, one, another) in enumerate(zip(was, here, there, strict=False)):
        if n in lists:
            fields.append(_members(before, one, another))
        elif one in (before, another):
            fields.append(another)
        else:
            fields.append(one)
            agreed = agreed and another == before
    return b":".join(fields), agreed


def _members(before: bytes, one: bytes, another: bytes) -> bytes:
    """A list of members: who was added on either side is in, who was removed on either side is not."""
    was, here, there = ([name for name in said.split(b",") if name] for said in (before, one, another))
    kept = [name for name in there if name in here or name not in was]
    return b",".join(kept + [name for name in here if name not in there and name not in was])


def _shared_numbers(number: int, merged: Entries, mine: Entries, other: Entries) -> list[str]:
    """The names that have one number only since both sides were put together."""

    def shared(entries: Entries) -> dict[bytes, list[str]]:
        found: dict[bytes, list[str]] = {}
        for key, line in entries.items():
            fields = line.split(b":")
            if len(fields) > number and fields[number].isdigit():
                found.setdefault(fields[number], []).append(_name(key))
        return {value: names for value, names in found.items() if len(names) > 1}

    known = shared(mine).keys() | shared(other).keys()
    return [
        f"{' and '.join(names)} (both have number {value.decode()})"
        for value, names in shared(merged).items()
        if value not in known
    ]
