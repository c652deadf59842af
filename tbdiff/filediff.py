"""One file of an image against what it was in the base: a unified diff of text, or a sentence where there is none."""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from tbdiff.changes import KINDS, aspects
from tbdiff.compare import differing
from tbdiff.content import Nowhere
from tbdiff.descent import Descent
from tbdiff.entry import Entry, Kind, Listing, printable
from tbdiff.errors import Malformed, Rejected
from tbdiff.image import Image, Over
from tbdiff.recipe import BASE, Recipe
from tbdiff.tree import Progress, quiet

# Larger files are not read by people, and their differences take long to find.
SIZE_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class FileDiff:
    """The `diff` of one file, or a `note` that says why there is none; `source` is where the file was in the base."""

    path: bytes
    source: bytes | None
    diff: str | None = None
    note: str = ""


class _NoTextError(Exception):
    """Why a content cannot be shown."""


def file_diff(image: Image, path: bytes, base: Path | None, progress: Progress = quiet) -> FileDiff:
    """The difference that `image` makes to the file at `path`, whose base is the tree `base`."""
    full = image.manifest.way.base is None
    if full and base is not None:
        raise Rejected("the image is a full one: it starts from no tree", "Leave --base away.")
    if not full and base is None:
        raise Rejected(
            "the image holds only what its base does not have, so no file of it can be shown without that",
            "Name the tree that it starts from with --base.",
        )
    over = image.over(base, progress)
    new = _resolved(over.rebuilt.target, over.rebuilt.target.get(path))
    source = _source(over, path)
    old = None if source is None else _resolved(over.base, over.base.entries[source])
    if new is None and old is None:
        raise Rejected(f"neither the base nor the target of the image has {printable(path)!r}")
    place = None if source is None else over.base.entries[source].path
    note = _note(printable(path), old, new)
    if note:
        return FileDiff(path, place, note=note)
    try:
        before = "" if old is None else _text(_read(base, old))
        after = "" if new is None else _text(_content(over, new, base))
    except _NoTextError as reason:
        return FileDiff(path, place, note=f"{printable(path)} differs, but {reason}.")
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        "/dev/null" if old is None else f"a/{printable(place or path)}",
        "/dev/null" if new is None else f"b/{printable(path)}",
    )
    return FileDiff(path, place, "".join(map(_ended, lines)))


def _ended(line: str) -> str:
    return line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _resolved(listing: Listing, entry: Entry | None) -> Entry | None:
    """The file itself, where the name is a further one of it."""
    return listing.get(entry.link) if entry is not None and entry.kind is Kind.HARDLINK else entry


def _source(over: Over, path: bytes) -> int | None:
    """The number of the base entry that what is at `path` in the target was, or what was there and is gone."""
    place = over.rebuilt.target.index.get(path)
    if place is not None and place in over.rebuilt.edited:
        return over.delta.edits.indices[over.rebuilt.edited.index(place)]
    if place is not None and place in over.rebuilt.added:
        source = over.delta.adds[over.rebuilt.added.index(place)].source
        if source is not None:
            return source
    return over.base.index.get(path)


def _note(shown: str, old: Entry | None, new: Entry | None) -> str:
    """What is to be said instead of a diff; nothing where there are two contents to compare."""
    if (old is None or old.kind is Kind.FILE) and (new is None or new.kind is Kind.FILE):
        if old is None or new is None or old.digest != new.digest:
            return ""
        other = [word for word in aspects(differing(old, new), Kind.FILE) if word != "content"]
        more = f" Only these differ: {', '.join(other)}." if other else ""
        return f"{shown} has the same content in base and target.{more}"
    if new is None:
        return f"{shown} is removed; it was {_described(old)}."
    if old is not None and _described(old) == _described(new):
        return f"{shown} is {_described(new)}, as it was before."
    return f"{shown} is {_described(new)}" + (f"; it was {_described(old)}." if old else ", and was not there before.")


def _described(entry: Entry | None) -> str:
    if entry is None:
        return "nothing"
    if entry.kind is Kind.SYMLINK:
        return f"a symlink to {printable(entry.link)}"
    return f"a {KINDS[entry.kind]}"


def _text(content: bytes) -> str:
    try:
        if b"\0" not in content:
            return content.decode()
    except UnicodeDecodeError:
        pass
    raise _NoTextError("it is not text")


def _read(tree: Path | None, entry: Entry) -> bytes:
    """The content of a file of the base."""
    if entry.size > SIZE_MAX:
        raise _NoTextError("it is too large to be shown")
    if tree is None:
        raise AssertionError("nothing is read of a base that there is not")
    with Descent(tree) as descent, descent.file(entry.path) as fd:
        return os.pread(fd, entry.size, 0)


def _content(over: Over, new: Entry, tree: Path | None) -> bytes:
    """The content of a file of the target, from the base or from the image."""
    if new.size > SIZE_MAX:
        raise _NoTextError("it is too large to be shown")
    number = next((n for n, digest in over.base.digests() if digest == new.digest), None)
    if number is not None:
        return _read(tree, over.base.entries[number])
    for recipe, record in over.contents:
        if over.needs[recipe.index].digest != new.digest:
            over.contents.follow(recipe, record, Nowhere())
            continue
        sink = _InMemory(_sources(over, recipe, tree))
        over.contents.follow(recipe, record, sink)
        if hashlib.sha256(sink.content).digest() != new.digest:
            raise Malformed("the image makes a content that is not the one that it says")
        return bytes(sink.content)
    raise AssertionError("a content that is needed has no recipe")


def _sources(over: Over, recipe: Recipe, tree: Path | None) -> bytes:
    if recipe.members or over.needs[recipe.index].extents is not None:
        raise _NoTextError("it is not text")
    if any(source.kind != BASE for source in recipe.sources):
        raise _NoTextError("it is put together from what other files hold packed")
    return b"".join(_read(tree, over.base.entries[source.index]) for source in recipe.sources)


class _InMemory:
    """A small content on its way into memory."""

    def __init__(self, old: bytes) -> None:
        self._old = old
        self.content = bytearray()

    def write(self, data: bytes, /) -> None:
        """Append bytes."""
        self.content += data

    def take(self, offset: int, length: int, /) -> None:
        """Append a part of the sources."""
        self.content += self.read(offset, length)

    def read(self, offset: int, length: int, /) -> bytes:
        """A part of the sources."""
        return self._old[offset : offset + length]
