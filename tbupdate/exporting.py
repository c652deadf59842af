"""An image made out of two kept deployments; of what is the same in both nothing is read."""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path

from tbdiff.create import Known, Label, state, write_image
from tbdiff.entry import EMPTY, Kind, Listing, printable
from tbdiff.errors import Rejected
from tbdiff.generation import read_changed
from tbdiff.manifest import Manifest
from tbdiff.matching import Available
from tbdiff.output import check_place
from tbdiff.signature import load_private_key
from tbdiff.tree import read_tree
from tbupdate import record
from tbupdate.planning import find
from tbupdate.site import Site
from tbupdate.system import Deployment, System

# What makes a machine that machine: two that share it stand in for each other, to programs and to attackers.
OWN = (
    *("etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname", "etc/hostid", "var/lib/systemd/random-seed"),
    *("etc/fstab", "etc/crypttab"),
    *("etc/ssh/ssh_host_*_key", "etc/shadow", "etc/gshadow", "etc/tb-update/config.toml", "root/.ssh/*"),
    *("etc/NetworkManager/system-connections/*", "etc/wpa_supplicant/*.conf", "var/lib/tor/*", "etc/wireguard/*"),
)


@dataclass(frozen=True)
class Order:
    """How the image is to be: signed by whose key, and how hard compressed, with what the devices have."""

    out: Path
    label: Label
    key: Path | None
    effort: str
    available: Available | None


def choose(
    system: System, source: str | None, target: str | None, *, full: bool = False
) -> tuple[Deployment | None, Deployment]:
    """The two deployments of an image (from None: a full one).

    Without names: to what was made here last, or else to what runs; from what others have of it, the image before.
    """
    to = find(system, target) if target is not None else _made_last(system)
    if full:
        return None, to
    if source is not None:
        of = find(system, source)
    else:
        before = _came_from(system, to) or (system.previous if to != system.previous else None)
        if before is None or before == to:
            raise Rejected(
                f"there is no deployment that {to.id} was made from; no image was made",
                "Name one (tb-update export FROM TO), or say --full.",
            )
        of = before
    if of == to:
        raise Rejected(f"an image from {to.id} to itself would do nothing; no image was made", "Name two deployments.")
    return of, to


def _made_last(system: System) -> Deployment:
    made = [kept for kept in system.deployments if kept.record is not None and kept.record.made_by]
    found = made[-1] if made else system.booted or system.default
    if found is None:
        raise Rejected("nothing that is kept runs or boots next; no image was made", "Name the deployments.")
    return found


def _came_from(system: System, kept: Deployment) -> Deployment | None:
    """The deployment that this was made of which was not made here itself; other devices may have it."""
    seen = {kept.id}
    found: Deployment | None = kept
    while found is not None and found.record is not None and (found == kept or found.record.made_by):
        found = system.get(found.record.base)
        if found is None or found.id in seen:
            return None
        seen.add(found.id)
    return found


def export(site: Site, source: Deployment | None, target: Deployment, order: Order) -> tuple[Manifest, list[str]]:
    """Write the image; also return what of this machine's own it brings to others, by path."""
    private = load_private_key(order.key) if order.key is not None else None
    place = Path(site.path(target.id))
    base = Path(site.path(source.id)) if source is not None else None
    check_place(order.out, base, place)
    old = _listing(site, source) if source is not None else EMPTY
    new = record.trusted_listing(site.record(target.id), place)
    if new is None and base is not None:
        new = read_changed(base, old, place, site.progress, akin=True)
    if new is None:
        new = read_tree(place, progress=site.progress)
    known = Known(place, new)
    stated = state(known, order.label)
    manifest = write_image(
        Known(base, old), known, order.out, stated, private, order.effort, order.available, site.progress
    )
    return manifest, sorted(_own(old, new))


def label_of(kept: Deployment, **said: object) -> Label:
    """What an image says of itself: what was asked for, else what the deployment's record says."""
    known = kept.record
    if known is None:
        return Label(**{key: value for key, value in said.items() if value})  # type: ignore[arg-type]
    files = known.boot_files
    found = {"name": known.name, "release": known.release, "epoch": known.epoch}
    found |= {"kernel": files.kernel, "initrd": files.initrd, "devicetree": files.devicetree}
    return Label(**(found | {key: value for key, value in said.items() if value}))  # type: ignore[arg-type]


def _listing(site: Site, kept: Deployment) -> Listing:
    place = Path(site.path(kept.id))
    known = record.trusted_listing(site.record(kept.id), place)
    return known if known is not None else read_tree(place, progress=site.progress)


def _own(old: Listing, new: Listing) -> set[str]:
    """What is this machine's own, and not in the base already; empty files are placeholders for it."""
    found = set()
    for entry in new:
        path = os.fsdecode(entry.path)
        if entry.kind is Kind.FILE and entry.size and any(fnmatch.fnmatchcase(path, own) for own in OWN):
            before = old.get(entry.path)
            if before is None or before.digest != entry.digest:
                found.add(printable(entry.path))
    return found
