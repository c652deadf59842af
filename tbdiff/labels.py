"""The names of what an image removes, moves and edits, carried so that `show` can tell them without the base."""

from __future__ import annotations

from collections.abc import Sequence

from tbdiff.entry import Entry, Kind, Listing
from tbdiff.errors import Malformed
from tbdiff.operation import Edit, Field, TreeDelta

# Above this many edits of metadata alone, these are only counted: their names would outweigh them.
PLAIN_MAX = 1000


def labelled(delta: TreeDelta, every: bool) -> list[int]:
    """The base entries whose names are carried, in their order: removed, edited, sources and directories of added."""
    numbers = list(delta.removed)
    numbers += (edit.index for edit in delta.edits if every or edit.fields & Field.CONTENT)
    numbers += (add.source for add in delta.adds if add.source is not None)
    numbers += (add.parent.index for add in delta.adds if not add.parent.added)
    return list(dict.fromkeys(numbers))


def _every(edits: Sequence[Edit]) -> bool:
    return sum(not edit.fields & Field.CONTENT for edit in edits) <= PLAIN_MAX


def encode(base: Listing, delta: TreeDelta) -> bytes:
    """The labels stream: 1 if all edits are named, then the paths; a directory's ends with a slash."""
    every = _every(delta.edits)
    paths = (shown(base.entries[n]) for n in labelled(delta, every))
    found = b"".join(path + b"\0" for path in paths)
    return bytes((every,)) + found if found else b""


def shown(entry: Entry) -> bytes:
    """An entry's label: its path, a directory's with a slash."""
    return entry.path + b"/" * (entry.kind is Kind.DIRECTORY)


def decode(data: bytes, delta: TreeDelta) -> dict[int, bytes]:
    """The paths by base entry number."""
    if not data:
        return {}
    if data[0] > 1 or (len(data) > 1 and data[-1]):
        raise Malformed("the image's labels are not valid")
    paths = data[1:].split(b"\0")[:-1]
    numbers = labelled(delta, bool(data[0]))
    if len(paths) != len(numbers):
        raise Malformed("the image's labels do not fit what it changes")
    return dict(zip(numbers, paths, strict=True))


def check(labels: dict[int, bytes], base: Listing) -> None:
    """What an image says it changes must be what it changes."""
    for number, path in labels.items():
        if number >= len(base) or shown(base.entries[number]) != path:
            raise Malformed("the image names other entries than it changes")
