"""A second implementation of the image format, written from docs/format.md alone; it uses nothing of tbdiff.

It holds everything in memory and puts the target together as entries and contents, without touching a tree.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tests.secondreader.contents import Making
from tests.secondreader.cursor import Bytes, RefusedError, demand
from tests.secondreader.head import Head, read_head
from tests.secondreader.listing import DIRECTORY, Entry, read_tree, tree_digest
from tests.secondreader.metadata import Delta, rebuild
from tests.secondreader.payload import read_streams

__all__ = ["Bytes", "Delta", "Entry", "RefusedError", "Result", "read", "read_tree", "rebuild", "tree_digest"]


@dataclasses.dataclass
class Result:
    head: Head
    base: list[Entry]
    target: list[Entry]
    contents: dict[bytes, bytes]
    used: set[str]


def read(
    image: bytes,
    root: Path | None,
    release: list[bytes] | None = None,
    delivery: list[bytes] | None = None,
    threshold: int = 1,
) -> Result:
    """What an image makes of the tree at `root`: the target's entries, and the contents that the base does not have."""
    data = Bytes(image)
    head = read_head(data, release, delivery or [], threshold)
    base = read_tree(root) if root else []
    demand((tree_digest(base) if root else None) == head.way["base"], "another base")
    streams = read_streams(data, head.way)
    delta = Delta(streams[0])
    check_labels(streams[1], base, delta)
    target = rebuild(base, delta)
    sizes = [entry.size for entry in target]
    said = tuple(head.target[name] for name in ("tree", "entries", "size", "largest"))
    demand(said == (tree_digest(target), len(target), sum(sizes), max(sizes)), "another target")
    making = Making(base, root, target, streams)
    return Result(head, base, target, making.run(head.way["encoders"]), making.used)


def check_labels(stream: Bytes, base: list[Entry], delta: Delta) -> None:
    if not stream:
        return
    every = stream.fixed(1)
    demand(every <= 1, "no labels")
    numbers = list(delta.removed)
    numbers += [n for n, stated in zip(delta.edited, delta.edits, strict=True) if every or stated["fields"] & 32]
    numbers += [source for source in delta.sources if source is not None]
    numbers += [parent >> 1 for parent in delta.parents if not parent & 1]
    for n in dict.fromkeys(numbers):
        demand(n < len(base), "no such entry")
        demand(stream.terminated() == base[n].path + b"/" * (base[n].kind == DIRECTORY), "another label")
    demand(not stream, "more labels")
