"""What would make an update or a rollback fail later: findings, each with its remedy. It looks and changes nothing."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

from tbdiff.entry import printable
from tbdiff.errors import Rejected, Stop
from tbdiff.index import MOMENT
from tbupdate import (
    bootadvice,
    conversion,
    dropins,
    health,
    installed,
    layout,
    places,
    record,
    saved,
    space,
    subvolumes,
    trust,
    trusted,
)
from tbupdate.config import Config
from tbupdate.finding import Finding, read_lines
from tbupdate.mirrors import SHOWN
from tbupdate.site import Site
from tbupdate.status import interrupted
from tbupdate.system import System
from tbupdate.trusted import Trusted
from tbupdate.volatility import CONFIG

LEAST_DATA = 256 << 20
LEAST_METADATA = 64 << 20
_SUBVOLUME_OPTION = re.compile(r"(?:^|[,\s=])(subvol(?:id)?=[^,\s]*)")


def examine(system: System, site: Site, boot: str | None, config: Config) -> list[Finding]:
    """Everything that is found, the gravest first."""
    top = site.top
    if not system.initialised:
        return sorted(_before_init(system, site, boot, config), key=lambda one: one.notice)
    root = site.path(layout.ROOT)
    found = [*_layout(system), *_records(system, top), *_options(root), *_nested(system, top)]
    found += [*_facilities(system, top, config), *_writers(system, top)]
    found += [*bootadvice.examine(system, site.chooser, root, boot, config), *installed.rivals(root)]
    found += _volatile(system, site, config)
    found += _checks() if system.booted_id is not None else ()
    return sorted(found, key=lambda one: one.notice)


def _before_init(system: System, site: Site, boot: str | None, config: Config) -> Iterator[Finding]:
    """What `init` makes of the installed system, and what stands against its updates then."""
    begun = "was begun and interrupted" if system.marks.deploying else "is not there"
    try:
        source = conversion.find_source(system, None, installed.systems(site.top, system))
    except Rejected as rejected:
        yield Finding("layout", f"the layout {begun}: {str(rejected).partition('; nothing')[0]}", rejected.remedy)
        return
    root = os.path.join(site.top, source.path)
    if not installed.holds_system(root):
        yield Finding("layout", f"the layout {begun}, and neither is a system", "Run: tb-update init")
        return
    where = printable(os.fsencode(source.path)) or conversion.TOP
    name = printable(installed.name_of(root).encode())
    yield Finding(
        "layout",
        f"the layout {begun}; the system in {where} calls itself {name}",
        "Run: tb-update init (with --dry-run it only says what would become of it)",
    )
    for place in installed.left_out(root, source.nested):
        yield installed.left_behind(place)
    yield from bootadvice.examine(system, site.chooser, root, boot, config)
    yield from installed.rivals(root)


def _layout(system: System) -> Iterator[Finding]:
    root = system.subvolumes.get(layout.ROOT)
    if system.busy:
        yield Finding("busy", "a run is in progress", "Look again when it has ended.", notice=True)
    elif interrupted(system):
        yield Finding(
            "interrupted", "a run was interrupted", "Any changing command repairs it, such as: tb-update prune"
        )
    elif root is None or root.id != system.default_id:
        yield Finding(
            "default",
            f"the default subvolume is {system.default_id}, not snapshots/root",
            "Run: btrfs subvolume set-default on snapshots/root, or tb-update rollback",
        )
    if root is not None and root.id == system.default_id and system.default is None:
        yield Finding(
            "default",
            "the deployment that boots next is gone; its root is all that is left of it",
            "Go to one that is kept, if there is one (tb-update rollback), or deploy a full image.",
        )
    for name in (*SHOWN, *(kept.id for kept in system.deployments)):
        subvolume = system.subvolumes.get(name)
        if subvolume is not None and not subvolume.read_only:
            yield Finding(
                "writable",
                f"snapshots/{name} is writable, so nobody knows what is in it",
                f"Run `btrfs property set -ts DIRECTORY ro true` on it, then `tb-update verify {name}`",
            )
    for name in sorted(system.foreign):
        yield Finding("foreign", f"snapshots/{name} is no subvolume, so nothing can be deployed", "Move it away.")
    if system.good is None and system.default is not None:
        yield Finding(
            "committed",
            f"the deployment that was committed last, {system.marks.good}, is gone",
            "Commit the one that runs: tb-update commit",
        )


def _records(system: System, top: str) -> Iterator[Finding]:
    """What is known of each deployment, and whether it is still true."""
    for kept in system.deployments:
        state = os.path.join(top, layout.STATE, kept.id)
        if kept.record is None:
            yield Finding(
                "record",
                f"{kept.id} has no readable record: no image can start from it, and it cannot be verified",
                "Deploy a full image next, or remove it.",
            )
        elif record.read_listing(state, kept.record.tree) is None:
            yield Finding(
                "listing",
                f"{kept.id} has no readable listing of its tree: it cannot be verified, and a delta over it is slow",
                "Deploy another image over it; it can be removed when that is committed.",
            )
        elif kept.record.seal not in (None, subvolumes.seal(os.path.join(top, layout.SNAPSHOTS, kept.id))):
            yield Finding(
                "changed",
                f"something was written to {kept.id} after it was deployed",
                f"See what differs: tb-update verify {kept.id}",
            )


def _options(root: str) -> Iterator[Finding]:
    """`subvol=` for the root silently defeats the default subvolume, and with it every update and rollback."""
    for number, line in enumerate(read_lines(root, "etc/fstab"), 1):
        fields = line.split("#")[0].split()
        option = _SUBVOLUME_OPTION.search(fields[3]) if len(fields) > 3 and fields[1] == "/" else None
        if option:
            yield Finding(
                "fstab",
                f"line {number} of /etc/fstab in snapshots/root mounts / with {printable(option[1].encode())}",
                "Take that option away: the default subvolume says what is /.",
            )


def _nested(system: System, top: str) -> Iterator[Finding]:
    for name, subvolume in sorted(system.subvolumes.items()):
        if name == layout.ROOT or name.endswith(layout.KEPT_ROOT):
            for place in installed.left_out(os.path.join(top, layout.SNAPSHOTS, name), subvolume.nested):
                yield installed.left_behind(place, f" of snapshots/{name}")


def _writers(system: System, top: str) -> Iterator[Finding]:
    """Data in the root stays behind at an update, and makes each snapshot larger."""
    if system.root is None:
        return
    root, deployed = (os.path.join(top, layout.SNAPSHOTS, name) for name in (layout.ROOT, system.root.id))
    for place in places.in_root(root):
        if places.written(os.path.join(root, place), os.path.join(deployed, place)):
            yield Finding(
                "writers",
                f"{places.USUAL[place]} /{place}, which is part of the root: what is there stays behind at an update",
                f"Give /{place} a subvolume of its own beside snapshots/, and mount it from /etc/fstab.",
                notice=True,
            )


def _facilities(system: System, top: str, config: Config) -> Iterator[Finding]:
    if os.statvfs(top).f_flag & os.ST_RDONLY:
        yield Finding("read-only", "the file system is read-only: nothing can be deployed", "See `dmesg` for why.")
    yield from _trust(top, config)
    known = space.identify(top)
    if known is not None and os.path.isdir(f"/sys/fs/btrfs/{space.dashed(known.fsid)}/qgroups"):
        yield Finding(
            "qgroups",
            "Btrfs quota groups are on: deleting snapshots can stall the system for minutes",
            "Run: btrfs quota disable on the mounted top level",
        )
    for what, free, least in (
        ("data", system.space.data, max(LEAST_DATA, config.space.reserve)),
        ("metadata", system.space.metadata, LEAST_METADATA),
    ):
        if free < min(least, system.space.total // 10):
            yield Finding(
                "space",
                f"only {free >> 20} MiB are left for {what}",
                "Run: tb-update prune; for metadata also: btrfs balance start -dusage=10 on the mounted top level",
            )


def _trust(top: str, config: Config) -> Iterator[Finding]:
    state = os.path.join(top, layout.STATE)
    for fault in trust.faults(config.keys):
        yield Finding("keys", str(fault).partition("; nothing")[0], fault.remedy)
    known: Trusted | None = None
    try:
        known = trusted.load(state, config)
    except Stop as stop:
        if not trust.faults(config.keys):
            yield Finding("keys", str(stop).partition("; nothing")[0], stop.remedy)
    if (known is None or known.statement is None) and trust.count(config.keys) == 0:
        yield Finding(
            "keys",
            f"no key is trusted: {config.keys} has no *.pub that can be",
            "Put the public key of your builder there.",
        )
    if known is None:
        return
    if known.falls_short and (known.statement is not None or trust.count(config.keys)):
        yield Finding(
            "keys",
            f"{known.ring.threshold} keys must sign a release, and fewer are trusted: no image can be deployed",
            "See: tb-update trust list",
        )
    if known.statement is not None and known.expired(time.strftime(MOMENT, time.gmtime())):
        yield Finding(
            "trust-expired",
            f"the statement on which keys are trusted was good until {known.statement.expires}: no source is gone by",
            "Whoever publishes there must make a new one (tbdiff rotate); or the clock of this device is wrong.",
        )
    for one in known.owner.own:
        when = f"the owner enrolled that key on {one.added[:10]}"
        if one.key.key.raw in known.distrusted:
            said = f"images that {one.key.name} signed are trusted here no more: {when}, and it was revoked since"
            yield Finding("own-key", said, "Nothing to do; a reset forgets it.", notice=True)
            continue
        yield Finding(
            "own-key",
            f"images that {one.key.name} signed are trusted here: {when}",
            "Nothing to do if that was you. Else: tb-update trust revoke; a reset forgets it.",
            notice=True,
        )


def _volatile(system: System, site: Site, config: Config) -> Iterator[Finding]:
    """What stands against a root that is made anew at each boot."""
    kept = system.booted or system.default
    if kept is None:
        return
    wanted = config.local.volatile
    if wanted and system.choice is None:
        yield Finding(
            "volatile",
            "volatile is set, but no boot loader that tb-update looks after boots this system: its root stays as it is",
            "Set one up with `tb-update init`, or take `volatile = true` out of config.toml.",
        )
    elif wanted and not kept.volatile:
        yield Finding(
            "volatile",
            "volatile is set, but not in what the root is made of: the root is kept as it is",
            f"Run: tb-update changes save. The hook reads only a line `volatile = true` below a line [local] in "
            f"/{CONFIG}, which is no link.",
        )
    elif system.throws_away(kept) and not wanted:
        yield Finding(
            "volatile",
            "volatile is set no longer, but that is not saved: the next boot makes the root anew",
            "Run: tb-update changes save",
        )
    if system.throws_away(system.booted) and system.made.of is None:
        yield Finding(
            "volatile",
            "the root was not made anew at this boot: the initrd has an older hook, or the disk did not let it",
            "See `dmesg | grep tb-update`. Make the initrd anew in the system that the images are made of.",
        )
    for one in kept.saved:
        if not one.whole or not saved.is_whole(site.record(kept.id), one.number, site.path(one.name)):
            yield Finding(
                "saved",
                f"{layout.SNAPSHOTS}/{one.name}, a copy of saved local changes, is damaged: it is passed over",
                "Save them again: tb-update changes save",
            )


def _checks() -> Iterator[Finding]:
    for path in dropins.passed_over(health.REQUIRED):
        yield Finding(
            "checks",
            f"{printable(os.fsencode(path))} is no program that can be run, so it checks nothing",
            "Run: chmod 755 on it; or take it away.",
            notice=True,
        )
