"""`tb-update changes`: what somebody has changed in a root, what becomes of it, and what of it is saved."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tbdiff import progress
from tbdiff.changes import Change
from tbdiff.errors import Rejected
from tbdiff.show import change_json, line
from tbupdate import carrying, config, lock, planning, saving, subvolumes
from tbupdate.cli.conduct import ask, carry_out, changing, now
from tbupdate.cli.options import everywhere, settings
from tbupdate.cli.sites import working
from tbupdate.cli.terminal import print_json, print_lines
from tbupdate.layout import PARTIAL, SNAPSHOTS, make_id
from tbupdate.localchanges.carriage import open_deployed
from tbupdate.localchanges.difference import Difference, described, find
from tbupdate.localchanges.merge import unchanged
from tbupdate.system import Deployment, Subvolume, System


class _Changes(click.Group):
    """A group whose first word may also be a deployment."""

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if arguments[0] in self.commands:
            return super().resolve_command(context, arguments)
        return "of", self.commands["of"], arguments


@click.group("changes", cls=_Changes, invoke_without_command=True, subcommand_metavar="[ID | save | drop]")
@everywhere
@click.pass_context
def changes(context: click.Context) -> None:
    """Say what was changed in the root of a deployment (default: what runs), and what becomes of it."""
    if context.invoked_subcommand is None:
        _show(None)


@changes.command("of", hidden=True)
@click.argument("deployment", metavar="ID")
@everywhere
def show_of(deployment: str) -> None:
    """Say it of the deployment ID."""
    _show(deployment)


@changes.command("save")
@everywhere
def save_changes() -> None:
    """Where the root is made anew at each boot: let it have the local changes of now from then on."""
    said = settings()
    rules = config.load(said.config)
    with working(said, rules) as site, changing(site) as system:
        carry_out("save", saving.plan_save(system, now(), wanted=rules.local.volatile), site, said)


@changes.command("drop")
@everywhere
def drop_changes() -> None:
    """Forget what was saved: the next root is that of the deployment as it was deployed."""
    said = settings()
    with working(said) as site, changing(site) as system:
        plan = saving.plan_drop(system, now())
        ask(f"The local changes that were saved of {plan.deployment} are lost with the next boot. Forget them?", said)
        carry_out("drop", plan, site, said)


@dataclass(frozen=True)
class _Seen:
    """A local change, what becomes of it, and whether it is saved; None where the root is kept as it is."""

    change: Change
    fate: str
    saved: bool | None

    @property
    def words(self) -> str:
        return self.fate if self.saved is None else f"{self.fate}, {'saved' if self.saved else 'not saved'}"

    def to_fields(self) -> dict[str, Any]:
        """It for programs."""
        return change_json(self.change) | {"fate": self.fate} | ({} if self.saved is None else {"saved": self.saved})


def _show(deployment: str | None) -> None:
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
            copy = kept.newest if system.throws_away(kept) else None
            held = find(deployed, Path(site.path(copy.name)), site.local.follows) if copy is not None else {}
        finally:
            subvolumes.delete(snapshot)
    volatile = system.throws_away(kept)
    # What was saved and is as it was deployed here comes again with the next boot.
    undone = {path: Difference(one.ours, one.base) for path, one in held.items() if path not in found}
    kept_paths = {path for path, one in found.items() if path in held and unchanged(held[path].ours, one.ours)}
    seen = []
    for one in (*described(found), *described(undone)):
        path = one.path or b""
        seen.append(_Seen(one, site.local.fate(path).value, path in kept_paths if volatile else None))
    if said.json:
        shown = [one.to_fields() for one in seen]
        disputed = [one.to_fields() for one in kept.conflicts]
        fields = {"id": kept.id, "subvolume": f"{SNAPSHOTS}/{root.name}", "changes": shown, "conflicts": disputed}
        print_json(fields | {"volatile": volatile})
        return
    width = max((len(one.words) for one in seen), default=0)
    print_lines(f"{one.words.ljust(width)}  {line(one.change)}" for one in seen)
    print_lines(f"conflict: {one.line}" for one in kept.conflicts)
    if kept.conflicts:
        print_lines([f"(conflicts: the local version stays; the image's are in tb-update/{kept.id}/ of the top level)"])
    what = f"{len(seen) or 'No'} local change{'' if len(seen) == 1 else 's'}"
    print_lines([f"{what} in {SNAPSHOTS}/{root.name}, the root of {kept.id}."])
    if any(one.saved is False for one in seen):
        print_lines(
            ["What is not saved is lost with the next boot. To save what is not dropped: tb-update changes save"]
        )


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
        raise Rejected(
            f"{kept.id} has no root that anything could have been changed in", "Name another one. See: tb-update list"
        )
    return kept, kept.roots[0]
