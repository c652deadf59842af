"""The names in the top level of the file system: what stands where, and which names are ours."""

from __future__ import annotations

import re

SNAPSHOTS = "snapshots"
STATE = "tb-update"
HISTORY = "history.jsonl"
TRIES = "tries"
TRIAL = "trial"
FETCHED = "fetched"

ROOT = "root"
CURRENT = "current"
PREVIOUS = "previous"
NEXT = ".next"
PARTIAL = ".partial"
KEPT_ROOT = ".root"
CARRIED = ".carried"
CONFLICTS = "conflicts"
EMPTIED = ".emptied"
SAVED = "saved"

NAMES = frozenset({ROOT, CURRENT, PREVIOUS, CURRENT + NEXT, PREVIOUS + NEXT})

TOP_LEVEL_ID = 5

# A random tail on every id: no id is ever used twice, and none can look like one of the names above.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}-[0-9a-f]{6}")
# The digits are always as many, so that names are in the order of their numbers also for a shell.
_SAVED = re.compile(r"(.+)\.saved\.[0-9]{6}")


def is_id(name: str) -> bool:
    """Whether `name` can be the id of a deployment."""
    return _ID.fullmatch(name) is not None


def make_id(words: str, tail: str) -> str:
    """The id of a new deployment, from its release (or name) and six random hexadecimal digits."""
    slug = re.sub(r"[^A-Za-z0-9._]+", "-", words).strip("-._")[:60].rstrip("-._") or "system"
    return f"{slug}-{tail}"


def partial(deployment: str) -> str:
    """Where a deployment stands while it is being made."""
    return deployment + PARTIAL


def kept_root(deployment: str) -> str:
    """Where the writable root of a deployment stands while it is not `root`."""
    return deployment + KEPT_ROOT


def carried(deployment: str) -> str:
    """The root before, read-only, as it was when its local changes were carried to the root of `deployment`."""
    return deployment + CARRIED


def saved(deployment: str, number: int) -> str:
    """A saved copy: the deployment with local changes, of which a root that is thrown away is made anew. Read-only."""
    return f"{deployment}.{SAVED}.{number:06}"


def saved_of(name: str) -> str | None:
    """The deployment that a saved copy belongs to; None for all other names."""
    found = _SAVED.fullmatch(name)
    return found[1] if found is not None and is_id(found[1]) else None


def aside(what: str, deployment: str) -> str:
    """What stands beside a deployment while something is made of it; the repair after a cut knows it as unfinished."""
    return partial(f"{what}-{deployment[-6:]}")


def coming(name: str) -> str:
    """Where the successor of what has this name is made ready."""
    return name + NEXT
