"""Do: the merge of local changes written into a root, with the writer that applies images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tbdiff.compare import compare
from tbdiff.content import needed, runs
from tbdiff.descent import Descent
from tbdiff.entry import Entry, Kind, canonical_key, in_order
from tbdiff.errors import Failed
from tbdiff.rebuild import rebuild
from tbdiff.staging import StagedContent
from tbdiff.writer import TransformError, TreeWriter, sync
from tbupdate.localchanges.contents import LARGEST, Combined, combine
from tbupdate.localchanges.difference import Difference, below, directories_above, read_nodes
from tbupdate.localchanges.merge import Merged, Node, Sides, Source, merge

STEP = 1 << 18

Own = Callable[[bytes, bytes], bytes | None]


class Transfer:
    """Three trees: what both sides started from, the local one, and the root to be merged into.

    `own` says of files what of them is not the machine's own: it counts as the base of what has none.
    """

    def __init__(self, base: Path, ours: Path, root: Path, own: Own | None = None) -> None:
        self._path = root
        self._own = own
        self._open = ExitStack()
        self._base, self._ours, self._root = (self._open.enter_context(Descent(path)) for path in (base, ours, root))

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def merged(self, found: Mapping[bytes, Difference]) -> tuple[dict[bytes, Sides], dict[bytes, Merged]]:
        """What is at every path that the differences concern, and what comes there."""
        sides = self._sides(found)
        return sides, merge(sides, lambda path: self._combined(path, sides[path]))

    def _sides(self, found: Mapping[bytes, Difference]) -> dict[bytes, Sides]:
        """Those paths, the directories above, and what is below where only one side has a directory."""
        paths = {above for path in found for above in directories_above(path)} - found.keys()
        paths.add(b"")
        theirs = read_nodes(self._root, {*found, *paths})
        ours = read_nodes(self._ours, paths)
        inside: set[bytes] = set()
        for path, one in found.items():
            if _is_directory(theirs.get(path)) and not _is_directory(one.ours):
                inside.update(below(self._root, path))
        for path in paths:
            if path in theirs and not _is_directory(theirs[path]):
                inside.update(below(self._ours, path))
        inside -= found.keys() | paths
        ours |= read_nodes(self._ours, inside)
        theirs |= read_nodes(self._root, inside)
        sides = {path: Sides(one.base, one.ours, theirs.get(path)) for path, one in found.items()}
        for path in paths | inside:
            # What is not among the differences is not local, whatever its other names are.
            mine = _nameless(ours.get(path))
            sides[path] = Sides(mine, mine, theirs.get(path))
        return sides

    def _combined(self, path: bytes, sides: Sides) -> Combined | None:
        nodes = (sides.base, sides.ours, sides.theirs)
        if any(node is not None and node.entry.size > LARGEST for node in nodes):
            return None
        base, ours, theirs = (
            _content(tree, path) if node is not None and node.entry.kind is Kind.FILE else None
            for tree, node in zip((self._base, self._ours, self._root), nodes, strict=True)
        )
        if base is None and ours is not None and self._own is not None:
            base = self._own(path, ours)
        return combine(path, base, ours, theirs) if ours is not None and theirs is not None else None

    def content(self, path: bytes) -> bytes:
        """The content that a file of the root has."""
        return _content(self._root, path)

    def write(self, sides: Mapping[bytes, Sides], merged: Mapping[bytes, Merged]) -> None:
        """Bring what was merged into the root."""
        old = in_order({path: self._present(one.theirs, merged[path]) for path, one in sides.items() if one.theirs})
        new = in_order(_entries(sides, merged))
        delta = compare(old, new)
        if delta.empty:
            return
        rebuilt = rebuild(old, delta)
        with TreeWriter(self._path) as writer:
            staging = writer.begin(old)
            for entry in needed(old, rebuilt.target):
                with staging.content(entry) as staged:
                    self._fill(staged, entry, sides, merged)
            # A name must never be durable before what it names.
            sync(self._path)
            try:
                writer.transform(old, delta, rebuilt)
            except TransformError as error:
                raise Failed(
                    f"local changes could not be brought into {self._path}: {error}",
                    "See what they are: tb-update changes",
                ) from error.__cause__

    def _present(self, node: Node, coming: Merged) -> Entry:
        """What is in the root; if it has names that are not known here, as of unknown content: it must be replaced."""
        entry = node.entry
        if entry.kind is Kind.FILE and coming.node != node:
            directory, name = self._root.parent(entry.path)
            if os.stat(name, dir_fd=directory, follow_symlinks=False).st_nlink > 1:
                return entry._replace(digest=b"")
        return entry

    def _fill(
        self, staged: StagedContent, entry: Entry, sides: Mapping[bytes, Sides], merged: Mapping[bytes, Merged]
    ) -> None:
        made = merged[entry.path].content
        if made is not None:
            staged.write(made)
            return
        ours = sides[entry.path].ours
        here = ours is not None and ours.entry.digest == entry.digest
        with (self._ours if here else self._root).file(entry.path) as fd:
            for start, length in runs(entry):
                for at in range(start, start + length, STEP):
                    staged.write_shared(os.pread(fd, min(STEP, start + length - at), at), fd, at)


def _is_directory(node: Node | None) -> bool:
    return node is not None and node.entry.kind is Kind.DIRECTORY


def _nameless(node: Node | None) -> Node | None:
    return replace(node, names=()) if node is not None else None


def _content(tree: Descent, path: bytes) -> bytes:
    with tree.file(path) as fd, open(os.dup(fd), "rb") as file:
        return file.read()


def _entries(sides: Mapping[bytes, Sides], merged: Mapping[bytes, Merged]) -> dict[bytes, Entry]:
    """The entries that come; what is ours and has several names there, has them here."""
    entries = {path: one.node.entry._replace(path=path) for path, one in merged.items() if one.node is not None}
    for path, one in merged.items():
        ours = sides[path].ours
        if _is_ours(one) and ours is not None and ours.names:
            first = _first(name for name in ours.names if _is_ours(merged.get(name)))
            if first != path:
                entries[path] = Entry(path=path, kind=Kind.HARDLINK, link=first)
    return entries


def _is_ours(one: Merged | None) -> bool:
    return one is not None and one.node is not None and one.source is Source.OURS


def _first(names: Iterable[bytes]) -> bytes:
    return min(names, key=canonical_key)
