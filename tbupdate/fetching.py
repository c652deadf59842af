"""Decide how an image is made ready before it may be deployed, and how what is ready is taken up. Pure."""

from __future__ import annotations

from tbdiff.errors import Rejected
from tbdiff.manifest import Manifest
from tbupdate import marks, upkeep
from tbupdate.history import Event
from tbupdate.offer import Offer, image_facts, notes_on_signers
from tbupdate.planning import make, notes_on_staged, refuse_during_trial, refuse_foreign_names, require_layout, take_up
from tbupdate.steps import AppendHistory, ClearMark, Plan, SetMark, SyncFileSystem
from tbupdate.system import System


def plan_fetch(system: System, manifest: Manifest, offer: Offer, trusted: str) -> Plan:
    """An image becomes a new deployment beside the others, which waits to be switched to.

    `trusted` stands for the keys that are trusted now: with others it has to be verified again.
    """
    record, steps = make(system, manifest, offer)
    event = Event(offer.now, "fetch", offer.id, more=image_facts(manifest, offer, record.base))
    kept = (SetMark(marks.READY, f"{offer.id} {trusted}"), SyncFileSystem(), ClearMark(marks.DEPLOYING))
    return Plan(offer.id, (*steps, SyncFileSystem(), *kept), (AppendHistory(event),), notes_on_signers(offer))


def plan_take_up(system: System, now: str) -> Plan:
    """What was fetched boots next. Whatever cuts that leaves it as it was, or switched to."""
    require_layout(system)
    refuse_foreign_names(system)
    refuse_during_trial(system)
    ready = system.ready
    if ready is None or ready.record is None:
        raise Rejected(
            "nothing that was fetched waits to be deployed; nothing was changed",
            "To fetch what is offered: tb-update upgrade",
        )
    if ready.record.epoch < system.epoch:
        raise Rejected(
            f"what was fetched is of epoch {ready.record.epoch}, below {system.epoch} that was reached here; "
            "nothing was changed",
            "It was withdrawn, most likely for a fault: wait for a newer one.",
        )
    prepare, switch, afterwards = take_up(system, ready.record)
    event = Event(
        now, "deploy", ready.id, more={"release": ready.record.release, "signers": list(ready.record.signers)}
    )
    return Plan(
        ready.id,
        (SetMark(marks.DEPLOYING, ready.id), *prepare, *switch),
        (*afterwards, SyncFileSystem(), AppendHistory(event)),
        notes_on_staged(system),
    )


def plan_drop(system: System, now: str) -> Plan | None:
    """What was fetched goes, for it is offered no longer, or was declined; None if there is nothing."""
    ready = system.ready
    if ready is None:
        return None
    steps = (ClearMark(marks.READY), *upkeep.removal(system, ready), SyncFileSystem())
    return Plan(None, steps, (AppendHistory(Event(now, "remove", ready.id)),))
