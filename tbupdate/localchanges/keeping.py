"""Do the steps that concern saved copies: prove one, forget one, take over what a deploy has carried."""

from __future__ import annotations

import os
from pathlib import Path

from tbdiff.entry import Kind
from tbdiff.errors import OUR_FAULT, Failed
from tbupdate import saved, subvolumes, volatility
from tbupdate.layout import aside
from tbupdate.layout import saved as saved_name
from tbupdate.localchanges.carriage import Way, carry, open_deployed
from tbupdate.localchanges.difference import find
from tbupdate.localchanges.policy import Policy
from tbupdate.rootvocabulary import ForgetSaved, KeepCarried, KeepSwitch, ProveSaved
from tbupdate.site import Site
from tbupdate.steps import Step
from tbupdate.syscalls import sync

SWITCH = Policy(carry=(f"/{volatility.CONFIG}",), drop=(), both_ways=(), own=())


def do(step: Step, site: Site) -> None:
    """Perform one step."""
    match step:
        case ProveSaved(deployment, number):
            _prove(site, deployment, number)
        case KeepCarried():
            _keep_carried(site, step)
        case KeepSwitch():
            _keep_switch(site, step)
        case ForgetSaved(deployment, number):
            saved.forget(site.record(deployment), number)
        case _:
            raise Failed(f"this version does not know how to {step}", OUR_FAULT)


def _prove(site: Site, deployment: str, number: int) -> None:
    copy = site.path(saved_name(deployment, number))
    deployed = open_deployed(site.path(deployment), site.record(deployment), site.progress)
    found = find(deployed, Path(copy), lambda path: False, also_others=True)
    files = [path for path, one in found.items() if one.ours is not None and one.ours.entry.kind is Kind.FILE]
    saved.write(site.record(deployment), number, copy, files)


def _keep_carried(site: Site, step: KeepCarried) -> None:
    root, copy = site.path(step.root), site.path(saved_name(step.deployment, step.number))
    # Whether it is one of those is known only now: an image, or what was carried, says so.
    if volatility.is_set(root):
        subvolumes.snapshot(root, copy, read_only=True)
        sync(site.top)
        _prove(site, step.deployment, step.number)


def _keep_switch(site: Site, step: KeepSwitch) -> None:
    tree, copy = site.path(step.deployment), site.path(step.copy)
    if volatility.is_set(tree) or not volatility.is_set(copy):
        return
    unfinished = site.path(aside("saved", step.deployment))
    subvolumes.snapshot(tree, unfinished, read_only=False)
    deployed = open_deployed(tree, site.record(step.deployment), site.progress)
    carry(Way(deployed, Path(copy), Path(unfinished)), SWITCH, None)
    sync(site.top)
    subvolumes.make_read_only(unfinished)
    os.rename(unfinished, site.path(saved_name(step.deployment, step.number)))
    sync(site.top)
    _prove(site, step.deployment, step.number)
