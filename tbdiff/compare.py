"""Two listings compared: a small delta that turns the one into the other (pure; `rebuild` is its inverse)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from tbdiff.entry import Entry, Kind, Listing, join, numberless, parents
from tbdiff.operation import RELEVANT, Add, Edit, Field, Ref, TreeDelta


def differing(old: Entry, new: Entry) -> Field:
    """Which fields differ between two entries of one kind; a further name of an inode has only its link."""
    fields = Field(0)
    if old.mode != new.mode:
        fields |= Field.MODE
    if old.uid != new.uid:
        fields |= Field.UID
    if old.gid != new.gid:
        fields |= Field.GID
    if old.mtime != new.mtime:
        fields |= Field.MTIME
    if old.xattrs != new.xattrs:
        fields |= Field.XATTRS
    if old.digest != new.digest or old.link != new.link or old.rdev != new.rdev or old.size != new.size:
        fields |= Field.CONTENT
    if old.extents != new.extents:
        fields |= Field.EXTENTS
    return fields & RELEVANT[new.kind]


def compare(base: Listing, target: Listing) -> TreeDelta:
    """Find a small delta that turns `base` into `target`."""
    if not base.entries:
        return _everything(target)
    sources = _directory_sources(base, target)
    return _Comparison(base, target, sources).delta()


def _everything(target: Listing) -> TreeDelta:
    """The delta that starts from nothing."""
    up = parents(target)
    # One for each directory, not one for each entry: there are many.
    above = {n: Ref(n, added=True) for n in set(up)}

    def adds() -> Iterator[Add]:
        for n, entry in enumerate(target.entries):
            link = Ref(target.index[entry.link], added=True) if entry.kind is Kind.HARDLINK else None
            yield Add(above[up[n]], entry._replace(path=entry.name), RELEVANT[entry.kind], link=link)

    return TreeDelta(adds=adds())


class _Comparison:
    """The state of one comparison: which base entry stands behind which target entry."""

    def __init__(self, base: Listing, target: Listing, sources: dict[bytes, int]) -> None:
        self.base = base
        self.target = target
        self.sources = sources  # target directory -> base directory that it is
        self.kept: set[int] = {0}  # base entries that live on in their place
        self.moved: set[int] = set()  # base directories that live on elsewhere
        self.linked = {entry.link for _, entry in target.of_kind(Kind.HARDLINK)}
        # What the delta calls the directories of the target and the first names of its hard links.
        self.refs: dict[bytes, Ref] = {b"": Ref(0)}
        self.by_digest: dict[bytes, list[int]] = {}
        for n, digest in base.digests():
            self.by_digest.setdefault(digest, []).append(n)

    def delta(self) -> TreeDelta:
        """Walk the target once, then see what of the base is left over."""
        edits: list[Edit] = []
        adds: list[tuple[int, int | None]] = []
        for place in range(len(self.target)):
            number = self._unchanged(place)
            if number is not None:
                self.kept.add(number)
                continue
            entry = self.target.entries[place]
            number = self._stands_behind(entry)
            if number is None:
                source = self._source_of(entry)
                self._name_add(entry, source, len(adds))
                adds.append((place, source))
            else:
                self.kept.add(number)
                self._name(entry, Ref(number))
                edit = self._edit(number, entry)
                if edit is not None:
                    edits.append(edit)
        edits.sort(key=lambda edit: edit.index)
        return TreeDelta(
            removed=self._removed(),
            edits=edits,
            adds=(self._add(self.target.entries[place], source) for place, source in adds),
        )

    def _unchanged(self, place: int) -> int | None:
        """The base entry that is just the same, so that there is nothing to say. Most are, and pass by quickly."""
        path, kind = self.target.entries.paths[place], self.target.entries.kinds[place]
        number = self.base.index.get(path)
        # What others may be called by has to be named.
        if number is None or kind in (Kind.DIRECTORY, Kind.HARDLINK) or path in self.linked:
            return None
        above = path.rpartition(b"/")[0]
        stays = self.sources.get(above, -1) == self.base.index.get(above)
        return number if stays and self.target.entries.alike(place, self.base.entries, number) else None

    def _stands_behind(self, entry: Entry) -> int | None:
        """The base entry that is at this place already, whatever its directory is called now."""
        if not entry.path:
            return 0
        held_by = self.sources.get(entry.parent)
        if held_by is None:
            return None
        number = self.base.index.get(join(self.base.entries[held_by].path, entry.name))
        if number is None or self.base.entries[number].kind is not entry.kind:
            return None
        if entry.kind is Kind.DIRECTORY and self.sources.get(entry.path) != number:
            return None
        return number

    def _source_of(self, entry: Entry) -> int | None:
        if entry.kind is Kind.DIRECTORY:
            return self.sources.get(entry.path)
        if entry.kind is not Kind.FILE:
            return None
        candidates = self.by_digest.get(entry.digest, [])
        same_name = [n for n in candidates if self.base.entries[n].name == entry.name]
        return next(iter(same_name or candidates), None)

    def _name(self, entry: Entry, ref: Ref) -> None:
        if entry.kind is Kind.DIRECTORY or entry.path in self.linked:
            self.refs[entry.path] = ref

    def _name_add(self, entry: Entry, source: int | None, number: int) -> None:
        if entry.kind is Kind.DIRECTORY and source is not None:
            self.moved.add(source)
            self._name(entry, Ref(source))
        else:
            self._name(entry, Ref(number, added=True))

    def _edit(self, number: int, entry: Entry) -> Edit | None:
        old = self.base.entries[number]
        fields = differing(old, entry)
        link = None
        if entry.kind is Kind.HARDLINK:
            # The first name may have moved with its directory: what counts is whether it is the same entry.
            link = self.refs[entry.link]
            same = link == Ref(self.base.index[old.link])
            fields = Field(0) if same else Field.CONTENT
        if not fields:
            return None
        return Edit(number, fields, entry._replace(path=b"", link=b"" if link else entry.link), link)

    def _add(self, entry: Entry, source: int | None) -> Add:
        fields = RELEVANT[entry.kind] if source is None else differing(self.base.entries[source], entry)
        link = self.refs[entry.link] if entry.kind is Kind.HARDLINK else None
        bare = entry._replace(path=entry.name, link=b"" if link else entry.link)
        return Add(self.refs[entry.parent], bare, fields, source, link)

    def _removed(self) -> Iterator[int]:
        """The topmost base entries that do not live on."""
        gone: set[int] = set()
        for n, up in enumerate(parents(self.base)):
            if n in self.kept or n in self.moved:
                continue
            gone.add(n)
            if up not in gone:
                yield n


def _directory_sources(base: Listing, target: Listing) -> dict[bytes, int]:
    """For each target directory that is a base directory, perhaps under another name, that one's position."""
    leftover = [(n, entry) for n, entry in base.of_kind(Kind.DIRECTORY) if not _is_directory(target, entry.path)]
    alike: dict[bytes, list[int]] = {}
    if leftover:
        prints = _fingerprints(base)
        for n, entry in leftover:
            alike.setdefault(prints[entry.path], []).append(n)
            alike.setdefault(numberless(entry.path), []).append(n)
        target_prints = _fingerprints(target)
    sources = {b"": 0}
    taken: set[int] = {0}
    for _, entry in target.of_kind(Kind.DIRECTORY):
        if not entry.path:
            continue
        parent = sources.get(entry.parent)
        number = None
        if parent is not None:
            number = base.index.get(join(base.entries[parent].path, entry.name))
            if number is not None and (base.entries[number].kind is not Kind.DIRECTORY or number in taken):
                number = None
        if number is None and leftover:
            candidates = alike.get(target_prints[entry.path], []) + alike.get(numberless(entry.path), [])
            number = next((n for n in candidates if n not in taken), None)
        if number is not None:
            taken.add(number)
            sources[entry.path] = number
    return sources


def _is_directory(listing: Listing, path: bytes) -> bool:
    entry = listing.get(path)
    return entry is not None and entry.kind is Kind.DIRECTORY


def _fingerprints(listing: Listing) -> dict[bytes, bytes]:
    """A digest for each directory over the names and contents below it, whatever their metadata."""
    held: dict[bytes, list[bytes]] = {}
    prints: dict[bytes, bytes] = {}
    for entry in reversed(listing.entries):
        own = entry.digest or entry.link
        if entry.kind is Kind.DIRECTORY:
            own = hashlib.sha256(b"\0".join(held.pop(entry.path, []))).digest()
            prints[entry.path] = own
        elif entry.kind is Kind.HARDLINK:
            own = b""  # its path would tell where the directory is
        held.setdefault(entry.parent, []).append(b"%d %s\0%s" % (entry.kind, entry.name, own))
    return prints
