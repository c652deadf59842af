"""What is there, as it is shown: the fields for programs (`--json`), and the lines for people."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from tbdiff.show import size
from tbupdate import layout
from tbupdate.mirrors import way_back
from tbupdate.system import Deployment, System
from tbupdate.upkeep import plan_mending, protections

FORMAT_VERSION = 1
FAILURE_LINES = 5

STAGED, TRIAL, COMMITTED, BAD, READY, UNTRIED = "staged", "trial", "committed", "bad", "ready", "untried"
MEANING = {
    STAGED: "boots next",
    TRIAL: "runs, waits for `commit`",
    COMMITTED: "",
    BAD: "was rolled back",
    READY: "is fetched, waits to be deployed",
    UNTRIED: "was never committed",
}
COLOURS = {STAGED: "yellow", TRIAL: "yellow", COMMITTED: "green", BAD: "red", READY: "cyan", UNTRIED: "bright_black"}


def state_of(system: System, kept: Deployment) -> str:
    """The one word for how a deployment stands."""
    if kept == system.trial:
        return TRIAL
    if kept == system.staged:
        return STAGED
    if kept.id in system.marks.bad:
        return BAD
    if kept == system.ready:
        return READY
    return COMMITTED if system.is_committed(kept) else UNTRIED


def interrupted(system: System) -> bool:
    """Whether the next changing command has something to repair."""
    return not system.busy and bool(plan_mending(system, "").every_step)


def fields(system: System) -> dict[str, Any]:
    """Everything that `status --json` says."""
    return {
        "format_version": FORMAT_VERSION,
        "initialised": system.initialised,
        "booted": _id(system.booted),
        "default": _id(system.default),
        "current": _id(system.current),
        "previous": _id(system.previous),
        "staged": _id(system.staged),
        "trial": _id(system.trial),
        "ready": _id(system.ready),
        "committed": _id(system.good),
        "epoch": system.epoch,
        "busy": system.busy,
        "interrupted": interrupted(system),
        "reboot_needed": reboot_needed(system),
        "default_subvolume": system.default_id,
        "booted_subvolume": system.booted_id,
        "boot": boot_fields(system),
        "volatile": volatile_fields(system),
        "free": {"data": system.space.data, "metadata": system.space.metadata},
        "deployments": [deployment_fields(system, kept) for kept in reversed(system.deployments)],
    }


def boot_fields(system: System) -> dict[str, Any] | None:
    """What the boot chooser was told, for programs; None where none is in use."""
    choice = system.choice
    if system.boot is None or choice is None:
        return None
    said = {"chooser": system.boot.name, "default": choice.default, "trial": choice.trial, "back": choice.back}
    return said | {"tries": tries_left(system)}


def volatile_fields(system: System) -> dict[str, Any] | None:
    """What runs (else boots next), where its root is made anew at each boot, and what of it was saved; for programs."""
    kept = system.booted or system.default
    if kept is None or not system.throws_away(kept):
        return None
    newest, root = kept.newest, system.parent(system.by_number(system.booted_id))
    return {
        "id": kept.id,
        "saved": {"copy": newest.number, "time": written(newest.time)} if newest is not None else None,
        "damaged": [one.number for one in kept.saved if not one.whole],
        "made_of": root.name if root is not None else None,
    }


def written(seconds: float) -> str:
    """A time as it is written everywhere."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def tries_left(system: System) -> int | None:
    """How often what is on trial is still started, unless it is committed."""
    choice, pending = system.choice, system.pending
    if choice is None or pending is None or choice.trial != pending.id:
        return None
    return min(choice.tries, system.tries.get(pending.id, choice.tries))


def deployment_fields(system: System, kept: Deployment) -> dict[str, Any]:
    """One deployment, for programs."""
    known = kept.record
    return {
        "id": kept.id,
        "name": known.name if known else "",
        "release": known.release if known else None,
        "epoch": known.epoch if known else None,
        "state": state_of(system, kept),
        "created": known.created if known else None,
        "committed": system.marks.committed.get(kept.id),
        "bad": system.marks.bad.get(kept.id),
        "pinned": kept.id in system.marks.pinned,
        "protected": protections(system).get(kept.id),
        "image_digest": known.image_digest if known else None,
        "signed": bool(known.signers) if known and known.image_digest else None,
        "signers": list(known.signers) if known else [],
        "tree": known.tree if known else None,
        "base": known.base if known else None,
        "made_by": list(known.made_by) if known else [],
        "kernel": known.kernel if known else None,
        "subvolume": kept.subvolume.id,
        "conflicts": [one.to_fields() for one in kept.conflicts],
    }


def reboot_needed(system: System) -> bool:
    """Whether another root runs than the one that boots next."""
    return system.booted_id is not None and system.booted_id != system.default_id


def _id(deployment: Deployment | None) -> str | None:
    return deployment.id if deployment else None


def summary(system: System) -> list[str]:
    """The lines of `status`: what runs, what boots next, what there is to do."""
    if not system.initialised:
        begun = "begun but not finished" if system.marks.deploying else "not there"
        return [f"The layout is {begun}: run `tb-update init`."]
    rows = []
    if system.booted_id is not None:
        rows.append(("runs", _named(system, system.booted, system.booted_id)))
    rows.append(("boots next", _named(system, system.default, system.default_id)))
    rows.append(("goes back to", _named(system, _back(system), None)))
    if system.boot is not None and system.choice is not None:
        left = tries_left(system)
        rows.append(("boot loader", system.boot.name + (f", {left} tries left" if left is not None else "")))
    rows += _volatile_rows(system)
    rows.append(("free", f"{size(system.space.data)} data, {size(system.space.metadata)} metadata"))
    lines = [f"{what + ':':14}{value}" for what, value in rows]
    return [*lines, "", *advice(system)]


def _volatile_rows(system: System) -> Iterator[tuple[str, str]]:
    kept = system.booted or system.default
    if kept is None or not system.throws_away(kept):
        return
    newest = kept.newest
    said = "no local change is saved"
    if newest is not None:
        said = f"local changes as saved on {written(newest.time)}{_age(time.time() - newest.time)}"
    yield "volatile", f"the root is made anew at each boot; {said}"
    for one in kept.saved:
        if not one.whole:
            yield (
                "damaged",
                f"{layout.SNAPSHOTS}/{one.name}, a copy of saved local changes: it is passed over",
            )


def _age(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count > 0:
            return f", {count} {unit}{'' if count == 1 else 's'} ago"
    return ""


def _back(system: System) -> Deployment | None:
    if system.default is None:
        return system.get(way_back(system, "", system.marks.good))
    if system.pending is not None:
        return system.good
    return system.get(way_back(system, system.default.id, system.marks.good))


def failure_lines(failed: Mapping[str, Any]) -> list[str]:
    """What failed last: why, on which boot, and how that ended."""
    lines = [f"{'failed:':14}{failed['id']}: {failed['reason'] or 'nobody said why'}"]
    if failed["boot"]:
        when = f", which logged last at {failed['logged']}" if failed["logged"] else ""
        lines.append(f"{'':14}on the boot {failed['boot']}{when}")
    elif not failed["log"]:
        lines.append(f"{'':14}none of its boots has left a log")
    shown = failed["log"][-FAILURE_LINES:]
    if shown:
        lines += [f"{'':14}| {line}" for line in shown]
        lines.append(f"{'':14}(more of it: tb-update history)")
    return lines


def advice(system: System) -> list[str]:
    """What there is to do next."""
    lines = []
    if system.busy:
        lines.append("A run is in progress; this is how it stands now.")
    if interrupted(system):
        lines.append("A run was interrupted; the next command that changes something repairs what it left.")
    if system.default is not None and system.default.conflicts:
        lines.append(f"{conflicts_of(system.default)} with the image: see `tb-update changes {system.default.id}`.")
    if system.default is None:
        lines.append("The default subvolume is none of the deployments: see `tb-update doctor`.")
    elif system.trial is not None:
        lines.append(f"{system.trial.id} runs on trial: keep it with `commit`, or go back with `rollback`.")
    elif system.staged is not None and system.booted_id is not None:
        lines.append(f"{system.staged.id} is staged: reboot into it, then keep it with `commit`.")
    elif system.staged is not None:
        lines.append(f"{system.staged.id} is staged: make it final with `commit`, or undo it with `rollback`.")
    elif reboot_needed(system):
        lines.append("Reboot to run what boots next.")
    else:
        lines.append("Nothing is pending.")
    return lines


def table(system: System) -> list[tuple[str, ...]]:
    """The rows of `list`, newest first, under their heads."""
    rows: list[tuple[str, ...]] = [("ID", "RELEASE", "STATE", "CREATED", "NOTES")]
    for kept in reversed(system.deployments):
        known = kept.record
        created = known.created[:16].replace("T", " ") if known else "?"
        release = (known.release or "-") if known else "?"
        rows.append((kept.id, release, state_of(system, kept), created, ", ".join(notes(system, kept))))
    return rows


def notes(system: System, kept: Deployment) -> list[str]:
    """What else is worth knowing of a deployment, in a few words each."""
    names = ((system.booted, "runs"), (system.default, "boots next"), (system.previous, layout.PREVIOUS))
    said = [word for deployment, word in names if deployment == kept]
    if kept.id in system.marks.pinned:
        said.append("pinned")
    if kept.id in system.marks.bad:
        said.append(system.marks.bad[kept.id])
    if kept.conflicts:
        said.append(conflicts_of(kept))
    if kept.record is None:
        said.append("no record")
    elif kept.record.image_digest and not kept.record.signers:
        said.append("unsigned")
    return said


def conflicts_of(kept: Deployment) -> str:
    """How many local changes the image of a deployment disagrees with."""
    count = len(kept.conflicts)
    return f"{count} conflict{'' if count == 1 else 's'} of local changes"


def _named(system: System, deployment: Deployment | None, number: int | None) -> str:
    if deployment is None:
        return "nothing" if number is None else f"subvolume {number}, which is no deployment"
    release = deployment.record.release if deployment.record else None
    state = state_of(system, deployment)
    return f"{deployment.id} ({f'release {release}, ' if release else ''}{state})"
