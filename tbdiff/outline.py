"""What an image changes, as a tree: each directory with the bytes of new content below it (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tbdiff import show
from tbdiff.changes import Change
from tbdiff.entry import printable


@dataclass(slots=True)
class Branch:
    """One name: what changes of it, if anything, and what it holds. `size` and `count` are of all that is in it."""

    name: bytes
    change: Change | None = None
    held: dict[bytes, Branch] = field(default_factory=dict)
    size: int = 0
    count: int = 0


def outline(found: Sequence[Change]) -> Branch:
    """The root of a tree of all changes whose names are known."""
    root = Branch(b"")
    for change in found:
        if change.path is None:
            continue
        here = root
        _count(here, change)
        for name in change.path.split(b"/") if change.path else ():
            here = here.held.setdefault(name, Branch(name))
            _count(here, change)
        here.change = change
    return root


def _count(branch: Branch, change: Change) -> None:
    branch.size += change.size or 0
    branch.count += 1


def as_text(root: Branch, depth: int | None) -> Iterator[str]:
    """A line for each name down to `depth`: size, sign, name; below that directories only say how much they hold."""
    # A tree may be deeper than Python's stack.
    stack = [(root, 0)]
    while stack:
        branch, level = stack.pop()
        cut = branch.held and depth is not None and level >= depth
        yield _line(branch, level, closed=bool(cut))
        if not cut:
            stack += ((held, level + 1) for held in sorted(branch.held.values(), key=_order, reverse=True))


def _order(branch: Branch) -> tuple[bool, bytes]:
    return bool(branch.held), branch.name


def _line(branch: Branch, level: int, *, closed: bool) -> str:
    change = branch.change
    amount = show.size(branch.size) if branch.size else ""
    sign = show.SIGNS[change.kind] if change else " "
    name = printable(branch.name) + "/" * bool(branch.held or not branch.name)
    said = [f"{amount:>11}  {'  ' * level}{sign} {name}"]
    if change:
        said += show.details(change)
    if closed:
        said.append(f"[{branch.count:,} changes]")
    return " ".join(said)


def as_json(root: Branch, depth: int | None) -> dict[str, Any]:
    """The same as nested objects."""
    document = _object(root)
    stack = [(root, document, 0)]
    while stack:
        branch, made, level = stack.pop()
        if branch.held and (depth is None or level < depth):
            below = [(held, _object(held), level + 1) for held in sorted(branch.held.values(), key=_order)]
            made["held"] = [one for _, one, _ in below]
            stack += below
    return document


def _object(branch: Branch) -> dict[str, Any]:
    made: dict[str, Any] = {"name": printable(branch.name), "size": branch.size, "changes": branch.count}
    if branch.name != made["name"].encode():
        made["name_bytes"] = branch.name.hex()
    if branch.change:
        made |= {
            key: value for key, value in show.change_json(branch.change).items() if key in ("kind", "what", "source")
        }
    return made
