"""What is new in one release against another, told by their listings alone: files, packages, kernels (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tbdiff.compare import differing
from tbdiff.entry import Entry, Kind, Listing, printable
from tbdiff.manifest import Target
from tbdiff.operation import Field
from tbdiff.show import size

SHOWN = 20
# What dpkg and opkg keep of each package that is installed, and what of it is another one for another version.
_PACKAGE = re.compile(rb"(?:var|usr)/lib/(?:dpkg|opkg)/info/([^/]+)\.(list|md5sums|control)")
_KERNEL = re.compile(rb"(?:usr/)?lib/modules/([^/]+)")


@dataclass(frozen=True)
class Amount:
    """So many files, and the bytes that they have together."""

    count: int = 0
    size: int = 0


@dataclass(frozen=True)
class Names:
    """What has come, is another one than before, and is there no more; by name, in order."""

    added: Sequence[str]
    changed: Sequence[str]
    removed: Sequence[str]


@dataclass(frozen=True)
class News:
    """What is new: of files (all that is no directory) by path; a renamed one was removed and added.

    The bytes of those that changed are what they have now. `touched` differ in owner, mode, time or attributes only.
    Packages are told where dpkg or opkg installed them, kernels by their modules.
    """

    added: Amount
    changed: Amount
    removed: Amount
    touched: int
    packages: Names
    kernels: Names


def news(old: Listing, new: Listing) -> News:
    """What is new in one tree against another."""
    added, changed = [], []
    touched = 0
    for place, path in enumerate(new.entries.paths):
        number = old.index.get(path)
        if number is not None and new.entries.alike(place, old.entries, number):
            continue
        entry = new.entries[place]
        if number is None:
            added.append(entry)
        elif old.entries[number].kind is not entry.kind or differing(old.entries[number], entry) & Field.CONTENT:
            changed.append(entry)
        else:
            touched += 1
    removed = [old.entries[number] for path, number in old.index.items() if path not in new.index]
    return News(
        added=_amount(added),
        changed=_amount(changed),
        removed=_amount(removed),
        touched=touched,
        packages=_compared(_packages(old), _packages(new)),
        kernels=_compared(_kernels(old), _kernels(new)),
    )


def _amount(entries: Sequence[Entry]) -> Amount:
    files = [entry for entry in entries if entry.kind is not Kind.DIRECTORY]
    return Amount(len(files), sum(entry.size for entry in files))


def _packages(listing: Listing) -> dict[str, set[bytes]]:
    """What stands for the version of each package."""
    found: dict[str, set[bytes]] = {}
    for number, digest in listing.digests():
        said = _PACKAGE.fullmatch(listing.entries.paths[number])
        if said:
            found.setdefault(printable(said[1]), set()).add(said[2] + digest)
    return found


def _kernels(listing: Listing) -> dict[str, set[bytes]]:
    said = (_KERNEL.fullmatch(entry.path) for _, entry in listing.of_kind(Kind.DIRECTORY))
    return {printable(one[1]): set() for one in said if one}


def _compared(old: dict[str, set[bytes]], new: dict[str, set[bytes]]) -> Names:
    both = sorted(old.keys() & new.keys())
    return Names(
        added=sorted(new.keys() - old.keys()),
        changed=[name for name in both if old[name] != new[name]],
        removed=sorted(old.keys() - new.keys()),
    )


def as_json(base: Target, target: Target, found: News) -> dict[str, Any]:
    """The same as a document."""
    ends = {"base": base, "target": target}
    amounts = {"added": found.added, "changed": found.changed, "removed": found.removed}
    return {
        **{name: {"tree": one.tree, "name": one.name, "release": one.release} for name, one in ends.items()},
        "files": {kind: {"count": one.count, "size": one.size} for kind, one in amounts.items()},
        "touched": found.touched,
        "packages": _listed(found.packages),
        "kernels": _listed(found.kernels),
    }


def _listed(names: Names) -> dict[str, list[str]]:
    return {"added": list(names.added), "changed": list(names.changed), "removed": list(names.removed)}


def as_text(base: Target, target: Target, found: News) -> Iterator[str]:
    """The same as lines of text."""
    yield f"From      {_called(base)}"
    yield f"To        {_called(target)}"
    amounts = {"added": found.added, "changed": found.changed, "removed": found.removed}
    yield "Files     " + ", ".join(f"{one.count:,} {kind} ({size(one.size)})" for kind, one in amounts.items())
    if found.touched:
        yield f"          {found.touched:,} more differ only in owner, mode, time or attributes"
    for title, names in (("Packages", found.packages), ("Kernels", found.kernels)):
        for kind, some in _listed(names).items():
            if some:
                more = f" and {len(some) - SHOWN:,} more (all with --json)" if len(some) > SHOWN else ""
                yield f"{title:<9} {len(some):,} {kind}: {', '.join(some[:SHOWN])}{more}"


def _called(target: Target) -> str:
    title = " ".join(filter(None, (printable(target.name.encode()), target.release))) or "(no name)"
    return f"{title}, tree {(target.tree or '')[:16]}…"
