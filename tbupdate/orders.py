"""What a server wants of this device, and what has become of it here. Pure, but for reading what the server says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tbdiff.errors import Rejected, Stop
from tbdiff.head import Head
from tbdiff.index import ListedImage, Release
from tbdiff.show import size
from tbdiff.signature import KeyRing
from tbupdate import release as releases
from tbupdate.config import Config
from tbupdate.consent import HOURS_MAX
from tbupdate.protocol import COMMAND_PART, POSTPONE, ROLLBACK, Finished, Handled
from tbupdate.system import Deployment, System

ALLOW = 'If it should: [server] commands = ["rollback", "postpone"] in config.toml of the device.'
BOUNDS = "Name that release; or correct [upgrade] in config.toml of the device."
_NO_BETTER_NAME = re.compile(r"[^A-Za-z0-9._+~:@-]+")


@dataclass(frozen=True)
class Order:
    """An action of the server: a release with the images that lead to it, or a command.

    `ask` says that a person has to agree, `waits` why it is not to be done yet. `addresses` are where images are, by
    their digests. A command is its name and what it is about: a release, or hours.
    """

    action: str
    release: Release | None = None
    images: tuple[ListedImage, ...] = ()
    addresses: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, str] | None = None
    ask: bool = False
    waits: str = ""


@dataclass(frozen=True)
class Verdict:
    """How an order stands here; it is over if it `finished` with success or failure, and else goes on by itself."""

    finished: Finished
    lines: tuple[str, ...]


def waits(handled: Handled) -> str:
    """Why the server wants it to wait; empty if it does not."""
    if "skip" in (handled.download, handled.update):
        return "the server says: not yet"
    if handled.maintenance_window == "unavailable":
        return "it waits for a maintenance window of the server"
    return ""


def command_of(handled: Handled) -> tuple[str, str] | None:
    """The command that an action is, if it is none of software."""
    chunks = [chunk for chunk in handled.chunks if chunk.part == COMMAND_PART]
    if not chunks:
        return None
    if len(handled.chunks) > 1 or chunks[0].name not in (ROLLBACK, POSTPONE):
        raise Rejected(
            f"there is no command {chunks[0].name[:40]!r} here, or there are several; nothing was changed",
            f"Give one in an action: {ROLLBACK} or {POSTPONE}.",
        )
    return chunks[0].name, chunks[0].version


def listed(head: Head, keys: KeyRing, address: str, length: int) -> tuple[Release, ListedImage]:
    """What the signed head of an image says; Rejected if no trusted key answers for it."""
    manifest, _ = head.verify(keys)
    target, way = manifest.target, manifest.way
    if way.container != "tbdiff" or target.tree is None:
        raise Rejected(
            "the image says that it is something else than it is; nothing was changed",
            "Give one of tbdiff's own form (tbdiff convert makes it).",
        )
    release = Release(
        tree=target.tree,
        name=target.name,
        release=target.release,
        epoch=target.epoch,
        device_types=target.device_types,
    )
    # What a server says never becomes the name of a file; this is for people.
    name = _NO_BETTER_NAME.sub("-", address.partition("?")[0].rpartition("/")[2]).strip("-._")[:80] or "image"
    image = ListedImage(
        file=name if name[0].isalnum() else "image",
        size=length,
        digest=hashlib.sha256(head.way).hexdigest(),
        tree=target.tree,
        base=way.base,
        free=way.free,
        encoders=way.encoders,
    )
    return release, image


def aim(found: Sequence[tuple[Release, ListedImage]]) -> Release:
    """The one release that all images lead to, by whatever ways."""
    starts = {image.base for _, image in found}
    ends = {release.tree: release for release, _ in found if release.tree not in starts}
    if len(ends) != 1:
        what = "no release" if not ends else f"{len(ends)} releases"
        raise Rejected(
            f"the images of the action lead to {what}, and not to one; nothing was changed",
            "Give one release with an action: a full image, and deltas that lead to the same.",
        )
    return next(iter(ends.values()))


def judge(system: System, tree: str, failed: Mapping[str, Any] | None = None) -> Verdict | None:
    """What has become of a tree that the server wants to run here; None if that is still to be decided.

    Success counts only from what runs and was committed. Where nothing runs, on another system's disk, what boots next
    stands for that. `failed` is what the history says of the last failure.
    """
    runs = system.booted if system.booted_id is not None else system.default
    if runs is not None and _tree(runs) == tree:
        if runs.id == system.marks.good:
            return Verdict("success", (f"{runs.id} runs, and is committed",))
        how = "runs on trial" if system.booted_id is not None else "is deployed"
        return Verdict("none", (f"{runs.id} {how}, and is not committed yet",))
    default = system.default
    if default is not None and _tree(default) == tree:
        return Verdict("none", (f"{default.id} is deployed, and boots next",))
    mine = [kept for kept in system.deployments if _tree(kept) == tree]
    bad = next((kept for kept in reversed(mine) if kept.id in system.marks.bad), None)
    if bad is not None:
        told = failed if failed is not None and failed.get("id") == bad.id else {}
        why = f"{bad.id} was left here: {system.marks.bad[bad.id]}"
        return Verdict("failure", (why, *(str(line) for line in told.get("log", ()))))
    marked = system.marks.failed or ""
    if marked.startswith(tree):
        return Verdict("failure", (f"this very system failed here before: {marked.removeprefix(tree).strip()}",))
    return None


def back_to(system: System, release: str, rules: Config) -> Deployment:
    """The deployment that a server may send this device back to; Rejected where it may not."""
    wanted = rules.upgrade
    if ROLLBACK not in rules.server.commands:
        raise Rejected("this device does not let its server roll it back; nothing was changed", ALLOW)
    if wanted.exactly and wanted.exactly != release:
        raise Rejected(f"this device is to run exactly {wanted.exactly}; nothing was changed", BOUNDS)
    if wanted.at_most and releases.compare(release, wanted.at_most) > 0:
        raise Rejected(f"this device is to run {wanted.at_most} at most; nothing was changed", BOUNDS)
    kept = [one for one in system.deployments if one.record is not None and one.record.release == release]
    good = [one for one in kept if system.is_committed(one) and one.id not in system.marks.bad]
    if not good:
        raise Rejected(
            f"{release[:80]} is not kept here as something that worked; nothing was changed",
            "Name another release, or deploy that one anew.",
        )
    there = good[-1]
    if there.record is not None and there.record.epoch < system.epoch:
        raise Rejected(
            f"{there.id} is of epoch {there.record.epoch}, below {system.epoch} that was reached here; "
            "nothing was changed",
            "It was withdrawn, most likely for a fault: name a newer release.",
        )
    return there


def release_of(kept: Deployment) -> Release:
    """A deployment that is kept, as a release to go to."""
    known = kept.record
    if known is None or known.tree is None:
        raise Rejected(f"nobody knows any more what {kept.id} is; nothing was changed", "See: tb-update doctor")
    return Release(tree=known.tree, name=known.name, release=known.release, epoch=known.epoch)


def hours_of(text: str) -> int:
    """For how long the server wants something postponed."""
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= HOURS_MAX:
        raise Rejected(
            f"{text[:40]!r} is no number of hours up to {HOURS_MAX}; nothing was changed",
            "Write digits only, such as 24.",
        )
    return int(text)


def tells(system: System, health: Sequence[str]) -> list[str]:
    """What is told of the device beside how an action ended."""
    runs = system.booted if system.booted_id is not None else system.default
    disputed = runs.conflicts if runs is not None else ()
    lines = [f"free: {size(system.space.data)}, for metadata {size(system.space.metadata)}"]
    if disputed:
        lines.append(f"local changes in conflict: {len(disputed)}")
    return [*lines, *health]


def words_of(stop: Stop) -> list[str]:
    """What is told of an error: what is wrong, and what to do, as lines of which a server makes one text."""
    return [f"{str(stop).rstrip('.')}.", stop.remedy] if stop.remedy else [str(stop)]


def _tree(kept: Deployment) -> str | None:
    return kept.record.tree if kept.record is not None else None
