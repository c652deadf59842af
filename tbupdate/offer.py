"""An image that is offered to this device: what the device's rules say to it, what is written down of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tbdiff.errors import NothingToDo, Rejected
from tbdiff.manifest import Manifest
from tbdiff.show import size
from tbupdate import release
from tbupdate.boot.kernel import Overrides
from tbupdate.record import Record
from tbupdate.system import Deployment, System

MEBIBYTE = 1 << 20
RESERVE = 16 * MEBIBYTE
# Measured on Debian trees: inode, names, extents and small files that Btrfs keeps in its metadata.
METADATA_PER_ENTRY = 1024
METADATA_LEAST = 4 * MEBIBYTE


class NoRoom(Rejected):
    """The image does not fit on the disk."""


@dataclass(frozen=True)
class Offer:
    """An image that was offered, beside its manifest, and the rules of this device."""

    id: str
    now: str
    image_digest: str
    signers: tuple[str, ...] = ()
    device_type: str | None = None
    reserve: int = RESERVE
    allow_downgrade: bool = False
    again: bool = False


def notes_on_signers(offer: Offer) -> tuple[str, ...]:
    """That nobody answers for an image."""
    return () if offer.signers else ("The image is not signed.",)


def refuse_what_is_there(system: System, manifest: Manifest) -> None:
    """Nothing to do when what boots next is the very tree that the image leads to."""
    default, tree = system.default, manifest.target.tree
    if default is not None and tree is not None and default.record is not None and default.record.tree == tree:
        raise NothingToDo(f"{default.id} is this very system, and boots next already")


def refuse_what_failed(system: System, manifest: Manifest, offer: Offer) -> None:
    """What failed here is not tried again by itself: a nightly run would bring the same fault every night."""
    failed, tree = system.marks.failed, manifest.target.tree
    if failed and tree and failed.startswith(tree) and not offer.again:
        raise Rejected(
            f"this very system failed here before ({failed.removeprefix(tree).strip()}); nothing was changed",
            "Get a newer image. If you mean it: tb-update deploy --again IMAGE",
        )


def refuse_other_devices(manifest: Manifest, offer: Offer) -> None:
    """An image says for which types of device it is; none said is all."""
    types = manifest.target.device_types
    if types and offer.device_type not in types:
        mine = f"is {offer.device_type!r}" if offer.device_type else "has no device_type in its configuration"
        raise Rejected(
            f"the image is for {', '.join(types)}, and this device {mine}; nothing was changed",
            "Get the image for this device, or set device_type in config.toml.",
        )


def refuse_downgrade(system: System, manifest: Manifest) -> None:
    """Neither an older release than what was committed last, nor a lower epoch than was ever committed."""
    offered, against = manifest.target, system.good or system.default
    if offered.epoch < system.epoch:
        raise Rejected(
            f"the image is of epoch {offered.epoch}, below {system.epoch} that was reached here; nothing was changed",
            "It was withdrawn, most likely for a fault. If you mean it: tb-update deploy --allow-downgrade IMAGE",
        )
    if against is None or against.record is None:
        raise Rejected(
            f"the record of what was committed last is lost ({system.marks.good}), so the image may be older; "
            "nothing was changed",
            "If you know that it is not: tb-update deploy --allow-downgrade IMAGE",
        )
    have = against.record.release
    if have and not offered.release:
        raise Rejected(
            f"the image names no release, so it may be older than {have} that is here; nothing was changed",
            "Give it one (`--release` when it is made), or if you mean it: tb-update deploy --allow-downgrade IMAGE",
        )
    if have and offered.release and release.compare(offered.release, have) < 0:
        raise Rejected(
            f"the image is release {offered.release}, older than {have} that is here; nothing was changed",
            "If you mean it: tb-update deploy --allow-downgrade IMAGE",
        )


def find_base(system: System, manifest: Manifest) -> Deployment | None:
    """The kept deployment that the image starts from; None if it starts from nothing."""
    wanted = manifest.way.base
    if wanted is None:
        return system.default if manifest.way.over_any_base else None
    # The newest one shares most with what was there last.
    for kept in reversed(system.deployments):
        if kept.record is not None and kept.record.tree == wanted:
            return kept
    here = ", ".join(
        f"{kept.id} ({short(kept.record.tree) if kept.record else 'no record'})" for kept in system.deployments
    )
    raise Rejected(
        f"the image starts from the tree {short(wanted)}, which is not here; here is {here}; nothing was changed",
        "Get an image that starts from one of these, or a full image.",
    )


def refuse_without_space(system: System, manifest: Manifest, base: Deployment | None, offer: Offer) -> None:
    """What applying writes at most, and some reserve, must fit; for metadata, what is known of it."""
    metadata = 0 if base else manifest.target.entries * METADATA_PER_ENTRY
    refuse_without_room(system, manifest.way.free + offer.reserve, metadata)


def refuse_without_room(system: System, need: int, more_metadata: int = 0) -> None:
    """So many bytes of data must fit, and the least that a change takes of metadata and `more_metadata`."""
    metadata = METADATA_LEAST + more_metadata
    for what, needed, free in (("space", need, system.space.data), ("metadata space", metadata, system.space.metadata)):
        if needed > free:
            raise NoRoom(
                f"not enough {what} on Btrfs: {size(needed)} needed, {size(free)} free; nothing was changed",
                "Remove old deployments (tb-update prune, tb-update remove ID) or other data.",
            )


def record_of(manifest: Manifest, offer: Offer, base: Deployment | None) -> Record:
    """What is written down about the new deployment."""
    target = manifest.target
    return Record(
        id=offer.id,
        name=target.name,
        release=target.release,
        epoch=target.epoch,
        tree=target.tree,
        image_digest=offer.image_digest,
        signers=offer.signers,
        base=base.id if base else None,
        created=offer.now,
        entries=target.entries,
        size=target.size,
        boot_files=Overrides(target.kernel, target.initrd, target.devicetree),
    )


def image_facts(manifest: Manifest, offer: Offer, base: str | None) -> dict[str, object]:
    """What the history says of the image."""
    return {
        "name": manifest.target.name,
        "release": manifest.target.release,
        "image_digest": offer.image_digest,
        "signers": list(offer.signers) or "none: unsigned",
        "base": base,
    }


def short(digest: str | None) -> str:
    """A digest as people read it."""
    return digest[:12] if digest else "unknown"
