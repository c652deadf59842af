"""Decide what a plan does to what boots: entries, tries, the switch. Pure; where no chooser is used, it is less."""

from __future__ import annotations

import re
from dataclasses import replace

from tbdiff.errors import NothingToDo
from tbupdate import marks
from tbupdate.boot.chooser import Choice
from tbupdate.boot.kernel import Overrides
from tbupdate.bootvocabulary import (
    AddEntry,
    Choose,
    CollectKernels,
    DropTries,
    ForgetEntry,
    MakeTries,
    PutKernel,
    RequireBootable,
    SetUpBoot,
)
from tbupdate.journal import Tail
from tbupdate.record import Record
from tbupdate.steps import Plan, SetDefault, SetMark, Step, SyncFileSystem
from tbupdate.system import Boot, Deployment, System


def kernel(system: System, record: Record) -> Overrides | None:
    """Where the boot files are that are to be brought to /boot; None where it is left alone."""
    return record.boot_files if system.choice is not None else None


def require(system: System, name: str, record: Record) -> tuple[Step, ...]:
    """What is deployed must be able to boot."""
    return (RequireBootable(name, record.boot_files),) if system.choice is not None else ()


def add(system: System, record: Record) -> tuple[Step, ...]:
    """Kernel and entry of a deployment, chosen by nothing yet."""
    if system.boot is None or system.boot.choice is None:
        return ()
    return (PutKernel(record.id, record.boot_files), entry(system.boot, record))


def add_missing(system: System, kept: Deployment) -> tuple[Step, ...]:
    """The same for one that was made before there was a chooser, or whose entry or kernel somebody removed."""
    if system.boot is None or system.choice is None or kept.id in system.boot.entries:
        return ()
    record = kept.record or Record(id=kept.id, created="")
    # What was never deployed has no tree that is known; its kernel is where its installer put it.
    installed = record.tree is None
    return (
        RequireBootable(kept.id, record.boot_files, installed),
        PutKernel(kept.id, record.boot_files, installed),
        entry(system.boot, record),
    )


def add_lost(system: System) -> tuple[Step, ...]:
    """The same for all that the boot chooser may boot."""
    lost = (system.get(deployment) for deployment in sorted(needed(system)))
    return tuple(step for kept in lost if kept is not None for step in add_missing(system, kept))


def set_up(system: System, record: Record) -> tuple[Step, ...]:
    """The first entry, of an installed system that was not deployed; then the boot loader comes to know of it."""
    if system.boot is None:
        return ()
    installed = (
        RequireBootable(record.id, record.boot_files, installed=True),
        PutKernel(record.id, record.boot_files, installed=True),
    )
    return (*installed, entry(system.boot, record), SetUpBoot(Choice(record.id)))


def entry(boot: Boot, record: Record) -> AddEntry:
    """The entry of a deployment, but for its kernel: that has to be found first."""
    title = re.sub(r"[^A-Za-z0-9 ._+~:@-]", "", f"{record.name} {record.release or ''}").strip() or record.id
    said = f"{boot.options} " if boot.options else ""
    where = f"root=UUID={boot.root} rootfstype=btrfs ro"
    return AddEntry(record.id, title, f"{where} {said}tb.id={record.id} tb.boot=UUID={boot.partition}")


def give_tries(system: System, deployment: str) -> tuple[Step, ...]:
    """The tries of a deployment that nobody knows yet."""
    return (MakeTries(deployment, system.boot.tries),) if system.boot is not None and system.choice is not None else ()


def drop_tries(system: System, kept: Deployment | None) -> tuple[Step, ...]:
    """No tries are counted of what was kept, or left."""
    return (DropTries(kept.id),) if kept is not None and kept.id in system.tries else ()


def on_trial(system: System, deployment: str) -> Choice:
    """To be tried, while what was committed last stays what boots otherwise."""
    known = system.good or system.default
    if system.boot is None or known is None or known.id == deployment:
        return Choice(deployment)
    return Choice(known.id, deployment, system.boot.tries, known.id)


def switch(system: System, root: str, choice: Choice) -> tuple[Step, ...]:
    """THE SWITCH: the choice on the boot partition, which the default subvolume follows, or that alone."""
    if system.choice is None:
        return (SetDefault(root), SyncFileSystem())
    return (Choose(choice), SetDefault(root, follows=True), SyncFileSystem())


def keep(system: System, deployment: str, back: str | None) -> tuple[Step, ...]:
    """What was tried becomes what boots in any case."""
    return (Choose(Choice(deployment, back=back)),) if system.choice is not None else ()


def stop_counting(system: System) -> tuple[Step, ...]:
    """Stop a counter of the boot loader's that a cut, or the hook, has left running for nobody."""
    choice = system.choice
    if choice is None or choice.trial is not None or choice.tries == 0:
        return ()
    return (Choose(Choice(choice.default, back=choice.back)),)


def mark_bad(kept: Deployment, reason: str) -> tuple[Step, ...]:
    """Remember that a deployment failed, and its tree even when the deployment is gone."""
    tree = kept.record.tree if kept.record is not None else None
    bad = SetMark(f"{marks.BAD}.{kept.id}", reason)
    return (bad, SetMark(marks.FAILED, f"{tree} {kept.id}: {reason}")) if tree else (bad,)


def fallen(system: System) -> Deployment | None:
    """The deployment that was tried and failed: the boot loader or the hook went back from it by itself."""
    if system.boot is None or system.choice is None:
        return None
    choice, booted = system.choice, system.booted
    if choice.trial is not None and choice.tries == 0 and (booted is None or booted.id != choice.trial):
        return system.get(choice.trial)
    noted = system.get(system.boot.note.partition(":")[0])
    return noted if noted is not None and noted not in (system.default, booted) else None


def why_fallen(system: System, kept: Deployment, log: Tail) -> str:
    """What is known of why it failed, also by how its last boot ended."""
    if log.panic:
        return f"its kernel panicked: {log.panic}"
    name, _, said = system.boot.note.partition(": ") if system.boot is not None else ("", "", "")
    if name == kept.id and said:
        return said
    left = system.tries.get(kept.id, 0)
    tries = system.boot.tries if system.boot is not None else 0
    if left >= tries:
        return "its kernel came to nothing: the initramfs was never reached"
    return "it started and was never committed: it hung, crashed or lost power"


def forget(system: System, deployment: str) -> tuple[Step, ...]:
    """Entry and tries of a deployment that goes."""
    steps: list[Step] = []
    if system.choice is not None:
        # Its entry may have been written just before the cut; one that is not there is no error.
        steps.append(ForgetEntry(deployment))
    if deployment in system.tries:
        steps.append(DropTries(deployment))
    return tuple(steps)


def collect(system: System) -> tuple[Step, ...]:
    """Kernels that no entry needs any more."""
    return (CollectKernels(),) if system.choice is not None else ()


def needed(system: System) -> dict[str, str]:
    """What the boot chooser may still boot, and why it must stay."""
    choice = system.choice
    if choice is None:
        return {}
    reasons = (
        (choice.default, "boots when a trial fails"),
        (choice.trial, "is tried"),
        (choice.back, "is the way back"),
    )
    return {deployment: why for deployment, why in reversed(reasons) if deployment is not None}


def plan_give_back(system: System, now: str) -> Plan:
    """A boot that went well costs no try, even when nobody has committed it yet."""
    trial, boot, choice = system.trial, system.boot, system.choice
    if trial is None or boot is None or choice is None or choice.trial != trial.id:
        raise NothingToDo("nothing is on trial")
    left = min(choice.tries + 1, boot.tries)
    held = min(system.tries.get(trial.id, 0) + 1, boot.tries)
    if (left, held) == (choice.tries, system.tries.get(trial.id)):
        raise NothingToDo(f"{trial.id} has all its tries")
    # The hook's count needs room to be made; on a disk that is full that try stays lost.
    return Plan(trial.id, (Choose(replace(choice, tries=left)),), (MakeTries(trial.id, held), SyncFileSystem()))
