"""What the decisions of `rollout` do to the records: offers, what devices report, and how a rollout goes on.

Each function works in the transaction of its session. Locks are taken in one order - rollout, device, assignment,
counts - so that no two processes wait for each other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from tbserver import devices, rollout, tallies
from tbserver.records import Artifact, Assignment, Attribute, AutoConfirm, Device, Release, Report, Rollout
from tbserver.refusals import NotThere, Over
from tbserver.rollout import Answer, Member, Plan, Stage, Standing, State
from tbupdate.protocol import Feedback, details

ROLLBACK = "rollback"
ZONE, TYPE = "timezone", "device_type"
_LARGEST = 1 << 62


@dataclass(frozen=True)
class Offer:
    """What a device is to do: its assignment, the plan, the release, and the images that lead there."""

    assignment: Assignment
    plan: Plan
    release: Release | None
    artifacts: tuple[Artifact, ...]

    @property
    def mark(self) -> str:
        """What changes when it is to be handled in another way."""
        one = self.assignment
        return f"{one.attempts}-{self.plan.handling}-{int(one.asks)}"


def plan_of(row: Rollout) -> Plan:
    """The plan of a rollout."""
    return Plan.model_validate(row.plan)


def standing_of(row: Rollout) -> Standing:
    """How far a rollout is."""
    return Standing(State(row.state), row.phase, row.reached, row.reason)


def hold(session: Session, rollout_id: int, state: State) -> Rollout | None:
    """The rollout, if it is in that state and no other process is at it."""
    row = session.scalar(select(Rollout).where(Rollout.id == rollout_id).with_for_update(skip_locked=True))
    return row if row is not None and row.state == state else None


def present(session: Session, device: Device) -> Assignment | None:
    """What a device is at."""
    if device.assignment_id is None:
        return None
    one = session.get(Assignment, device.assignment_id)
    return one if one is not None and Stage(one.state) in rollout.OPEN else None


def offer_of(session: Session, device: Device, one: Assignment) -> Offer:
    """All that is to be told of an assignment."""
    row = session.get_one(Rollout, one.rollout_id)
    release = session.get(Release, one.release_id) if one.release_id is not None else None
    images = () if one.command else images_for(session, device, one.release_id)
    return Offer(one, plan_of(row), release, images)


def images_for(session: Session, device: Device, release_id: int | None) -> tuple[Artifact, ...]:
    """The images that lead a device to a release: from what it runs, the smallest first; then the full one."""
    found = session.scalars(
        select(Artifact)
        .where(Artifact.release_id == release_id, or_(Artifact.base == "", Artifact.base == (device.tree or "")))
        .order_by(Artifact.base == "", Artifact.size, Artifact.id)
    )
    return tuple(found)


def waiting(session: Session, device: Device) -> Sequence[Assignment]:
    """What a device waits for, the newest first."""
    query = select(Assignment).where(Assignment.device_id == device.id, Assignment.state == Stage.WAITING)
    return session.scalars(query.order_by(Assignment.id.desc())).all()


def judge(session: Session, device: Device, one: Assignment, now: int) -> Answer:
    """Whether a device gets what it is assigned, and why or why not."""
    row = session.get_one(Rollout, one.rollout_id)
    query = select(Attribute.key, Attribute.value).where(
        Attribute.device_id == device.id, Attribute.key.in_([ZONE, TYPE])
    )
    said = {key: value for key, value in session.execute(query)}
    release = session.get(Release, one.release_id) if one.release_id is not None else None
    busy = present(session, device)
    other = ""
    if busy is not None and busy.id != one.id and Stage(busy.state) is not Stage.LOST:
        other = f"rollout {session.scalar(select(Rollout.name).where(Rollout.id == busy.rollout_id))}"
    member = Member(
        phase=one.phase,
        stage=Stage(one.state),
        attempts=one.attempts,
        zone=said.get(ZONE, ""),
        other=other,
        unfit=rollout.misfit(release.device_types, said.get(TYPE, "")) if release else "",
        has_image=bool(one.command) or bool(images_for(session, device, one.release_id)),
    )
    return rollout.answer(plan_of(row), standing_of(row), member, now)


def why(session: Session, device: Device, one: Assignment, now: int) -> str:
    """Why a device stands where it stands: that it waits depends on the moment, all else was written down."""
    return judge(session, device, one, now).why if one.state == Stage.WAITING else one.why


def next_of(session: Session, device: Device, now: int) -> Assignment | None:
    """What a device that asks gets now: what it is at, or the newest of what it waits for and may have."""
    busy = present(session, device)
    if busy is not None and Stage(busy.state) in (Stage.OFFERED, Stage.RUNNING, Stage.STOPPING):
        return busy
    for one in waiting(session, device):
        if judge(session, device, one, now).offer:
            return one
    return busy


def take(session: Session, device_id: int) -> Assignment | None:
    """Offer a device what it gets now; as another process may have done meanwhile, all is looked at again."""
    device = session.get_one(Device, device_id, with_for_update=True, populate_existing=True)
    now = int(time.time())
    one = next_of(session, device, now)
    if one is None or Stage(one.state) is not Stage.WAITING:
        return one
    release = session.get(Release, one.release_id) if one.release_id is not None else None
    if release is not None and release.tree and release.tree == device.tree:
        change_stage(session, device, one, Stage.SUCCEEDED, "it runs it already")
        return take(session, device_id)
    one.from_tree, one.offered, one.reported = device.tree, now, now
    one.attempts += 1
    asks = plan_of(session.get_one(Rollout, one.rollout_id)).confirm and not one.command
    one.asks = asks and session.get(AutoConfirm, device.id) is None
    device.assignment_id = one.id
    change_stage(session, device, one, Stage.OFFERED, "it was offered, and has not begun")
    for older in waiting(session, device):
        if older.id < one.id:
            change_stage(session, device, older, Stage.LEFT, "a later rollout reached the device first")
    return one


def change_stage(session: Session, device: Device, one: Assignment, stage: Stage, why: str) -> None:
    """Let an assignment be at another stage, with all that is counted and shown of it."""
    subject = tallies.stages_of(one.rollout_id, one.phase)
    tallies.move(session, one.tenant_id, subject, one.state, stage.value)
    one.state, one.why = stage.value, why[:500]
    if stage not in rollout.OPEN:
        one.ended = int(time.time()) if stage is not Stage.WAITING else None
        if device.assignment_id == one.id:
            device.assignment_id = None
    if stage in (Stage.SUCCEEDED, Stage.INSTALLED):
        device.installed_id = one.id
    # Only what it is at shows on a device, or was at just now.
    shown = {Stage.FAILED: devices.FAILED, Stage.LOST: devices.FAILED} | dict.fromkeys(rollout.BUSY, devices.UPDATING)
    if stage is not Stage.LEFT:
        devices.change_state(session, device, shown.get(stage, devices.IDLE))


def find(session: Session, device: Device, action: str) -> Assignment:
    """An assignment of a device, by the id of its action; NotThere."""
    number = int(action) if action.isascii() and action.isdigit() and len(action) < 11 else -1
    query = select(Assignment).where(Assignment.id == number, Assignment.device_id == device.id)
    one = session.scalar(query)
    if one is None:
        raise NotThere("there is no such action for this device")
    return one


def _locked(session: Session, device: Device, action: str) -> Assignment:
    # What was changed of the device in this transaction is written before it is read anew.
    session.flush()
    session.refresh(device, with_for_update=True)
    one = find(session, device, action)
    session.refresh(one, with_for_update=True)
    return one


def report(session: Session, device: Device, action: str, said: Feedback, *, on_stop: bool = False) -> None:
    """Take what a device says of an action; NotThere, or Over if that has ended."""
    one = _locked(session, device, action)
    if said.report is not None and session.scalar(
        select(Report.id).where(Report.assignment_id == one.id, Report.name == said.report)
    ):
        return
    stage = Stage(one.state)
    if on_stop and stage is not Stage.STOPPING:
        raise NotThere("this action is not to be stopped")
    if stage not in rollout.OPEN or stage is Stage.INSTALLED:
        raise Over("this action has ended")
    _write(session, device, one, said)
    new, why = _after_stop(said) if on_stop else _after_report(session, device, one, said)
    one.reported = int(time.time())
    if new is not None:
        change_stage(session, device, one, new, why)


def _write(session: Session, device: Device, one: Assignment, said: Feedback) -> None:
    status = said.status
    session.add(
        Report(
            tenant_id=device.tenant_id,
            device_id=device.id,
            assignment_id=one.id,
            name=said.report,
            at=int(time.time()),
            execution=status.execution,
            finished=status.result.finished,
            code=status.code if status.code is None or abs(status.code) < _LARGEST else None,
            details=_lines(status.details),
        )
    )


def _last_words(said: Feedback) -> str:
    return " ".join(" ".join(_lines(said.status.details)).split())[:400]


def _lines(said: Sequence[str] | None) -> list[str]:
    return [devices.plain(line) for line in details(said or ())]


def _after_report(session: Session, device: Device, one: Assignment, said: Feedback) -> tuple[Stage | None, str]:
    """At which stage a report on an action leaves it (None: where it is)."""
    plan, status, words = plan_of(session.get_one(Rollout, one.rollout_id)), said.status, _last_words(said)
    match status.execution:
        case "closed" if status.result.finished == "failure":
            stage = Stage.FAILED if one.state == Stage.STOPPING else rollout.after_failure(plan, one.attempts)
            again = " and is offered again" if stage is Stage.WAITING else ""
            return stage, f"it failed{again}: {words}" if words else f"it failed{again}"
        case "closed":
            release = session.get(Release, one.release_id) if one.release_id is not None else None
            wanted = release.version if release else ""
            why_not = rollout.unproven(plan, device.release, device.health, wanted)
            if why_not:
                return Stage.INSTALLED, f"it says that it is done, but {why_not}"
            return Stage.SUCCEEDED, words or "it runs it"
        case "canceled":
            return Stage.CANCELLED, words or "it was stopped on the device"
        case word if word != "rejected" and one.state != Stage.STOPPING:
            return Stage.RUNNING, words or f"it says: {word}"
    return None, ""


def _after_stop(said: Feedback) -> tuple[Stage | None, str]:
    """The same for a report on that it is to be stopped."""
    words = _last_words(said)
    match said.status.execution:
        case "closed" if said.status.result.finished == "failure":
            return Stage.FAILED, words or "it could not be stopped"
        case "closed":
            return Stage.CANCELLED, words or "it was stopped"
        case "rejected":
            return Stage.RUNNING, words or "it goes on: it was too late to stop it"
        case _:
            return None, ""


def consent(session: Session, device: Device, action: str, *, agreed: bool, lines: Sequence[str]) -> None:
    """Take what a person at the device said of an action; NotThere, or Over if nobody is asked (any more)."""
    one = _locked(session, device, action)
    if not one.asks or Stage(one.state) not in (Stage.OFFERED, Stage.RUNNING, Stage.LOST):
        raise Over("nobody is asked about this action")
    words = " ".join(_lines(lines))[:400]
    session.add(
        Report(
            tenant_id=device.tenant_id,
            device_id=device.id,
            assignment_id=one.id,
            at=int(time.time()),
            execution="confirmed" if agreed else "denied",
            finished="none",
            details=_lines(lines),
        )
    )
    one.asks, one.reported = not agreed, int(time.time())
    said = "a person at the device agreed" if agreed else "a person at the device does not agree yet"
    change_stage(session, device, one, Stage.OFFERED, f"{said}: {words}" if words else said)


def ask_nobody(session: Session, device: Device, initiator: str, remark: str) -> None:
    """Ask nobody at the device from now on; what a person is asked about just now counts as agreed to."""
    session.refresh(device, with_for_update=True)
    initiator, remark = devices.plain(initiator)[:64], devices.plain(remark)[:512]
    held = AutoConfirm(device_id=device.id, initiator=initiator, remark=remark, since=int(time.time()))
    session.merge(held)
    one = present(session, device)
    if one is not None and one.asks:
        words = " ".join(filter(None, ("nobody is asked there any more", initiator and f"by {initiator}", remark)))
        consent(session, device, str(one.id), agreed=True, lines=[words])


def ask_again(session: Session, device: Device) -> None:
    """Ask a person at the device again, about what it is offered from now on."""
    held = session.get(AutoConfirm, device.id, with_for_update=True)
    if held is not None:
        session.delete(held)


def prove(session: Session, device: Device) -> None:
    """Count a device by what it says of itself: as one that runs the release, or while that goes on as one no more."""
    number = device.assignment_id if device.assignment_id is not None else device.installed_id
    one = session.get(Assignment, number, with_for_update=True) if number is not None else None
    if one is None or one.release_id is None or one.state not in (Stage.INSTALLED, Stage.SUCCEEDED):
        return
    row = session.get_one(Rollout, one.rollout_id)
    wanted = session.get_one(Release, one.release_id).version
    why_not = rollout.unproven(plan_of(row), device.release, device.health, wanted)
    if one.state == Stage.INSTALLED and not why_not:
        change_stage(session, device, one, Stage.SUCCEEDED, f"it says that it runs {device.release}")
    elif one.state == Stage.INSTALLED:
        one.why = f"it says that it is done, but {why_not}"
    elif why_not and State(row.state) in (State.RUNNING, State.PAUSED):
        change_stage(session, device, one, Stage.FAILED, f"it ran the release, and then not any more: {why_not}")


def ask_to_stop(session: Session, device: Device, one: Assignment, why: str) -> None:
    """Stop an assignment: at once if it was not offered, else when the device agrees."""
    if one.state == Stage.WAITING:
        change_stage(session, device, one, Stage.CANCELLED, why)
    elif Stage(one.state) in (Stage.OFFERED, Stage.RUNNING, Stage.LOST):
        change_stage(session, device, one, Stage.STOPPING, why)
