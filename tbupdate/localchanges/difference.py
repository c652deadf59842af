"""Look: what differs between a deployment and a root that was made from it, told by Btrfs; the rest is not read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tbdiff.changes import KINDS, Change, aspects
from tbdiff.descent import Descent
from tbdiff.entry import Entry, Kind, Listing, join
from tbdiff.errors import Failed
from tbdiff.generation import differences as told_differences
from tbdiff.generation import snapshot_at
from tbdiff.replay import DoubtError, Replay
from tbdiff.tree import STUB_INODE, read_names
from tbupdate.localchanges.merge import Node, differences, same, unchanged

ROOT_INODE = 256

Wanted = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Difference:
    """What is at a path in the deployment and in its root, where that is not the same."""

    base: Node | None
    ours: Node | None


@dataclass(frozen=True)
class Deployed:
    """A deployment: its read-only subvolume, and the listing of that; whether it came by an image, as others will."""

    tree: Path
    listing: Listing
    by_image: bool = True


def find(deployed: Deployed, root: Path, wanted: Wanted, *, also_others: bool = False) -> dict[bytes, Difference]:
    """What differs in `root`, a read-only snapshot of a root of the deployment.

    Contents are read of `wanted` paths only; `also_others` says whether other paths are looked at at all.
    """
    base: dict[bytes, Node] = {}
    ours: dict[bytes, Node] = {}
    with Descent(root) as tree:
        paths = _candidates(deployed, root, tree)
        for contents in (True, False) if also_others else (True,):
            # Names of one inode count together where they are looked at together, on both sides.
            looked = {path for path in paths if wanted(path) is contents}
            base |= base_nodes(deployed.listing, looked)
            ours |= read_nodes(tree, looked, contents=contents)
    found = {}
    for path in base.keys() | ours.keys():
        old, new = base.get(path), ours.get(path)
        if old is not None and new is not None and not new.entry.digest:
            new = replace(new, entry=_unread(old.entry, new.entry))
        if not unchanged(old, new):
            found[path] = Difference(old, new)
    return found


def _unread(old: Entry, new: Entry) -> Entry:
    """A file whose content was not read is taken for the same while its size and time are."""
    return new._replace(digest=old.digest) if (old.size, old.mtime) == (new.size, new.mtime) else new


def _candidates(deployed: Deployed, root: Path, tree: Descent) -> set[bytes]:
    """The paths that may differ: told by Btrfs, or in any doubt all that there are."""
    before = snapshot_at(deployed.tree)
    try:
        if before is None:
            raise DoubtError("the deployment is no read-only snapshot")
        replay = told_differences(deployed.listing, root, before)
    except DoubtError:
        return {*deployed.listing.entries.paths, *below(tree, b"")}
    return _told(deployed.listing, replay, tree)


def _told(listing: Listing, replay: Replay, tree: Descent) -> set[bytes]:
    places, fresh = replay.names()
    touched = {inode for inode in replay.touched if isinstance(inode, bytes)}
    found = touched | fresh | places.keys()
    found |= {entry.path for _, entry in listing.of_kind(Kind.HARDLINK) if entry.link in touched}
    left = {path for path in places if (entry := listing.get(path)) is not None and entry.kind is Kind.DIRECTORY}
    if left:
        found |= {path for path in listing.entries.paths if any(above in left for above in directories_above(path))}
    for origin, place in places.items():
        if place is not None:
            found.add(place)
            if origin in left:
                found.update(below(tree, place))
    return found


def directories_above(path: bytes) -> Iterator[bytes]:
    """The directories that lead to `path`, but for the root."""
    while path := path.rpartition(b"/")[0]:
        yield path


def below(tree: Descent, directory: bytes) -> Iterator[bytes]:
    """All paths in a directory of a tree, in no order, but nothing that is mounted there or a subvolume of its own."""
    todo = [directory]
    while todo:
        above = todo.pop()
        try:
            fd = tree.open(above)
        except Failed:
            continue
        for name in map(os.fsencode, os.listdir(fd)):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if _is_here(tree, status):
                path = join(above, name)
                yield path
                if stat.S_ISDIR(status.st_mode):
                    todo.append(path)


def _is_here(tree: Descent, status: os.stat_result) -> bool:
    """Whether something belongs to the tree, and can be in a listing."""
    if stat.S_ISDIR(status.st_mode) and status.st_ino in (STUB_INODE, ROOT_INODE):
        return False
    return status.st_dev == tree.device and not stat.S_ISSOCK(status.st_mode)


def read_nodes(tree: Descent, paths: Iterable[bytes], *, contents: bool = True) -> dict[bytes, Node]:
    """What is at those of the paths where there is anything."""
    there = [path for path in sorted(paths) if not path or _is_there(tree, path)]
    read = read_names(tree, there, contents=contents)
    links = _links(read.values())
    return {path: _node(path, entry, read, links) for path, entry in read.items()}


def _is_there(tree: Descent, path: bytes) -> bool:
    try:
        directory, name = tree.parent(path)
        return _is_here(tree, os.stat(name, dir_fd=directory, follow_symlinks=False))
    except (Failed, FileNotFoundError):
        return False


def base_nodes(listing: Listing, paths: Collection[bytes]) -> dict[bytes, Node]:
    """What a listing has at those of the paths where it has anything."""
    found: dict[bytes, Entry] = {}
    for path in paths:
        entry = listing.get(path)
        if entry is not None:
            found[path] = entry
    several = {name for path, entry in found.items() for name in (entry.link or path,)}
    linked = (entry for _, entry in listing.of_kind(Kind.HARDLINK) if entry.link in several and entry.path in found)
    links = _links(linked)
    for first, names in links.items():
        # Names that were not asked for are not looked at in the root either.
        links[first] = [name for name in names if name in found]
    return {path: _node(path, entry, listing, links) for path, entry in found.items()}


def _links(entries: Iterable[Entry]) -> dict[bytes, list[bytes]]:
    """The names of inodes that have several, by the first of them."""
    links: dict[bytes, list[bytes]] = {}
    for entry in entries:
        if entry.kind is Kind.HARDLINK:
            links.setdefault(entry.link, [entry.link]).append(entry.path)
    return links


def _node(
    path: bytes, entry: Entry, entries: Mapping[bytes, Entry] | Listing, links: Mapping[bytes, list[bytes]]
) -> Node:
    first = entries.get(entry.link) if entry.kind is Kind.HARDLINK else entry
    if first is None:
        raise Failed("a listing has a name without what it names", "See: tb-update verify")
    names = links.get(first.path, ())
    return Node(first._replace(path=path), tuple(sorted(names)) if len(names) > 1 else ())


def described(found: Mapping[bytes, Difference]) -> list[Change]:
    """The differences in the words of a person, by path; of what is gone, only the directory that holds it."""
    changes = []
    for path, one in sorted(found.items()):
        change = _change(path, one.base, one.ours, found)
        if change is not None:
            changes.append(change)
    return changes


def _change(path: bytes, old: Node | None, new: Node | None, found: Mapping[bytes, Difference]) -> Change | None:
    if new is None:
        above = found.get(path.rpartition(b"/")[0]) if b"/" in path else None
        return None if above is not None and above.ours is None else Change("removed", path)
    size = new.entry.size if new.entry.kind is Kind.FILE else None
    if old is None:
        return Change("added", path, (KINDS[new.entry.kind],), size=size)
    if old.entry.kind is not new.entry.kind:
        return Change("changed", path, ("replaced by a " + KINDS[new.entry.kind],), size=size)
    words = aspects(differences(old, new), new.entry.kind) if not same(old, new) else ()
    return Change("changed", path, words + (("links",) if old.names != new.names else ()), size=size)
