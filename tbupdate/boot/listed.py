"""The boot files of a system that is only listed so far: its image was opened, and none of its contents are read."""

from __future__ import annotations

from dataclasses import dataclass

from tbdiff.entry import Entry, Kind, Listing
from tbupdate.boot import kernel
from tbupdate.boot.kernel import Overrides

# What is looked through lies here, or is a link near the top.
_PLACES = (b"boot/", b"lib/modules/", b"usr/lib/modules/", b"usr/lib/linux-image-")
_MODULES = (b"/kernel/", b"/updates/")
_NEAR = 2
_LINKS_MAX = 40


@dataclass(frozen=True)
class File:
    """What a listing says of a file."""

    size: int
    digest: str


def find(target: Listing, wanted: Overrides) -> dict[str, File]:
    """The boot files of the system that is listed, each by the name that it gets on /boot."""
    named = [path.encode() for path in (wanted.kernel, wanted.initrd, wanted.devicetree) if path]
    tree = _Listed(target, {place for path in named for place in (path, *_above(path))})
    return {name: tree.file(path) for name, path in kernel.find_in(tree, wanted).named.items()}


def _above(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts))]


class _Listed:
    """A listing as a tree to look through; of the many entries only those are kept that can be boot files."""

    def __init__(self, listing: Listing, named: set[bytes]) -> None:
        self._entries: dict[bytes, Entry] = {}
        self._names: dict[bytes, list[str]] = {}
        paths = listing.entries.paths
        for number, path in enumerate(paths):
            if path in named or _may_matter(path):
                self._entries[path] = entry = listing.entries[number]
                self._names.setdefault(entry.parent, []).append(entry.name.decode("utf-8", "surrogateescape"))
        # The first name of a file that has several may be anywhere.
        firsts = {entry.link for entry in self._entries.values() if entry.kind is Kind.HARDLINK} - set(self._entries)
        self._entries |= {path: listing.entries[number] for path, number in listing.positions(firsts).items()}

    def names(self, directory: str, *, linked: bool = True) -> list[str]:
        found = self._follow(directory, linked=linked)
        return self._names.get(found.path, []) if found is not None and found.kind is Kind.DIRECTORY else []

    def is_file(self, path: str) -> bool:
        found = self._follow(path)
        return found is not None and found.kind is Kind.FILE

    def file(self, path: str) -> File:
        """A file that is there."""
        found = self._follow(path)
        return File(found.size, found.digest.hex()) if found is not None else File(0, "")

    def _follow(self, path: str, *, linked: bool = True) -> Entry | None:
        """The entry at a path, as the system itself would find it: no link leads out of it.

        Unless `linked`, a link at its end is left as one.
        """
        left, done, links = path.encode("utf-8", "surrogateescape").split(b"/")[::-1], b"", 0
        while left:
            name = left.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                done = done.rpartition(b"/")[0]
                continue
            entry = self._entries.get(done + b"/" + name if done else name)
            if entry is None:
                return None
            if entry.kind is Kind.SYMLINK and (left or linked):
                links += 1
                if links > _LINKS_MAX:
                    return None
                done = b"" if entry.link.startswith(b"/") else done
                left += entry.link.split(b"/")[::-1]
                continue
            done = entry.path
        entry = self._entries.get(done)
        return self._entries.get(entry.link) if entry is not None and entry.kind is Kind.HARDLINK else entry


def _may_matter(path: bytes) -> bool:
    if not path.startswith(_PLACES):
        return path.count(b"/") <= _NEAR
    # Modules are many, and none of them boots.
    return not any(part in path for part in _MODULES)
