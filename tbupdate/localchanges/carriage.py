"""Do: local changes found in one root and brought into another; what conflicts is kept in the record of the latter."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tbdiff.descent import Descent
from tbdiff.entry import Kind, printable
from tbdiff.errors import Rejected, Stop
from tbdiff.tree import Progress, read_tree
from tbupdate import places, record, subvolumes
from tbupdate.layout import SNAPSHOTS
from tbupdate.localchanges import accounts, belongings, conflicts
from tbupdate.localchanges.difference import Deployed, Difference, base_nodes, find
from tbupdate.localchanges.merge import Node, Sides, unchanged
from tbupdate.localchanges.policy import Fate, Policy
from tbupdate.localchanges.transfer import Own, Transfer
from tbupdate.site import Site
from tbupdate.steps import CarryLocal

log = logging.getLogger(__name__)

SHOWN = 5


@dataclass(frozen=True)
class Way:
    """From where to where local changes go.

    `ours` is a read-only snapshot of a root of `deployed`. With `since`, an earlier one of the same root, only what
    changed since then is brought. `own`: what is the machine's own comes whether it was changed or not.
    """

    deployed: Deployed
    ours: Path
    root: Path
    since: Path | None = None
    own: bool = False


def perform(step: CarryLocal, site: Site) -> None:
    """Carry out the step of a plan."""
    policy = site.local.backwards if step.back else site.local
    if policy.empty and not step.own:
        return
    try:
        deployed = open_deployed(site.path(step.base), site.record(step.base), site.progress)
        since = Path(site.path(step.since)) if step.since is not None else None
        way = Way(deployed, Path(site.path(step.source)), Path(site.path(step.to)), since, step.own)
        came = carry(way, policy, None if step.back else site.record(step.deployment))
        _check(step, way, policy, site)
    except (OSError, Stop) as error:
        if not step.back:
            raise
        log.info("could not %s: %s", step, error)
        site.remarks.append(f"what goes both ways could not be brought to {SNAPSHOTS}/{step.to}: {error}")
    else:
        site.remarks += [f"{one.line}; the local one stays" for one in came.conflicts]
        if came.own:
            site.remarks.append(f"this machine's own stay, where the image has others: {_some(came.own)}")
        if step.own:
            site.remarks += _left_behind(site.path(step.source))


def _check(step: CarryLocal, way: Way, policy: Policy, site: Site) -> None:
    """Refuse what came of it where that is no system for this machine; what is late has booted, or will anyway."""
    if step.back or step.since is not None:
        return
    with Descent(way.ours) as ours, Descent(way.root) as new, Descent(Path(site.path(step.deployment))) as image:
        belongings.refuse_ruin(image, new)
        if step.own:
            belongings.refuse_loss(ours, new, policy)


def _left_behind(root: str) -> list[str]:
    """Say what an installed system holds that is no part of any image, and comes to no other root."""
    left = [f"/{place}" for place in places.in_root(root) if places.holds_something(root, place)]
    if not left:
        return []
    return [
        f"what is in {', '.join(left)} stays behind in the root of the installed system, of which it is a part; "
        "give it subvolumes of its own to have it in both (see: tb-update doctor)"
    ]


def open_deployed(tree: str, directory: str, progress: Progress) -> Deployed:
    """A deployment with its listing: as written down while nothing was changed in it, else read anew."""
    known = record.read(directory)
    by_image = known is None or bool(known.image_digest or known.made_by)
    if known is not None and known.seal == subvolumes.seal(tree):
        listing = record.read_listing(directory, known.tree)
        if listing is not None:
            return Deployed(Path(tree), listing, by_image)
    return Deployed(Path(tree), read_tree(Path(tree), progress=progress), by_image)


@dataclass(frozen=True)
class Came:
    """How it went: the conflicts, and what is the machine's own in the place of what the image has."""

    conflicts: tuple[conflicts.Conflict, ...] = ()
    own: tuple[str, ...] = ()


def carry(way: Way, policy: Policy, directory: str | None) -> Came:
    """Bring local changes to another root; conflicts are kept in the record `directory` of that."""
    found = _found(way, policy)
    if not found:
        return Came()
    with Transfer(way.since or way.deployed.tree, way.ours, way.root, _impersonal(way)) as transfer:
        sides, merged = transfer.merged(found)
        disputed = {path: one.why for path, one in merged.items() if one.why is not None}
        own = {path for path in disputed if _counts_anyway(way, policy, path)}
        disputed = {path: why for path, why in disputed.items() if path not in own}
        told = [f"/{printable(path)}" for path in sorted(own) if policy.fate(path) is not Fate.BOTH_WAYS]
        # What is changed after the deploy comes too late to be refused.
        if any(not _is_own(way, policy, path) for path in disputed) and policy.reject and way.since is None:
            raise Rejected(_refusal(disputed), "Change these files back, or say what counts in [local] of config.toml.")
        # The image's versions are read before they are replaced.
        versions = {path: (why, _version(transfer, path, sides)) for path, why in disputed.items()}
        kept = conflicts.keep(directory, versions) if directory is not None else ()
        transfer.write(sides, merged)
    return Came(kept, tuple(told))


def _found(way: Way, policy: Policy) -> Mapping[bytes, Difference]:
    now = find(way.deployed, way.ours, policy.follows)
    if way.since is None:
        return now | _own(way, policy, now)
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
    """Whether something is the machine's own, and nothing is known that the image could have changed."""
    if way.deployed.by_image or way.since is not None:
        return False
    return policy.is_own(path) if way.own else policy.fate(path) is Fate.BOTH_WAYS


def _counts_anyway(way: Way, policy: Policy, path: bytes) -> bool:
    """Whether the machine's own counts without a question; of people, it is told where they and the image clash."""
    return _is_own(way, policy, path) and (path not in accounts.FILES or policy.fate(path) is Fate.BOTH_WAYS)


def _own(way: Way, policy: Policy, now: Mapping[bytes, Difference]) -> dict[bytes, Difference]:
    """What is the machine's own, whoever made it: `init` took it in with all else, and no image can know of it."""
    if way.deployed.by_image:
        return {}
    own = {path for path in way.deployed.listing.entries.paths if _is_own(way, policy, path)}
    held = base_nodes(way.deployed.listing, own) | {path: one.ours for path, one in now.items() if path in own}
    return {path: Difference(None, node) for path, node in held.items() if node is not None and not _is_made(node)}


def _is_made(node: Node) -> bool:
    """Whether it is a link to what a program makes while a system runs: another system has other programs."""
    leads = os.path.normpath(os.path.join(b"/", os.path.dirname(node.entry.path), node.entry.link))
    return node.entry.kind is Kind.SYMLINK and leads.startswith((b"/run/", b"/var/run/"))


def _impersonal(way: Way) -> Own | None:
    """What of the files of accounts is the system's, so that any image says it better, and not its people's."""
    if way.deployed.by_image or way.since is not None:
        return None
    with Descent(way.ours) as tree:
        people = belongings.people_of(tree)
    return lambda path, content: people.without(path, content) if path in accounts.FILES else None


def _version(transfer: Transfer, path: bytes, sides: Mapping[bytes, Sides]) -> bytes | None:
    theirs = sides[path].theirs
    return transfer.content(path) if theirs is not None and theirs.entry.kind is Kind.FILE else None


def _refusal(disputed: Mapping[bytes, str]) -> str:
    named = [f"/{printable(path)} ({why})" for path, why in sorted(disputed.items())]
    return f"local changes and the image disagree: {_some(named)}; nothing was changed"


def _some(named: Sequence[str]) -> str:
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return f"{', '.join(named[:SHOWN])}{more}"
