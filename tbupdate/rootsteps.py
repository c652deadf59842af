"""Do the steps that make a new system out of a root that was written to: take in, run a command, read what differs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tbdiff.entry import Listing, printable, serialise
from tbdiff.errors import OUR_FAULT, Failed, NothingToDo, Rejected
from tbdiff.generation import read_changed
from tbdiff.tree import read_tree
from tbupdate import fstab, record, sandbox, subvolumes
from tbupdate.boot import kernel
from tbupdate.rootvocabulary import (
    EmptyTemporary,
    ReadChanges,
    RunCommand,
    SavedStep,
    Stand,
    TakeInKernel,
    TellHidden,
)
from tbupdate.site import Site
from tbupdate.steps import Step
from tbupdate.syscalls import sync

# What programs leave behind wherever they run: it makes no other system.
LITTER = (b"tmp", b"var/tmp", b"var/cache", b"var/log", b"var/lib/apt/lists", b"var/lib/apt/periodic")
# Where package managers write down what is installed.
DATABASES = ("lib/dpkg/status", "lib/rpm/rpmdb.sqlite", "lib/rpm/Packages.db", "lib/rpm/Packages")


class CommandFailed(Failed):
    """The command in the new system ended with another exit code than 0."""

    def __init__(self, command: str, code: int) -> None:
        why = {126: " (it cannot be run)", 127: " (there is no such command in the system)"}.get(code, "")
        super().__init__(f"`{command}` ended with exit code {code}{why}; nothing was changed", "See what it said.")
        self.code = code


def do(step: Step, site: Site) -> None:
    """Perform one step."""
    match step:
        case EmptyTemporary(name):
            _empty(os.path.join(site.path(name), "tmp"))
        case TakeInKernel():
            _take_in_kernel(step, site)
        case RunCommand():
            _run(step, site)
        case TellHidden(name):
            _tell_hidden(site.path(name), site)
        case ReadChanges():
            _read_changes(step, site)
        case _ if isinstance(step, SavedStep):
            from tbupdate.localchanges import keeping  # noqa: PLC0415 - its memory is not needed beside an image's

            keeping.do(step, site)
        case _:
            raise Failed(f"this version does not know how to {step}", OUR_FAULT)


def _empty(directory: str) -> None:
    if os.path.islink(directory) or not os.path.isdir(directory):
        return
    for entry in list(os.scandir(directory)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _take_in_kernel(step: TakeInKernel, site: Site) -> None:
    tree = site.path(step.name)
    try:
        kernel.find(tree, step.overrides)
    except Rejected:
        pass
    else:
        return
    if site.chooser is None:
        return
    partition = site.chooser.directory
    found = kernel.find_installed(partition, tree)
    into = os.path.join(tree, "boot")
    if found is None or os.path.islink(into):
        # Whether it can boot is looked at when it is complete.
        return
    os.makedirs(into, mode=0o755, exist_ok=True)
    # What package managers and makers of initrds look for beside the kernel comes along.
    beside = (f"config-{found.version}", f"System.map-{found.version}")
    there = [name for name in beside if os.path.isfile(os.path.join(partition, name))]
    for name in {*found.named.values(), *there}:
        os.makedirs(os.path.dirname(os.path.join(into, name)), exist_ok=True)
        shutil.copy2(os.path.join(partition, name), os.path.join(into, name))


def _run(step: RunCommand, site: Site) -> None:
    tree = site.path(step.name)
    copies = {stand: site.path(stand.copy) for stand in step.stands if stand.copy is not None}
    sync(site.top)
    sealed = {stand: (subvolumes.seal(path), _packages(stand, path)) for stand, path in copies.items()}
    mounts = [_mounted(stand, copies.get(stand)) for stand in step.stands]
    code = sandbox.run(tree, step.command, mounts, output=site.output)
    if code != 0:
        raise CommandFailed(step.called or "the shell", code)
    sync(site.top)
    name = os.path.relpath(tree, site.top)
    inside = sorted(one.path for one in subvolumes.find_all(site.top) if one.path.startswith(f"{name}/"))
    if inside:
        raise Failed(
            f"the command made subvolumes (/{os.path.relpath(inside[0], name)}), which no deployment carries along; "
            "nothing was changed",
            "Make a directory instead.",
        )
    for stand, path in copies.items():
        seal, packages = sealed[stand]
        if _packages(stand, path) != packages:
            raise Failed(
                f"the command changed packages, but what is installed is written down in {stand.point}, which is no "
                "part of the root; nothing was changed",
                f"Keep {stand.point} in the root if packages are to be updated so; or deploy images.",
            )
        if subvolumes.seal(path) != seal:
            site.remarks.append(f"what the command wrote to {stand.point} is lost: that is no part of the system.")


def _tell_hidden(root: str, site: Site) -> None:
    points = [os.fsencode(line.point.lstrip("/")) for line in fstab.outside(fstab.read(root))]
    if site.listing is None or not points:
        return
    paths = list(site.listing.entries.paths)
    for point in sorted(set(points)):
        count = sum(path.startswith(point + b"/") for path in paths)
        if count:
            site.remarks.append(
                f"the new system brings {count} files and directories below /{printable(point)}, over which /etc/fstab "
                "mounts something else: they stay hidden, and nothing there is changed"
            )


def _mounted(stand: Stand, copy: str | None) -> sandbox.Mounted:
    if copy is not None:
        return sandbox.Mounted(stand.point, copy)
    return sandbox.Mounted(stand.point, stand.point if stand.live else None, read_only=not stand.memory)


def _packages(stand: Stand, copy: str) -> tuple[tuple[int, int], ...]:
    """When the databases of packages that lie in a copy were written last, as far as there are any."""
    found = []
    for path in DATABASES:
        place = os.path.normpath(os.path.join("/var", path))
        if place.startswith(f"{stand.point}/"):
            try:
                known = os.lstat(os.path.join(copy, os.path.relpath(place, stand.point)))
            except OSError:
                continue
            found.append((known.st_ino, known.st_mtime_ns))
    return tuple(found)


def _read_changes(step: ReadChanges, site: Site) -> None:
    tree, base = Path(site.path(step.name)), Path(site.path(step.base))
    sync(site.top)
    known = record.trusted_listing(site.record(step.base), base)
    was = known if known is not None else read_tree(base, progress=site.progress)
    if step.before is not None:
        base, was = Path(site.path(step.before)), _read(Path(site.path(step.before)), base, was, site)
    site.listing = _read(tree, base, was, site)
    if not _is_another(was, site.listing):
        raise NothingToDo(
            f"the root is exactly {step.base}" if step.before is None else "the command changed nothing in the system"
        )


def _read(tree: Path, base: Path, listing: Listing, site: Site) -> Listing:
    found = read_changed(base, listing, tree, site.progress, akin=True)
    return found if found is not None else read_tree(tree, progress=site.progress)


def _is_another(one: Listing, other: Listing) -> bool:
    """Whether two trees differ in more than litter."""
    if one.digest == other.digest:
        return False
    entries = [{serialise(entry): entry.path for entry in listing} for listing in (one, other)]
    differ = (entries[0].keys() ^ entries[1].keys()) if entries[0] != entries[1] else set()
    paths = (entries[0].get(each, entries[1].get(each, b"")) for each in differ)
    return any(not any(path == place or path.startswith(place + b"/") for place in LITTER) for path in paths)
