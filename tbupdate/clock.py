"""The time that is believed: what was made at some time overrules a clock that says that this is still to come."""

from __future__ import annotations

import os
import stat
import time

from tbdiff.index import MOMENT

# What a system is delivered with, and says when it was made.
_MADE_WITH = ("usr/lib/clock-epoch", "usr/lib/os-release", "etc/os-release")
# The last moment that is written in as many digits.
_LAST = 253402300799


def believed(now: str, *least: str | None) -> str:
    """The latest of what the clock says and moments that have passed for certain; in ISO form, as all of these are.

    A clock that stands in the future is believed: it is right again when it is set, for nobody writes it down.
    """
    return max([now, *filter(None, least)])


def made(tree: str) -> str | None:
    """When the system in a tree was made, by the files that tell it; None if none does."""
    moments = []
    for name in _MADE_WITH:
        try:
            found = os.lstat(os.path.join(tree, name))
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode) and 0 <= found.st_mtime <= _LAST:
            moments.append(found.st_mtime)
    return time.strftime(MOMENT, time.gmtime(max(moments))) if moments else None
