"""Decide how a device goes back to a deployment as that was deployed, without what was changed since. Pure."""

from __future__ import annotations

from tbdiff.errors import Rejected
from tbupdate import booting, carrying, marks, saving, userdata
from tbupdate.boot.chooser import Choice
from tbupdate.datavocabulary import KeepMounts
from tbupdate.history import Event
from tbupdate.layout import SNAPSHOTS, aside
from tbupdate.mirrors import held_names, settle, way_back
from tbupdate.planning import find, free_roots, names_in_use, refuse_during_trial, refuse_foreign_names, require_layout
from tbupdate.rootvocabulary import KeepCarried
from tbupdate.steps import (
    AppendHistory,
    DeleteSubvolume,
    Exchange,
    ForgetOwnKeys,
    MakeSnapshot,
    Plan,
    Rename,
    SetMark,
    Step,
    SyncFileSystem,
)
from tbupdate.system import Deployment, System
from tbupdate.userdata import Data


def find_target(system: System, named: str | None) -> Deployment:
    """The deployment that is meant: the named one, else the first of those that are kept."""
    require_layout(system)
    if named is not None:
        return find(system, named)
    if not system.deployments:
        raise Rejected("no deployment is kept that one could go back to; nothing was changed", "See: tb-update doctor")
    return system.deployments[0]


def plan_reset(
    system: System, there: Deployment, now: str, data: tuple[Data, ...] = (), keep_mounts: str | None = None
) -> Plan:
    """A fresh root of a deployment boots next; its other roots, with all that was changed in them, go.

    `data` is user data that is emptied; `keep_mounts` names the root whose /etc/fstab is kept.
    """
    require_layout(system)
    refuse_foreign_names(system)
    refuse_during_trial(system)
    used = names_in_use(system)
    old = [root for root in there.roots if root.name not in used]
    for root in old:
        if root.nested:
            raise Rejected(
                f"{SNAPSHOTS}/{root.name} holds the subvolume {root.nested[0]}; nothing was changed",
                "Move that out of it, or delete it yourself.",
            )
    # What is not used changes places before: the hook in the initramfs must not find it once the boot loader was told.
    held, unfinished = held_names(system), aside("reset", there.id)
    fresh = old[0].name if old else next(name for name in free_roots(there.id) if name not in held)
    held[fresh] = there.id
    # Nor is anything to be brought to it that was changed since a deploy.
    steps: list[Step] = [
        *carrying.forget_all(system),
        MakeSnapshot(there.id, unfinished),
        *((KeepMounts(keep_mounts, unfinished),) if keep_mounts is not None else ()),
        *userdata.prepare(data, system, there.id, unfinished),
        SyncFileSystem(),
        *booting.add_missing(system, there),
    ]
    good, choice = system.marks.good, booting.on_trial(system, there.id)
    if system.is_committed(there):
        good, choice = there.id, Choice(there.id, back=way_back(system, there.id, there.id))
    else:
        steps += [*booting.give_tries(system, there.id), SyncFileSystem()]
    # Before the switch: what was reset must not go on with them, wherever it is cut.
    steps += [ForgetOwnKeys()]
    steps += [Exchange(fresh, unfinished) if old else Rename(unfinished, fresh), SyncFileSystem()]
    # Nor what was saved; but where it is made anew at each boot, it has to be with what was brought to it just now.
    if system.choice is not None and (keep_mounts is not None or data):
        steps += [KeepCarried(there.id, fresh, saving.next_number(system, there)), SyncFileSystem()]
    steps += saving.forget(there)
    steps += booting.switch(system, fresh, choice)
    if good != system.marks.good:
        steps += [SetMark(marks.GOOD, there.id), SyncFileSystem()]
    names = settle(held, fresh, way_back(system, there.id, good), used)
    more = {"from": system.default.id if system.default else None, "emptied": [one.subvolume for one in data]}
    event = Event(now, "reset", there.id, more=more)
    left = booting.drop_tries(system, system.staged) if system.staged != there else ()
    notes = []
    if keep_mounts is not None:
        notes.append(f"/etc/fstab stays as it is here: that of {there.id} mounts less.")
    if data and system.booted_id is not None:
        notes.append("What is in use is deleted after the reboot; until then programs still see the old data.")
    if any(root.name in used for root in there.roots) and system.booted_id is not None:
        notes.append("The root that runs is removed by the first deploy, commit or prune after the reboot.")
    gone = (DeleteSubvolume(unfinished),) if old else ()
    emptied = userdata.empty(data, system, there.id)
    return Plan(
        there.id, tuple(steps), (*emptied, *gone, *left, *names, SyncFileSystem(), AppendHistory(event)), tuple(notes)
    )
