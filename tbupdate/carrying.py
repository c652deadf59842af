"""Decide which local changes come from where to where, and when what that needed may go. Pure, like `planning`."""

from __future__ import annotations

from tbdiff.errors import NothingToDo, Rejected
from tbupdate import marks, moving, saving
from tbupdate.datavocabulary import Isolate, Move, RenewOutside, TellLate
from tbupdate.layout import CARRIED, carried, coming, kept_root
from tbupdate.rootvocabulary import KeepCarried
from tbupdate.steps import (
    CarryLocal,
    ClearMark,
    DeleteSubvolume,
    Exchange,
    MakeSnapshot,
    Plan,
    Rename,
    Step,
    SyncFileSystem,
    TakeSnapshot,
    TidySnapshot,
)
from tbupdate.system import Deployment, System


def carry(system: System, new: str, base: Deployment | None) -> tuple[Step, ...]:
    """The local changes of what runs (else of what boots next) come to the root of `new`, which starts from `base`.

    How that root was then is kept until the new one has booted: what is changed until then is brought as well.
    """
    source, root = system.booted, system.by_number(system.booted_id)
    if source is None or root is None:
        source, root = system.default, system.default_root
    if source is None or root is None:
        return ()
    first, origin = _origin(system, source), _origin(system, source, base)
    apart = _installed(first) and (base is None or _origin(system, base) != first)
    bring = CarryLocal(origin.id, carried(new), kept_root(new), new, own=apart)
    # Of a root that is thrown away, what was saved.
    there = source.template if system.throws_away(source) else root.name
    kept = (KeepCarried(new, kept_root(new), 1),) if system.choice is not None else ()
    return (*wait(there, new), bring, *kept)


def refuse_before_boot(system: System) -> None:
    """What is written to the installed root that still runs follows to what `init` made, and to nothing else."""
    if system.marks.installed is not None and system.booted_id is not None and system.booted is None:
        raise Rejected(
            "the installed root still runs, and what was written to it since `init` follows at the reboot; "
            "nothing was changed",
            "Reboot first, then try again.",
        )


def wait(there: str, new: str) -> tuple[Step, ...]:
    """How a root is now is kept until `new` has booted: what is changed in it from now on is brought then."""
    return (MakeSnapshot(there, carried(new), read_only=True),)


def _origin(system: System, kept: Deployment, known: Deployment | None = None) -> Deployment:
    """The deployment that came by an image, or `init`: what was frozen since then has local changes in it.

    Or the one that an image starts from, which is `known` to who made that image.
    """
    frozen = kept.record is not None and kept.record.made_by and kept != known
    base = system.get(kept.record.base) if kept.record is not None and frozen else None
    return kept if base is None else _origin(system, base, known)


def _installed(kept: Deployment) -> bool:
    """Whether `init` found it: of what it holds nobody knows what its image had."""
    return kept.record is not None and not kept.record.image_digest and not kept.record.made_by


def finish(system: System, *, anyhow: bool = False) -> tuple[Step, ...]:
    """What was changed between the deploy and the boot of what was deployed is brought; then no more is awaited.

    `anyhow`: on an image of another system nothing boots.
    """
    default = system.default
    if default is None or not (anyhow or system.booted == default) or carried(default.id) not in system.subvolumes:
        return ()
    late = _late(system, default)
    lost = _tell(system, default, tuple(moving.outside(system))) if late else ()
    awaited = (ClearMark(marks.INSTALLED),) if system.marks.installed is not None else ()
    # A second snapshot that a cut run left is cleared by the repair itself.
    made = (DeleteSubvolume(coming(carried(default.id))),) if late else ()
    return (*late, *lost, DeleteSubvolume(carried(default.id)), *made, *awaited)


def plan_carry(system: System) -> Plan:
    """At the end of a session: what was changed since the deploy comes to what boots next."""
    default = system.default
    late = _late(system, default) if default is not None and default != system.booted else ()
    if default is None or not late:
        raise NothingToDo("no deployment waits for local changes")
    then, now = carried(default.id), coming(carried(default.id))
    data = _renew(system, default) if system.marks.installed is not None else ()
    return Plan(
        default.id, (*late, *data, SyncFileSystem(), Exchange(then, now), DeleteSubvolume(now), SyncFileSystem())
    )


def _renew(system: System, default: Deployment) -> tuple[Step, ...]:
    """What was moved out of the installed root, which still runs, is moved out again: nobody has used it so far."""
    source, now = system.marks.installed or "", coming(carried(default.id))
    moves = moving.outside(system)
    steps: list[Step] = []
    for number, move in enumerate(move for move, unused in moves.items() if unused):
        name = moving.aside(number, default.id)
        inside = tuple(one for one in moving.nested(system, source) if one.startswith(f"{move.place}/"))
        steps.append(MakeSnapshot(now, name))
        steps += [TidySnapshot(name, source, (), inside)] if inside else []
        steps += [Isolate(name, move.place), RenewOutside(name, move), DeleteSubvolume(name)]
    return (*steps, *_tell(system, default, tuple(move for move, unused in moves.items() if not unused)))


def _tell(system: System, default: Deployment, moves: tuple[Move, ...]) -> tuple[Step, ...]:
    if system.marks.installed is None or not moves:
        return ()
    then = carried(default.id)
    return (TellLate(then, coming(then), system.marks.installed, moves),)


def _late(system: System, default: Deployment) -> tuple[Step, ...]:
    then = system.subvolumes.get(carried(default.id))
    source, root = system.parent(then), system.default_root
    if then is None or root is None:
        return ()
    now, since = coming(then.name), then.name
    taken: Step
    if system.marks.installed is not None:
        # `init` was run in it, so it is the root of no deployment; but that which `init` made is what it was then.
        base, taken = default, TakeSnapshot(system.marks.installed, now, read_only=True)
    else:
        owner = system.owner(source)
        # What was not saved of a root that is thrown away is lost; what was saved came to its place then.
        if source is None or owner is None or system.throws_away(owner):
            return ()
        base, taken = owner, MakeSnapshot(source.name, now, read_only=True)
    return (taken, *saving.land(system, default, root.name, lambda to: CarryLocal(base.id, now, to, default.id, since)))


def follow(system: System, source: Deployment | None, there: Deployment, root: str) -> tuple[Step, ...]:
    """What goes both ways comes along to an earlier deployment, whose root is then `root`."""
    if source is None or source == there or not source.roots:
        return ()
    snapshot = coming(carried(there.id))
    taken = source.template if system.throws_away(source) else source.roots[0].name
    bring = saving.land(system, there, root, lambda to: CarryLocal(source.id, snapshot, to, there.id, back=True))
    return (MakeSnapshot(taken, snapshot, read_only=True), *bring, DeleteSubvolume(snapshot))


def forget(system: System, deployment: str) -> tuple[Step, ...]:
    """Nothing more is brought to a deployment."""
    names = (carried(deployment), coming(carried(deployment)))
    return tuple(DeleteSubvolume(name) for name in names if name in system.subvolumes)


def forget_all(system: System) -> tuple[Step, ...]:
    """Nothing more is brought to any deployment that there was before."""
    return tuple(DeleteSubvolume(name) for name in sorted(system.subvolumes) if name.endswith(CARRIED))


def pass_on(system: System, staged: Deployment | None, new: str) -> tuple[Step, ...]:
    """What is still to be brought to what was staged is brought to what was made of that."""
    if staged is None or carried(staged.id) not in system.subvolumes:
        return ()
    return (Rename(carried(staged.id), carried(new)),)


def clear(system: System, doing: str | None) -> tuple[Step, ...]:
    """What a cut run left: snapshots that nobody needs any more."""
    if system.default is None:
        return ()
    default = system.default.id
    wanted = {carried(default)}
    # What a run was about to make is cleared with the rest of that.
    passed = {carried(doing), coming(carried(doing))} if doing is not None and doing != default else set()
    ours = (name for name in sorted(system.subvolumes) if name.endswith((CARRIED, coming(CARRIED))))
    return tuple(DeleteSubvolume(name) for name in ours if name not in wanted | passed)
