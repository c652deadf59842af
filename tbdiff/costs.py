"""What an image's bytes are spent on: by file and by cause, adding up to its size; told by the image alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tbdiff import recipe as recipes
from tbdiff.changes import stated_contents
from tbdiff.content import carried
from tbdiff.entry import Entry, canonical_key
from tbdiff.errors import Malformed
from tbdiff.metering import FRAMING, METADATA, NAMES, Metered
from tbdiff.operation import TreeDelta
from tbdiff.payload import CONTROL, DATA, DIFFERENCE
from tbdiff.recipe import SIZE_MAX, Recipe
from tbdiff.varint import numbers

DELTA, RECOMPRESSED, NEW = "delta", "recompressed", "new"
CAUSES = (DELTA, RECOMPRESSED, NEW, "metadata", "names", "signatures", "head")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one file's content takes: `stored` bytes in the image for `size` bytes on the device.

    `cause` is delta (built on other files), recompressed (by what it unpacks to), or new. `path` is None where only the
    base could tell it.
    """

    path: bytes | None
    cause: str
    stored: int
    size: int


@dataclass(frozen=True, slots=True)
class Costs:
    """All bytes of an image: `causes` add up to `size`; the first three of them are those of `files`, dearest first."""

    size: int
    causes: dict[str, int]
    files: tuple[Cost, ...]


def weigh(streams: Metered) -> list[Recipe]:
    """Read all contents, each on its own account; their recipes in the order in which they are stored."""
    found: list[Recipe] = []
    while streams.left(CONTROL):
        streams.owner = len(found)
        record = numbers(streams.record())
        recipe = recipes.decode(record)
        if recipe.data_stream < DATA:
            raise Malformed("the image keeps a content where none can be")
        found.append(recipe)
        end = 0
        # How long the sources are only the base could tell.
        for cover in recipes.covers(recipe, record, iter(streams.record, None), SIZE_MAX):
            _pass(streams, recipe.data_stream, cover.new - end)
            if not cover.exact:
                _pass(streams, DIFFERENCE, cover.length)
            end = cover.new + cover.length
        _pass(streams, recipe.data_stream, recipe.size - end)
    if sorted(recipe.index for recipe in found) != list(range(len(found))):
        raise Malformed("the image makes a content that is not needed")
    return found


def _pass(streams: Metered, number: int, size: int) -> None:
    for _ in streams.pieces(number, size):
        pass


def account(
    streams: Metered, found: Sequence[Recipe], delta: TreeDelta, labels: dict[int, bytes], *, head: int, signatures: int
) -> Costs:
    """The costs of an image, all of whose streams were read; `head` is what precedes them without `signatures`."""
    paths = _paths(found, delta, labels)
    files = [
        Cost(paths[recipe.index], _cause(recipe), streams.stored[n], _carried(recipe)) for n, recipe in enumerate(found)
    ]
    causes = dict.fromkeys(CAUSES, 0)
    for file in files:
        causes[file.cause] += file.stored
    causes["metadata"] = streams.stored[METADATA]
    causes["names"] = streams.stored[NAMES]
    causes["signatures"] = signatures
    causes["head"] = head + streams.stored[FRAMING]
    files.sort(key=lambda file: (-file.stored, file.path or b""))
    return Costs(sum(causes.values()), causes, tuple(files))


def _cause(recipe: Recipe) -> str:
    if recipe.members:
        return RECOMPRESSED
    return DELTA if recipe.sources else NEW


def _carried(recipe: Recipe) -> int:
    """How many bytes of the content are carried: all of it, or what is no hole."""
    return recipe.size - sum(member.unpacked - member.packed for member in recipe.members)


def _paths(found: Sequence[Recipe], delta: TreeDelta, labels: dict[int, bytes]) -> list[bytes | None]:
    """The path of each content by its number, as far as the image tells.

    The contents are among those that the delta states, in the target's order; which of these the base has already,
    under another name, is only seen by their sizes.
    """
    stated = stated_contents(delta, labels)
    unnamed: list[bytes | None] = [None] * len(found)
    named = [(path, entry) for path, entry in stated if path is not None]
    if len(named) != len(stated):
        return unnamed
    first: dict[bytes, tuple[bytes, Entry]] = {}
    for path, entry in sorted(named, key=lambda one: canonical_key(one[0])):
        first.setdefault(entry.digest, (path, entry))
    candidates = list(first.values())
    if len(candidates) == len(found):
        return [path for path, _ in candidates]
    sizes = [_carried(recipe) for recipe in sorted(found, key=lambda recipe: recipe.index)]
    offered = [carried(entry) for _, entry in candidates]
    early = list(_aligned(sizes, offered))
    late = [len(offered) - 1 - n for n in _aligned(sizes[::-1], offered[::-1])][::-1]
    if len(early) != len(found):
        return unnamed
    # Where the first and the last possibility are one, there is no other.
    return [candidates[a][0] if a == b else None for a, b in zip(early, late, strict=True)]


def _aligned(sizes: Sequence[int], offered: Sequence[int]) -> Iterator[int]:
    """For each size the first of the offered that has it and comes behind the one before."""
    places = iter(enumerate(offered))
    for size in sizes:
        place = next((n for n, other in places if other == size), None)
        if place is None:
            return
        yield place
