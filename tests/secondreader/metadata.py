"""The metadata stream: columns, and the listing that they make of the base's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from tests.secondreader.cursor import Bytes, demand
from tests.secondreader.listing import ALLOWED, DIRECTORY, FILE, HARD, SYMLINK, Entry


class Delta:
    """The columns of the metadata stream."""

    def __init__(self, stream: Bytes) -> None:
        columns = [Bytes(stream.take(stream.number())) for _ in range(22)]
        demand(not stream, "more columns than there are")
        self.fields = columns[9:]
        self.before = [0, 0, 0]
        self.used: set[int] = set()
        self.sets = list(self._attribute_sets(columns[14]))
        demand(len(set(self.sets)) == len(self.sets), "a set twice")
        self.removed, self.edited = ([*distances(column)] for column in columns[:2])
        kinds, fields, add_kinds, add_fields = (column.take(len(column.data)) for column in columns[2:6])
        demand(len(self.edited) == len(kinds) == len(fields), "they do not match")
        demand(len(add_kinds) == len(add_fields), "they do not match")
        edits, adds = list(zip(kinds, fields, strict=True)), list(zip(add_kinds, add_fields, strict=True))
        self.parents: list[int] = []
        self.sources: list[int | None] = []
        self.names: list[bytes] = []
        parent = source = 0
        for _ in adds:
            parent += columns[6].signed()
            code = columns[7].number()
            if code:
                source += -(code // 2) if (code - 1) % 2 else (code - 1) // 2
            self.parents.append(parent)
            self.sources.append(source if code else None)
            self.names.append(columns[8].terminated())
        self.edits = [self._stated(kind, fields) for kind, fields in edits]
        self.adds = [self._stated(kind, fields) for kind, fields in adds]
        demand(not any(columns) and len(self.used) == len(self.sets), "a column holds more than is used")
        demand(all(fields), "an edit of nothing")

    def _stated(self, kind: int, fields: int) -> dict[str, Any]:
        demand(kind in ALLOWED and not fields & ~ALLOWED[kind], "what its kind does not have")
        columns = self.fields
        found: dict[str, Any] = {"kind": kind, "fields": fields}
        for bit, name, column, most in ((1, "mode", 0, 0o7777), (2, "uid", 1, 2**32 - 2), (4, "gid", 2, 2**32 - 2)):
            if fields & bit:
                found[name] = columns[column].number()
                demand(found[name] <= most, "beyond the limits")
        if fields & 8:
            self.before[0] += columns[3].signed()
            self.before[1] += columns[4].signed()
            found["time"] = (self.before[0], self.before[1])
            demand(abs(self.before[0]) <= 2**62 and 0 <= self.before[1] < 10**9, "no time")
        if fields & 16:
            number = columns[6].number()
            demand(number < len(self.sets) and number <= len(self.used), "no such set, or not its turn")
            found["xattrs"] = self.sets[number]
            self.used.add(number)
        if fields & 32:
            self._content(found, kind)
        if fields & 64:
            found["extents"] = self._extents()
        return found

    def _content(self, found: dict[str, Any], kind: int) -> None:
        if kind == FILE:
            found["size"], found["digest"] = self.fields[7].number(), self.fields[8].take(32)
            demand(found["digest"] != bytes(32), "a file without a digest")
            demand(found["size"] < 2**63, "beyond the limits")
        elif kind == SYMLINK:
            found["link"] = self.fields[9].terminated()
            demand(1 <= len(found["link"]) <= 4095, "beyond the limits")
        elif kind == HARD:
            self.before[2] += self.fields[10].signed()
            found["first"] = self.before[2]
        else:
            found["device"] = self.fields[11].number(), self.fields[11].number()
            demand(found["device"][0] < 1 << 12 and found["device"][1] < 1 << 20, "beyond the limits")

    def _extents(self) -> tuple[tuple[int, int], ...] | None:
        count = self.fields[12].number()
        if not count:
            return None
        found: list[tuple[int, int]] = []
        end = 0
        for _ in range(count - 1):
            gap, length = self.fields[12].number(), self.fields[12].number()
            demand(length and (gap or not found), "runs that touch")
            found.append((end + gap, length))
            end += gap + length
        return tuple(found)

    def _attribute_sets(self, column: Bytes) -> Iterator[tuple[tuple[bytes, bytes], ...]]:
        while column:
            pairs = []
            for _ in range(column.number()):
                name = column.take(column.number())
                pairs.append((name, column.take(column.number())))
                demand(1 <= len(name) <= 255 and b"\0" not in name and len(pairs[-1][1]) <= 65536, "no attribute")
            names = [name for name, _ in pairs]
            demand(names == sorted(set(names)), "attributes out of order")
            yield tuple(pairs)


def distances(column: Bytes) -> Iterator[int]:
    last = -1
    while column:
        last += column.number() + 1
        yield last


def rebuild(base: list[Entry], delta: Delta) -> list[Entry]:
    """The target's listing."""
    size, count = len(base), len(delta.adds)
    demand(all(0 < n < size for n in delta.removed) and all(n < size for n in delta.edited), "no such entry")
    numbers = {entry.path: n for n, entry in enumerate(base)}
    moved: dict[int, int] = {}
    for n, (stated, source) in enumerate(zip(delta.adds, delta.sources, strict=True)):
        demand(source is None or 0 < source < size, "no such source")
        if source is not None and stated["kind"] == DIRECTORY:
            demand(source not in moved and source not in delta.removed, "moved twice, or moved and removed")
            moved[source] = n
    children: dict[int, list[int]] = {}
    for n, entry in enumerate(base):
        if n and n not in delta.removed and n not in moved:
            children.setdefault(2 * numbers[entry.path.rpartition(b"/")[0]], []).append(2 * n)
    for n in range(0 if base else 1, count):
        name = delta.names[n]
        demand(1 <= len(name) <= 255 and name not in (b".", b"..") and b"/" not in name, "no name")
        children.setdefault(delta.parents[n], []).append(2 * n + 1)
    demand(base or (count and delta.adds[0]["kind"] == DIRECTORY and not delta.names[0]), "no root")
    demand(base or delta.parents[0] == 1, "a root in something")
    edits = dict(zip(delta.edited, delta.edits, strict=True))
    listing: list[Entry] = []
    places: dict[int, int] = {}
    firsts: dict[int, int] = {}
    todo = [(0 if base else 1, b"")]
    while todo:
        code, path = todo.pop()
        n = code >> 1
        stated = delta.adds[n] if code & 1 else edits.get(n)
        source = delta.sources[n] if code & 1 else n
        places[code] = len(listing)
        entry = merged(base[source] if source is not None else None, stated, path)
        demand(len(path) <= 4095, "a path that is too long")
        if entry.kind == HARD:
            firsts[code] = stated["first"] if stated and "first" in stated else 2 * numbers[entry.link]
        listing.append(entry)
        if entry.kind == DIRECTORY:
            held = children.pop(2 * source if source is not None else code, [])
            names = [delta.names[c >> 1] if c & 1 else base[c >> 1].path.rpartition(b"/")[2] for c in held]
            demand(len(set(names)) == len(names), "two entries of one name")
            kinds = [(delta.adds[c >> 1]["kind"] if c & 1 else base[c >> 1].kind) == DIRECTORY for c in held]
            inside = sorted(zip(kinds, names, held, strict=True), reverse=True)
            todo += [(c, path + b"/" * bool(path) + name) for _, name, c in inside]
    # What is left belongs to directories that are gone with one above them; nothing may have been added there.
    demand(not any(c & 1 for held in children.values() for c in held), "entries in what is no directory of the tree")
    demand(all(2 * n in places for n in edits), "an edit of what is not there any more")
    added = [places[2 * n + 1] for n in range(count)]
    demand(added == sorted(added), "added entries out of order")
    for code, first in firsts.items():
        at = places.get(first, len(listing))
        demand(at < places[code] and listing[at].kind not in (DIRECTORY, HARD), "a hard link to nothing")
        listing[places[code]] = dataclasses.replace(listing[places[code]], link=listing[at].path)
    return listing


def merged(old: Entry | None, stated: dict[str, Any] | None, path: bytes) -> Entry:
    said = dict(stated or {})
    fields = said.pop("fields", 0)
    said.pop("first", None)
    if old is None:
        demand(fields == ALLOWED[said["kind"]], "fields that are left out")
        entry = Entry(path, **said)
    else:
        demand(said.get("kind", old.kind) == old.kind, "another kind")
        entry = dataclasses.replace(old, path=path, **said)
    demand(not entry.extents or sum(entry.extents[-1]) <= entry.size, "extents beyond the end")
    return entry
