"""`tb-update changes`: what somebody has changed in a root, and what becomes of it."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from tbdiff import progress
from tbdiff.errors import Rejected
from tbdiff.show import change_json, line
from tbupdate import carrying, lock, planning, subvolumes
from tbupdate.cli.conduct import carry_out, changing
from tbupdate.cli.options import everywhere, settings
from tbupdate.cli.sites import working
from tbupdate.cli.terminal import print_json, print_lines
from tbupdate.layout import PARTIAL, SNAPSHOTS, make_id
from tbupdate.localchanges.carriage import open_deployed
from tbupdate.localchanges.difference import described, find
from tbupdate.system import Deployment, Subvolume, System


@click.command("changes")
@click.argument("deployment", metavar="[ID]", required=False)
@everywhere
def show_changes(deployment: str | None) -> None:
    """Say what was changed in the root of a deployment (default: what runs), and what becomes of it."""
    said = settings()
    with working(said) as site, progress.shown(said.progress) as report, lock.hold(site.top):
        system = site.survey()
        kept, root = _choose(system, deployment)
        # Btrfs tells differences of what is read-only alone. A cut leaves what the next command clears.
        snapshot = site.path(make_id("changes", secrets.token_hex(3)) + PARTIAL)
        subvolumes.snapshot(site.path(root.name), snapshot, read_only=True)
        try:
            deployed = open_deployed(site.path(kept.id), site.record(kept.id), report)
            found = find(deployed, Path(snapshot), site.local.follows, also_others=True)
        finally:
            subvolumes.delete(snapshot)
    changes = [(one, site.local.fate(one.path or b"").value) for one in described(found)]
    if said.json:
        shown = [change_json(one) | {"fate": fate} for one, fate in changes]
        disputed = [one.to_fields() for one in kept.conflicts]
        print_json({"id": kept.id, "subvolume": f"{SNAPSHOTS}/{root.name}", "changes": shown, "conflicts": disputed})
        return
    width = max((len(fate) for _, fate in changes), default=0)
    print_lines(f"{fate.ljust(width)}  {line(one)}" for one, fate in changes)
    print_lines(f"conflict: {one.line}" for one in kept.conflicts)
    if kept.conflicts:
        print_lines([f"(conflicts: the local version stays; the image's are in tb-update/{kept.id}/ of the top level)"])
    what = f"{len(changes) or 'No'} local change{'' if len(changes) == 1 else 's'}"
    print_lines([f"{what} in {SNAPSHOTS}/{root.name}, the root of {kept.id}."])


@click.command("carry")
@everywhere
def carry_late() -> None:
    """Bring what was changed since a deploy to what boots next; for the units that end a session."""
    said = settings()
    # A run that is in progress ends, or is interrupted by the shutdown itself.
    with working(said) as site, changing(site, wait=True) as system:
        carry_out("carry", carrying.plan_carry(system), site, said)


def _choose(system: System, named: str | None) -> tuple[Deployment, Subvolume]:
    """The deployment that is meant, and the root of it that counts."""
    planning.require_layout(system)
    if named is None:
        kept = system.booted or system.default
        if kept is None:
            raise Rejected("what runs or boots next is none of the deployments", "Name one: tb-update changes ID")
    else:
        kept = planning.find(system, named)
    if not kept.roots:
        raise Rejected(f"{kept.id} has no root that anything could have been changed in")
    return kept, kept.roots[0]
