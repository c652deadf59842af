"""A layer laid over a base: the listing that comes of it (pure). A full system is a layer over nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tbdiff.changes import KINDS, Change
from tbdiff.entry import Entry, Kind, Listing, canonical_key, check_name, in_order, join, printable
from tbdiff.errors import Malformed, Rejected

WHITEOUT = b".wh."
RESERVED = b".wh..wh."
OPAQUE = b".wh..wh..opq"
# As many names as one inode can have on Btrfs and ext4 alike.
NAMES_MAX = 65000
# The root of a tarball that has no entry for it.
PLAIN_ROOT = Entry(path=b"", kind=Kind.DIRECTORY, mode=0o755)


@dataclass(frozen=True)
class Layer:
    """What a tarball holds: its entries in their order; as a delta also what of the base it removes.

    `whiteouts` are paths that go, `opaque` are directories whose content goes.
    """

    entries: tuple[Entry, ...] = ()
    whiteouts: frozenset[bytes] = frozenset()
    opaque: frozenset[bytes] = frozenset()


def layer_of(entries: Sequence[Entry], *, delta: bool) -> Layer:
    """Tell the entries of a tarball from the marks for what goes; a full system must not have any."""
    plain, whiteouts, opaque = [], set(), set()
    for entry in entries:
        if not entry.name.startswith(WHITEOUT):
            plain.append(entry)
            continue
        shown = repr(printable(entry.path))
        if not delta:
            raise Rejected(
                f"the tarball holds {shown}, which marks something for removal: it is no full system",
                "If it is a layer over a base, say --delta.",
            )
        if entry.kind is not Kind.FILE or entry.size:
            raise Malformed(f"the tarball holds {shown}, which is not the empty file that marks something for removal")
        if entry.name == OPAQUE:
            opaque.add(entry.parent)
        elif entry.name.startswith(RESERVED):
            raise Malformed(f"the tarball holds {shown}, a mark that tbdiff does not know")
        else:
            whiteouts.add(join(entry.parent, check_name(entry.name[len(WHITEOUT) :])))
    return Layer(tuple(plain), frozenset(whiteouts), frozenset(opaque))


def overlay(base: Listing, layer: Layer) -> Listing:
    """The listing of `base` with `layer` over it; Rejected where the two do not fit, or the layer not itself."""
    stack = _Stack(base, layer)
    for entry in layer.entries:
        stack.put(entry)
    return stack.listing()


class _Stack:
    """The tree that comes to be: each path with the number of its inode."""

    def __init__(self, base: Listing, layer: Layer) -> None:
        self.inodes: list[Entry] = []
        self.numbers: dict[bytes, int] = {}
        self.links: set[bytes] = set()
        gone: set[bytes] = set()
        linked = {entry.link: 0 for entry in base.entries if entry.kind is Kind.HARDLINK}
        for entry in base.entries:
            path = entry.path
            if path and (path in layer.whiteouts or entry.parent in layer.opaque or entry.parent in gone):
                gone.add(path)
            if entry.kind is Kind.HARDLINK:
                number = linked[entry.link]
            else:
                number = len(self.inodes)
                self.inodes.append(entry)
            if path in linked:
                linked[path] = number
            if path not in gone:
                self.numbers[path] = number
        self.first = len(self.inodes)

    def added(self, path: bytes) -> bool:
        """Whether the layer brings what is at that path now."""
        return path in self.links or self.numbers.get(path, -1) >= self.first

    def put(self, entry: Entry) -> None:
        """Lay one entry over what is there."""
        old = self._at(entry.path)
        if self.added(entry.path) and not (old and old.kind is entry.kind is Kind.DIRECTORY):
            raise Malformed(f"the tarball holds {printable(entry.path)!r} twice")
        if entry.kind is Kind.HARDLINK:
            self.links.add(entry.path)
            self.numbers[entry.path] = self._linked(entry)
            return
        if old and old.digest and old.digest == entry.digest and entry.extents is None:
            # A tarball without maps of holes says nothing about them.
            entry = entry._replace(extents=old.extents)
        self.numbers[entry.path] = len(self.inodes)
        self.inodes.append(entry)

    def _at(self, path: bytes) -> Entry | None:
        number = self.numbers.get(path)
        return None if number is None else self.inodes[number]

    def _linked(self, entry: Entry) -> int:
        found = self._at(entry.link)
        above, reached = entry.link, found is not None and entry.link != entry.path
        while reached and above:
            above = above.rpartition(b"/")[0]
            directory = self._at(above)
            reached = directory is None or directory.kind is Kind.DIRECTORY
        if found is None or not reached or found.kind is Kind.DIRECTORY:
            raise Malformed(
                f"the tarball makes {printable(entry.path)!r} a hard link to {printable(entry.link)!r}, "
                "which is nothing that was there before it and can be linked to"
            )
        return self.numbers[entry.link]

    def listing(self) -> Listing:
        """All paths that are in a directory, in order; of the names of one inode the first is the file."""
        if b"" not in self.numbers:
            self.numbers[b""] = len(self.inodes)
            self.inodes.append(PLAIN_ROOT)
        entries: dict[bytes, Entry] = {}
        names: dict[int, list[bytes]] = {}
        uses = [0] * len(self.inodes)
        for number in self.numbers.values():
            uses[number] += 1
        # In the order of bytes a directory comes before what is in it.
        for path in sorted(self.numbers):
            number = self.numbers[path]
            above = entries.get(path.rpartition(b"/")[0]) if path else PLAIN_ROOT
            if above is None or above.kind is not Kind.DIRECTORY:
                if self.added(path):
                    raise Rejected(_homeless(path, above))
                continue  # of the base, and its directory is none any more
            inode = self.inodes[number]
            entries[path] = inode if inode.path == path else inode._replace(path=path)
            if uses[number] > 1 and inode.kind is not Kind.DIRECTORY:
                names.setdefault(number, []).append(path)
        for number, paths in names.items():
            if len(paths) > NAMES_MAX:
                raise Malformed(f"the tarball gives one file {len(paths)} names; {NAMES_MAX} is the limit")
            if len(paths) > 1:
                head, *others = sorted(paths, key=canonical_key)
                entries[head] = self.inodes[number]._replace(path=head)
                entries.update((path, Entry(path=path, kind=Kind.HARDLINK, link=head)) for path in others)
        return in_order(entries)


def _homeless(path: bytes, above: Entry | None) -> str:
    directory = repr(printable(path.rpartition(b"/")[0]))
    why = f"{directory} is a {KINDS[above.kind]}" if above else f"there is no directory {directory}"
    return f"the tarball holds {printable(path)!r}, but {why}"


def layer_changes(layer: Layer) -> list[Change]:
    """What a layer does, as far as it tells without its base."""
    found = [
        Change("added", entry.path, (KINDS[entry.kind],), size=entry.size if entry.kind is Kind.FILE else None)
        for entry in layer.entries
    ]
    found += (Change("removed", path) for path in layer.whiteouts)
    found += (Change("changed", path, ("emptied before",)) for path in layer.opaque)
    return sorted(found, key=lambda change: change.path or b"")
