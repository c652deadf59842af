"""Do: local changes found in one root and brought into another; what conflicts is kept in the record of the latter."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tbdiff.entry import Kind, printable
from tbdiff.errors import Rejected, Stop
from tbdiff.tree import Progress, read_tree
from tbupdate import record, subvolumes
from tbupdate.layout import SNAPSHOTS
from tbupdate.localchanges import conflicts
from tbupdate.localchanges.difference import Deployed, Difference, base_nodes, find
from tbupdate.localchanges.merge import Sides, unchanged
from tbupdate.localchanges.policy import Fate, Policy
from tbupdate.localchanges.transfer import Transfer
from tbupdate.site import Site
from tbupdate.steps import CarryLocal

log = logging.getLogger(__name__)

SHOWN = 5


@dataclass(frozen=True)
class Way:
    """From where to where local changes go.

    `ours` is a read-only snapshot of a root of `deployed`. With `since`, an earlier one of the same root, only what
    changed since then is brought.
    """

    deployed: Deployed
    ours: Path
    root: Path
    since: Path | None = None


def perform(step: CarryLocal, site: Site) -> None:
    """Carry out the step of a plan."""
    policy = site.local.backwards if step.back else site.local
    if policy.empty:
        return
    try:
        deployed = open_deployed(site.path(step.base), site.record(step.base), site.progress)
        since = Path(site.path(step.since)) if step.since is not None else None
        way = Way(deployed, Path(site.path(step.source)), Path(site.path(step.to)), since)
        kept = carry(way, policy, None if step.back else site.record(step.deployment))
    except (OSError, Stop) as error:
        if not step.back:
            raise
        log.warning("could not %s: %s", step, error)
        site.remarks.append(f"what goes both ways could not be brought to {SNAPSHOTS}/{step.to}: {error}")
    else:
        site.remarks += [f"{one.line}; the local one stays" for one in kept]


def open_deployed(tree: str, directory: str, progress: Progress) -> Deployed:
    """A deployment with its listing: as written down while nothing was changed in it, else read anew."""
    known = record.read(directory)
    by_image = known is None or bool(known.image_digest or known.made_by)
    if known is not None and known.seal == subvolumes.seal(tree):
        listing = record.read_listing(directory, known.tree)
        if listing is not None:
            return Deployed(Path(tree), listing, by_image)
    return Deployed(Path(tree), read_tree(Path(tree), progress=progress), by_image)


def carry(way: Way, policy: Policy, directory: str | None) -> tuple[conflicts.Conflict, ...]:
    """Bring local changes to another root; the conflicts, which are kept in the record `directory` of that."""
    found = _found(way, policy)
    if not found:
        return ()
    with Transfer(way.since or way.deployed.tree, way.ours, way.root) as transfer:
        sides, merged = transfer.merged(found)
        disputed = {
            path: one.why for path, one in merged.items() if one.why is not None and not _is_own(way, policy, path)
        }
        # What is changed after the deploy comes too late to be refused.
        if disputed and policy.reject and way.since is None:
            raise Rejected(_refusal(disputed), "Change these files back, or say what counts in [local] of config.toml.")
        # The image's versions are read before they are replaced.
        versions = {path: (why, _version(transfer, path, sides)) for path, why in disputed.items()}
        kept = conflicts.keep(directory, versions) if directory is not None else ()
        transfer.write(sides, merged)
    return kept


def _found(way: Way, policy: Policy) -> Mapping[bytes, Difference]:
    now = find(way.deployed, way.ours, policy.follows)
    if way.since is None:
        return now | _own(way.deployed, policy, now)
    then = find(way.deployed, way.since, policy.follows)
    found = {}
    for path in now.keys() | then.keys():
        # Where only one look found a difference, the other found what was deployed.
        old = then[path].ours if path in then else now[path].base
        new = now[path].ours if path in now else then[path].base
        if not unchanged(old, new):
            found[path] = Difference(old, new)
    return found


def _is_own(way: Way, policy: Policy, path: bytes) -> bool:
    """Whether the machine's own counts without a question: nothing is known that the image could have changed."""
    return not way.deployed.by_image and way.since is None and policy.fate(path) is Fate.BOTH_WAYS


def _own(deployed: Deployed, policy: Policy, now: Mapping[bytes, Difference]) -> dict[bytes, Difference]:
    """What is the machine's own, whoever made it: `init` took it in with all else, and no image can know of it."""
    if deployed.by_image:
        return {}
    own = {path for path in deployed.listing.entries.paths if policy.fate(path) is Fate.BOTH_WAYS}
    held = base_nodes(deployed.listing, own) | {path: one.ours for path, one in now.items() if path in own}
    return {path: Difference(None, node) for path, node in held.items() if node is not None}


def _version(transfer: Transfer, path: bytes, sides: Mapping[bytes, Sides]) -> bytes | None:
    theirs = sides[path].theirs
    return transfer.content(path) if theirs is not None and theirs.entry.kind is Kind.FILE else None


def _refusal(disputed: Mapping[bytes, str]) -> str:
    named = [f"/{printable(path)} ({why})" for path, why in sorted(disputed.items())]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return f"local changes and the image disagree: {', '.join(named[:SHOWN])}{more}; nothing was changed"
