"""The command that deploys, and what `upgrade` has in common with it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from tbdiff import progress
from tbdiff.completion import files
from tbdiff.line import Line
from tbdiff.manifest import Manifest
from tbdiff.signature import KeyRing
from tbdiff.tree import Progress
from tbupdate import config, fetching, layout, planning, trusted
from tbupdate.cli.conduct import changing, looking, now, refuse_reboot_elsewhere, remark, restart, retain
from tbupdate.cli.options import Settings, everywhere, settings
from tbupdate.cli.sites import require_chooser, working
from tbupdate.cli.terminal import print_done, print_plan
from tbupdate.config import Config
from tbupdate.offer import NoRoom, Offer
from tbupdate.perform import perform
from tbupdate.reach import Reach
from tbupdate.steps import Plan
from tbupdate.syscalls import sync
from tbupdate.system import System


@dataclass(frozen=True)
class Wishes:
    """How a person wants it deployed. `signature` and `delta` are for a tarball, which does not say these itself.

    `fetch`: only to be made ready, and not to boot next.
    """

    dry_run: bool = False
    fetch: bool = False
    reboot: bool = False
    allow_unsigned: bool = False
    allow_downgrade: bool = False
    again: bool = False
    signature: str | None = None
    delta: bool | None = None


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, shell_complete=files)
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--reboot", is_flag=True, help="Reboot into it when it is staged.")
@click.option("--allow-unsigned", is_flag=True, help="Take an image that nobody signed.")
@click.option("--allow-downgrade", is_flag=True, help="Take an image that is older than what is here.")
@click.option("--again", is_flag=True, help="Take an image whose system failed here before.")
@click.option("--signature", metavar="FILE|URL", help="A tarball's signature, where it is not beside it as IMAGE.sig.")
@click.option("--delta", is_flag=True, default=None, help="An unsigned tarball that is a layer over what boots next.")
@everywhere
def deploy(
    images: tuple[str, ...],
    *,
    dry_run: bool,
    reboot: bool,
    allow_unsigned: bool,
    allow_downgrade: bool,
    again: bool,
    signature: str | None,
    delta: bool | None,
) -> None:
    """Make IMAGE (a file, a URL, or - for stdin) the deployment that boots next; several follow one on the other."""
    said = settings()
    wishes = Wishes(dry_run, False, reboot, allow_unsigned, allow_downgrade, again, signature, delta)
    rules = config.load(said.config)
    with Reach(rules.fetch) as reach:
        deploy_images(images, said, rules, wishes, reach.line())
    restart(reboot and not dry_run)


def _watched(report: Progress, watch: Callable[[], None]) -> Progress:
    def told(phase: str, done: int, total: int) -> None:
        watch()
        report(phase, done, total)

    return told


def deploy_images(
    images: Sequence[str],
    said: Settings,
    rules: Config,
    wishes: Wishes,
    line: Line,
    done: str = "deploy",
    check: Callable[[Manifest], None] = lambda manifest: None,
    keys: KeyRing | None = None,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Open, plan, perform and say how it ended; `check` may refuse what the images turn out to be.

    `keys` are those that are trusted, where that is known better than what is written down here; `watch` is called
    again and again before the switch, and may raise.
    """
    from tbdiff.joined import opened_as_one  # noqa: PLC0415 - the commands that only look need none of it

    with (
        working(said, rules) as site,
        opened_as_one(
            images,
            keys := keys or trusted.load(os.path.join(site.top, layout.STATE), rules).ring,
            unsigned_ok=wishes.allow_unsigned,
            signature=wishes.signature,
            delta=wishes.delta,
            kept=None if wishes.dry_run else Path(site.top, layout.STATE, layout.FETCHED),
            line=line,
        ) as opened,
        looking(site) if wishes.dry_run else changing(site) as system,
    ):
        require_chooser(site, rules, running=system.booted_id is not None)
        refuse_reboot_elsewhere(system, wishes.reboot)
        check(opened.manifest)
        target = opened.manifest.target
        offer = Offer(
            id=layout.make_id(target.release or target.name, secrets.token_hex(3)),
            now=now(),
            image_digest=opened.digest,
            signers=opened.signers,
            device_type=rules.device_type,
            reserve=rules.space.reserve,
            allow_downgrade=wishes.allow_downgrade,
            again=wishes.again,
        )
        try:
            plan = _plan(system, opened.manifest, offer, keys, wishes)
        except NoRoom:
            # What was removed a moment ago is free only when that is on the disk.
            sync(site.top)
            plan = _plan(site.survey(), opened.manifest, offer, keys, wishes)
        if wishes.dry_run:
            print_plan(plan, as_json=said.json)
            return
        remark(plan)
        with progress.shown(said.progress) as report:
            warnings = perform(plan, replace(site, image=opened, progress=_watched(report, watch)), now())
        warnings += retain(site, rules)
        print_done(done, plan.deployment, site.survey(), warnings, as_json=said.json)


def _plan(system: System, manifest: Manifest, offer: Offer, keys: KeyRing, wishes: Wishes) -> Plan:
    if wishes.fetch:
        return fetching.plan_fetch(system, manifest, offer, keys.fingerprint)
    return planning.plan_deploy(system, manifest, offer)


def take_up(said: Settings, rules: Config, *, dry_run: bool = False) -> None:
    """Let boot next what was made ready before, and say how it ended."""
    with working(said, rules) as site, looking(site) if dry_run else changing(site) as system:
        require_chooser(site, rules, running=system.booted_id is not None)
        plan = fetching.plan_take_up(system, now())
        if dry_run:
            print_plan(plan, as_json=said.json)
            return
        remark(plan)
        warnings = perform(plan, site, now())
        warnings += retain(site, rules)
        print_done("upgrade", plan.deployment, site.survey(), warnings, as_json=said.json)
