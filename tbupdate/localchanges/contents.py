"""The content of a file that was changed on both sides, put together where that can be done (pure)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tbupdate.localchanges import accounts, lines

# Of what is larger than this whole files are kept.
LARGEST = 1 << 20


@dataclass(frozen=True)
class Combined:
    """A content with both changes; `why` says on what they disagree, if they do somewhere."""

    content: bytes
    why: str | None = None


def combine(path: bytes, base: bytes | None, ours: bytes, theirs: bytes) -> Combined | None:
    """Both changes of the file at `path`; None where one must be chosen. Without `base` both sides added it."""
    if path in accounts.FILES:
        found = accounts.merge(path, base or b"", ours, theirs)
        clashes = ", ".join(found.clashes)
        return Combined(found.content, f"entries changed here and in the image: {clashes}" if clashes else None)
    merged = lines.merge(base, ours, theirs) if base is not None else None
    return Combined(merged) if merged is not None else None


Combine = Callable[[bytes], Combined | None]
