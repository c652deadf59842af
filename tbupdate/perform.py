"""Do: each step of a plan is one call here. What fails is cleared again by the same plan that repairs a power cut."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tbdiff.entry import Listing, printable
from tbdiff.errors import OUR_FAULT, Failed, NothingToDo, Rejected, Stop
from tbdiff.signals import held_back
from tbdiff.tree import read_tree
from tbupdate import (
    bootsteps,
    datasteps,
    flags,
    fstab,
    history,
    marks,
    notices,
    record,
    resetsteps,
    rootsteps,
    subvolumes,
    syscalls,
    trusted,
)
from tbupdate.bootvocabulary import Choose, SetUpBoot, TakeDownBoot
from tbupdate.datavocabulary import MoveStep, ResetStep
from tbupdate.layout import HISTORY, SNAPSHOTS, STATE, partial
from tbupdate.localchanges import conflicts
from tbupdate.rootvocabulary import RootStep
from tbupdate.site import Site
from tbupdate.steps import (
    AppendHistory,
    ApplyImage,
    CarryLocal,
    ClearMark,
    DeleteRecord,
    DeleteSubvolume,
    Exchange,
    ForgetOwnKeys,
    FreeFstab,
    MakeDirectories,
    MakeReadOnly,
    MakeSnapshot,
    MakeSubvolume,
    Plan,
    ReadTree,
    RemoveDirectories,
    Rename,
    SetDefault,
    SetDefaultPath,
    SetMark,
    Step,
    SyncFileSystem,
    TakeSnapshot,
    TidySnapshot,
    WriteRecord,
)
from tbupdate.syscalls import sync
from tbupdate.upkeep import plan_repair

log = logging.getLogger(__name__)

SWITCHES = (SetDefault, SetDefaultPath, Choose, SetUpBoot, TakeDownBoot)
# Where nothing is switched to, from here on what was made stays.
KEPT = ClearMark(marks.DEPLOYING)


def perform(plan: Plan, site: Site, now: str) -> tuple[str, ...]:
    """Do all of a plan, and return warnings; raise Failed, with everything as before, when it cannot be done."""
    switch = next((n for n, step in enumerate(plan.steps) if isinstance(step, SWITCHES) or step == KEPT), 0)
    step: Step | None = None
    try:
        for step in plan.steps[:switch]:
            do(step, site)
        # From the switch on there is less left to do than there would be to undo.
        with held_back():
            for step in plan.steps[switch:]:
                do(step, site)
            warnings = _perform_afterwards(plan.afterwards, site) + tuple(site.remarks)
            # Each is said once, however many plans are performed here.
            site.remarks.clear()
            return warnings
    except BaseException as error:
        left = _clear(site, plan, now)
        if not isinstance(error, NothingToDo):
            _note_failure(site, plan, error, now)
        if isinstance(error, OSError):
            raise _explain(error, step, left) from error
        raise


def _perform_afterwards(steps: tuple[Step, ...], site: Site) -> tuple[str, ...]:
    for number, step in enumerate(steps):
        try:
            do(step, site)
        except (OSError, Stop) as error:
            _remember_events(steps[number:], site)
            why = error.strerror if isinstance(error, OSError) else error
            return (
                f"could not {step} ({why}). What was asked for is done; "
                "the names in snapshots/ and the history follow with the next command that finds room.",
            )
    return ()


def _remember_events(steps: tuple[Step, ...], site: Site) -> None:
    """What could not be written to the history is kept as a mark, for which there is room on a full disk."""
    for step in steps:
        if isinstance(step, AppendHistory):
            try:
                marks.put(site.path(""), f"{marks.LATE}.{secrets.token_hex(3)}", history.brief(step.event))
            except OSError as error:
                log.warning("%s is lost: %s", step, error.strerror)


def _clear(site: Site, plan: Plan, now: str) -> str:
    """Clear what was begun, or finish it where the switch was made; return how it stands now, as a sentence."""
    with held_back():
        try:
            for step in plan_repair(site.survey(), now).every_step:
                if not isinstance(step, AppendHistory):
                    do(step, site)
            default = site.survey().default
        except (OSError, Stop) as error:
            return f"What was begun could not be cleared yet ({error}); the next command does it."
    if default is not None and default.id == plan.deployment and any(isinstance(step, SWITCHES) for step in plan.steps):
        return f"{default.id} boots next all the same."
    return "The system is as it was before."


def _note_failure(site: Site, plan: Plan, error: BaseException, now: str) -> None:
    """Keep in the history how it ended, where there is room for it."""
    for step in plan.afterwards:
        if isinstance(step, AppendHistory):
            more = step.event.more | {"why": str(error)}
            try:
                do(AppendHistory(history.Event(now, step.event.event, plan.deployment, "failed", more)), site)
            except OSError:
                # The caller is told why it failed; a full disk must not hide that behind a second reason.
                return


def _explain(error: OSError, step: Step | None, left: str) -> Failed:
    remedy = {
        errno.ENOSPC: "Remove old deployments (tb-update prune) or other data, then try again.",
        errno.EDQUOT: "Raise or disable the Btrfs quota, then try again.",
        errno.EROFS: "The file system is read-only: see `dmesg` for why.",
        errno.ENOTEMPTY: "It holds other subvolumes: move or delete these yourself.",
        errno.EPERM: "Run it as root; if it was, look for files that are locked: lsattr, chattr -i.",
    }
    return Failed(
        f"{error.strerror or error}, at the step: {step}. {left}",
        remedy.get(error.errno or 0, "See `dmesg` for why; and: tb-update doctor"),
    )


def do(step: Step, site: Site) -> None:
    """Perform one step."""
    log.info("%s", step)
    match step:
        case SyncFileSystem():
            sync(site.top)
        case SetMark(mark, value):
            marks.put(site.path(""), mark, value)
        case ClearMark(mark):
            marks.remove(site.path(""), mark)
        case AppendHistory(event):
            _append_history(_named(event, site), site)
        case ForgetOwnKeys():
            trusted.forget_own(os.path.join(site.top, STATE))
        case DeleteRecord(deployment):
            record.remove(site.record(deployment))
        case (
            MakeDirectories()
            | RemoveDirectories()
            | TidySnapshot()
            | FreeFstab()
            | ApplyImage()
            | ReadTree()
            | WriteRecord()
            | CarryLocal()
        ):
            _do_with_trees(step, site)
        case (
            MakeSubvolume()
            | MakeSnapshot()
            | TakeSnapshot()
            | SetDefault()
            | SetDefaultPath()
            | MakeReadOnly()
            | DeleteSubvolume()
            | Rename()
            | Exchange()
        ):
            _do_with_subvolumes(step, site)
        case _ if isinstance(step, RootStep):
            rootsteps.do(step, site)
        case _ if isinstance(step, MoveStep):
            datasteps.do(step, site)
        case _ if isinstance(step, ResetStep):
            resetsteps.do(step, site)
        case _:
            bootsteps.do(step, site)


def _append_history(event: history.Event, site: Site) -> None:
    path = os.path.join(site.top, STATE, HISTORY)
    late = marks.read(site.path("")).late
    for name, said in sorted(late.items(), key=lambda one: one[1]):
        history.append(path, history.from_brief(said))
        marks.remove(site.path(""), f"{marks.LATE}.{name}")
    history.append(path, event)
    notices.tell_event(event)


def _named(event: history.Event, site: Site) -> history.Event:
    """The event, with what was not known before the image was read: its digest, and where local changes conflict."""
    more = dict(event.more)
    if more.get("image_digest") == "" and site.image is not None:
        more["image_digest"] = site.image.digest
    if event.event == "deploy" and event.deployment is not None:
        more["conflicts"] = [f"/{printable(one.path)}" for one in conflicts.read(site.record(event.deployment))]
    return replace(event, more=more)


def _do_with_subvolumes(step: Step, site: Site) -> None:
    match step:
        case MakeSubvolume(name):
            subvolumes.create(site.path(name))
        case MakeSnapshot(source, name, read_only):
            subvolumes.snapshot(site.path(source), site.path(name), read_only=read_only)
        case TakeSnapshot(path, name, read_only):
            subvolumes.snapshot(os.path.join(site.top, path), site.path(name), read_only=read_only)
        case SetDefaultPath(path):
            subvolumes.set_default(os.path.join(site.top, path))
        case SetDefault(name):
            subvolumes.set_default(site.path(name))
        case MakeReadOnly(name):
            subvolumes.make_read_only(site.path(name))
        case DeleteSubvolume(name):
            subvolumes.delete(site.path(name))
        case Rename(old, new):
            _in_snapshots(site, syscalls.rename, old, new)
        case Exchange(one, other):
            _in_snapshots(site, syscalls.exchange, one, other)


def _do_with_trees(step: Step, site: Site) -> None:
    match step:
        case MakeDirectories():
            for name in (SNAPSHOTS, STATE):
                # Old systems hold old faults, some of them setuid: nobody but root may reach into them.
                os.makedirs(os.path.join(site.top, name), mode=0o700, exist_ok=True)
        case RemoveDirectories():
            os.rmdir(site.path(""))
            shutil.rmtree(os.path.join(site.top, STATE))
        case TidySnapshot():
            _tidy(step, site)
        case FreeFstab(name):
            fstab.free(site.path(name))
        case ApplyImage():
            _apply(step, site)
        case ReadTree(name):
            _read(name, site)
        case WriteRecord(known):
            _write_record(known, site)
        case CarryLocal():
            from tbupdate.localchanges import carriage  # noqa: PLC0415 - its memory is not needed beside an image's

            carriage.perform(step, site)


def _in_snapshots(site: Site, act: Callable[[int, str, str], None], one: str, other: str) -> None:
    directory = os.open(site.path(""), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        act(directory, one, other)
    finally:
        os.close(directory)


def _apply(step: ApplyImage, site: Site) -> None:
    if site.image is None:
        raise Failed("there is no image to apply", OUR_FAULT)
    known = _base_listing(step.name, step.base, site) if step.base is not None else None

    def expect(target: Listing) -> None:
        if step.kernel is not None:
            bootsteps.require_room(site, target, step.kernel)

    if known is not None and step.base is not None and not _came_by_image(step.base, site):
        flags.unlock_tree(site.path(step.name), known)
    try:
        site.listing = site.image.apply(Path(site.path(step.name)), known, site.progress, expect)
    except Failed as failure:
        # What it says of the half-changed tree is true of a copy only, and nobody sees that again.
        cause = failure.__cause__
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__
        if cause is not None:
            raise cause from None
        raise


def _came_by_image(id: str, site: Site) -> bool:
    """Whether no file of a deployment can be locked (`chattr +i`): images carry no flags."""
    known = record.read(site.record(id))
    return known is not None and known.image_digest is not None


def _base_listing(name: str, base: str, site: Site) -> Listing | None:
    """The listing of `base`, of which `name` is a fresh snapshot: as written down, if nothing was changed since."""
    known = record.read(site.record(base))
    if known is None or known.tree is None:
        return None
    if known.seal == subvolumes.seal(site.path(base)):
        listing = record.read_listing(site.record(base), known.tree)
        if listing is not None:
            return listing
    found = read_tree(Path(site.path(name)), progress=site.progress)
    if found.digest.hex() != known.tree:
        raise Rejected(
            f"{base}, which the image starts from, was changed after it was deployed; nothing was changed now",
            f"See what differs with `tb-update verify {base}`, and deploy a full image.",
        )
    return found


def _read(name: str, site: Site) -> None:
    site.listing = read_tree(Path(site.path(name)), progress=site.progress)


def _write_record(known: record.Record, site: Site) -> None:
    if site.listing is None:
        raise Failed("the tree of the new deployment was not read", OUR_FAULT)
    found = site.listing
    # Before anything is sealed it must be on the disk: what is still to be written would break the seal.
    sync(site.top)
    filled = known.model_copy(
        update={
            "tree": found.digest.hex(),
            "entries": len(found),
            "size": found.content_size,
            "seal": subvolumes.seal(site.path(partial(known.id))),
            "kernel": known.kernel or record.kernel_of(found),
            "image_digest": known.image_digest or (site.image.digest if site.image is not None else None),
        }
    )
    record.write(site.record(known.id), filled, found)


def _tidy(step: TidySnapshot, site: Site) -> None:
    tree = site.path(step.name)
    for name in step.own:
        if os.path.isdir(os.path.join(tree, name)):
            shutil.rmtree(os.path.join(tree, name))
    for stub in step.stubs:
        original = os.stat(os.path.join(site.top, step.source, stub), follow_symlinks=False)
        place = os.path.join(tree, stub)
        before = os.stat(os.path.dirname(place))
        # In a snapshot the stub of a subvolume is a directory of no inode of its own; nothing can be mounted on it.
        os.rmdir(place)
        os.mkdir(place, 0o700)
        os.chown(place, original.st_uid, original.st_gid)
        os.chmod(place, stat.S_IMODE(original.st_mode))
        os.utime(os.path.dirname(place), ns=(before.st_atime_ns, before.st_mtime_ns))
