"""Do the steps that concern booting: kernels and entries on the boot partition, and the tries that the hook takes."""

from __future__ import annotations

import contextlib
import os

from tbdiff.entry import Listing
from tbdiff.errors import OUR_FAULT, Failed, Rejected
from tbupdate import layout
from tbupdate.boot import generator, initrd, kernel, kernelsets, listed
from tbupdate.boot.chooser import Chooser
from tbupdate.boot.kernel import BootFiles, Overrides, opened
from tbupdate.bootvocabulary import (
    AddEntry,
    Choose,
    ClearNote,
    CollectKernels,
    DropTries,
    ForgetEntry,
    MakeTries,
    PutKernel,
    RequireBootable,
    SetUpBoot,
    TakeDownBoot,
)
from tbupdate.site import Site
from tbupdate.steps import Step


def do(step: Step, site: Site) -> None:  # noqa: PLR0912 - one case for each step
    """Perform one step."""
    match step:
        case MakeTries(deployment, count):
            _make_tries(site, deployment, count)
        case DropTries(deployment):
            _drop_tries(site, deployment)
        case RequireBootable(name, overrides, installed):
            _require_bootable(site, name, overrides, installed)
        case PutKernel(deployment, overrides, installed):
            _put_kernel(site, *_find(site, deployment, overrides, installed))
        case AddEntry():
            if site.kernels is None:
                raise Failed("there is no kernel for the boot entry", OUR_FAULT)
            _chooser(site).add(step.with_kernels(*site.kernels))
        case SetUpBoot(choice):
            _chooser(site).set_up(choice)
        case TakeDownBoot():
            _chooser(site).take_down()
        case Choose(choice):
            _chooser(site).choose(choice)
        case ForgetEntry(deployment):
            _chooser(site).forget(deployment)
        case CollectKernels():
            chooser = _chooser(site)
            kernelsets.collect(chooser.directory, _used(chooser))
        case ClearNote():
            _chooser(site).clear_note()
        case _:
            raise Failed(f"this version does not know how to {step}", OUR_FAULT)


def _chooser(site: Site) -> Chooser:
    if site.chooser is None:
        raise Failed("there is no boot loader to be told", "Set one up with: tb-update init")
    return site.chooser


def _used(chooser: Chooser) -> set[str]:
    return {entry.kernels for entry in chooser.entries().values()}


def _find(site: Site, name: str, overrides: Overrides, installed: bool) -> tuple[str, BootFiles]:
    """The tree, or else the boot partition of an installed system, and the boot files in it."""
    tree = site.path(name)
    if installed:
        there = kernel.find_installed(_chooser(site).directory, tree)
        if there is not None:
            return _chooser(site).directory, there
    return tree, kernel.find(tree, overrides)


def require_room(site: Site, target: Listing, overrides: Overrides) -> None:
    """Refuse a kernel that will not fit on the boot partition, as soon as a listing tells of it.

    A listing does not tell all: whether the system can boot is decided when it is there.
    """
    try:
        files = listed.find(target, overrides)
    except Rejected:
        return
    chooser = _chooser(site)
    kernelsets.require_room(chooser.directory, files, _used(chooser))


def _put_kernel(site: Site, tree: str, found: BootFiles) -> None:
    chooser = _chooser(site)
    files = {name: (tree, path) for name, path in found.named.items()}
    with contextlib.ExitStack() as held:
        if found.initrd is None:
            made = held.enter_context(generator.made(tree, found.version))
            _require_hook(made, "initrd", found.version)
            files["initrd"] = (made, "initrd")
        site.kernels = (kernelsets.put(chooser.directory, files, _used(chooser)), frozenset(files))


def _require_hook(tree: str, path: str, version: str) -> None:
    with opened(tree) as root, kernel.read(root, path) as file:
        if not initrd.has_hook(file):
            raise Rejected(
                f"the initrd of kernel {version} does not contain tb-update's hook; nothing was changed",
                "Install tb-update in that system and make its initrd again (update-initramfs -u).",
            )


def _require_bootable(site: Site, name: str, overrides: Overrides, installed: bool) -> None:
    kernel.require_init(site.path(name))
    if not installed:
        with opened(site.path(name)) as root, opened(site.path(layout.CURRENT)) as current:
            _chooser(site).require_tools(root, current)
    tree, found = _find(site, name, overrides, installed)
    if found.initrd is not None:
        _require_hook(tree, found.initrd, found.version)
    elif generator.find_tool(tree) is None:
        raise generator.no_initrd(found.version)


def _make_tries(site: Site, deployment: str, count: int) -> None:
    # The hook only takes files away: nothing can be made or renamed on a file system whose metadata is full.
    directory = _tries(site, deployment)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    for name in os.listdir(directory):
        if name != layout.TRIAL and (not name.isdecimal() or int(name) > count):
            os.unlink(os.path.join(directory, name))
    # `trial` makes them count; without it a cut in between would look like tries that are used up.
    for name in (*map(str, range(1, count + 1)), layout.TRIAL):
        os.close(os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _drop_tries(site: Site, deployment: str) -> None:
    directory = _tries(site, deployment)
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in sorted(names, key=lambda name: name != layout.TRIAL):
        os.unlink(os.path.join(directory, name))
    os.rmdir(directory)


def _tries(site: Site, deployment: str) -> str:
    return os.path.join(site.top, layout.STATE, layout.TRIES, deployment)
