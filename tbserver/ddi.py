"""The DDI protocol of hawkBit, as devices ask it: /TENANT/controller/v1/DEVICE/…"""

from __future__ import annotations

import hashlib
import time
from typing import Annotated, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy.orm import Session

from tbserver import devices, files, statements, steering
from tbserver.api.shapes import Number
from tbserver.asking import PLACE, Asking, Device_, Unanswered
from tbserver.records import Artifact, Assignment, AutoConfirm, Device
from tbserver.refusals import NotThere
from tbserver.rollout import Stage
from tbserver.steering import Offer
from tbserver.vitals import Served
from tbupdate import protocol
from tbupdate.protocol import (
    ArtifactLinks,
    AutoConfirmation,
    AutoConfirmed,
    Cancel,
    Chunk,
    ConfigData,
    Confirmation,
    ConfirmationBase,
    ConfirmationLinks,
    Consent,
    Deployment,
    Enrolment,
    Feedback,
    Handled,
    Hashes,
    Installed,
    Link,
    Links,
    Message,
    Poll,
    PollConfig,
    Polling,
    Statements,
    ToStop,
)

PART = "os"
# Where a download begins that does not go on with one which broke off.
_BEGINNING = "bytes=0-"
M = TypeVar("M", bound=Message)

router = APIRouter(prefix="/{tenant}" + PLACE + "{controller}", include_in_schema=False)


async def body_of(request: Request) -> bytes:
    """The body of a request, within the limits."""
    return await request.body()


Body = Annotated[bytes, Depends(body_of)]


def _read(model: type[M], body: bytes) -> M:
    try:
        return protocol.read(model, body)
    except ValueError:
        raise Unanswered(400) from None


def _said(message: Message) -> Response:
    return Response(message.to_json(), media_type="application/json", headers={"Cache-Control": "no-store"})


@router.get("")
def poll(asking: Device_) -> Response:
    """What there is for the device: nothing is written down if there is nothing new."""

    def look(session: Session, device: Device) -> Poll | None:
        now = int(time.time())
        one = steering.next_of(session, device, now)
        is_due = device.seen < now - devices.SEEN_EVERY or device.state == devices.NEW
        if is_due or (one is not None and one.state == Stage.WAITING):
            return None
        return _poll_of(asking, session, device, one)

    def offer(session: Session, device: Device) -> Poll:
        one = steering.take(session, device.id)
        devices.touch(session, device, asking.address)
        return _poll_of(asking, session, device, one)

    return _said(asking.read(look) or asking.write(offer))


def _poll_of(asking: Asking, session: Session, device: Device, one: Assignment | None) -> Poll:
    seconds = asking.server.settings.poll_seconds
    sleep = time.strftime("%H:%M:%S", time.gmtime(seconds))
    links: dict[str, Link] = {}
    if one is not None and one.state == Stage.STOPPING:
        links["cancel_action"] = Link(href=f"{asking.base}/cancelAction/{one.id}")
    elif one is not None and one.state != Stage.INSTALLED:
        offer = steering.offer_of(session, device, one)
        if one.command or offer.artifacts:
            word, field = (
                ("confirmationBase", "confirmation_base") if one.asks else ("deploymentBase", "deployment_base")
            )
            links[field] = Link(href=f"{asking.base}/{word}/{one.id}?c={_hash(offer)}")
    if device.installed_id is not None:
        links["installed_base"] = Link(href=f"{asking.base}/installedBase/{device.installed_id}")
    if device.wants:
        links["config_data"] = Link(href=f"{asking.base}/configData")
    version = statements.version(session, device.tenant_id)
    told = Statements(href=f"{asking.base}/trustStatements", version=version) if version else None
    return Poll(config=PollConfig(polling=Polling(sleep=sleep)), links=Links(**links, trust_statements=told))


def _hash(offer: Offer) -> str:
    return hashlib.sha256(offer.mark.encode()).hexdigest()[:8]


def _handled(asking: Asking, offer: Offer) -> Handled:
    """What is to be done; never without a part, for which some clients would ask for ever."""
    one, release = offer.assignment, offer.release
    version = release.version if release else ""
    if one.command:
        chunk = Chunk(part=protocol.COMMAND_PART, name=one.command, version=version)
    else:
        name = (release.name if release else "") or PART
        artifacts = tuple(_artifact(asking, artifact) for artifact in offer.artifacts)
        chunk = Chunk(part=PART, name=name, version=version, artifacts=artifacts)
    handling = offer.plan.handling
    return Handled(download=handling, update=handling, chunks=(chunk,))


def _artifact(asking: Asking, artifact: Artifact) -> protocol.Artifact:
    href = f"{asking.base}/softwaremodules/{artifact.id}/artifacts/{quote(artifact.name)}"
    where, sums = Link(href=href), Link(href=f"{href}.MD5SUM")
    return protocol.Artifact(
        filename=artifact.name,
        size=artifact.size,
        hashes=Hashes(sha1=artifact.sha1, md5=artifact.md5, sha256=artifact.digest),
        links=ArtifactLinks(download=where, download_http=where, md5sum=sums, md5sum_http=sums),
    )


def _offered(session: Session, device: Device, action: str, *, asks: bool) -> Offer:
    one = steering.present(session, device)
    if one is None or str(one.id) != action or one.asks != asks or Stage(one.state) not in _OFFERED:
        raise NotThere("there is no such action for this device now")
    return steering.offer_of(session, device, one)


_OFFERED = (Stage.OFFERED, Stage.RUNNING, Stage.LOST)


@router.get("/deploymentBase/{action}")
def deployment(asking: Device_, action: str) -> Response:
    """What is to be installed."""

    def look(session: Session, device: Device) -> Message:
        offer = _offered(session, device, action, asks=False)
        return Deployment(id=action, deployment=_handled(asking, offer))

    return _said(asking.read(look))


@router.get("/confirmationBase/{action}")
def confirmation(asking: Device_, action: str) -> Response:
    """What a person at the device has to agree to."""

    def look(session: Session, device: Device) -> Message:
        offer = _offered(session, device, action, asks=True)
        return Confirmation(id=action, confirmation=_handled(asking, offer))

    return _said(asking.read(look))


@router.get("/confirmationBase")
def auto_confirmation(asking: Device_) -> Response:
    """Whether a person at the device is asked at all, and what about."""

    def look(session: Session, device: Device) -> ConfirmationBase:
        place = f"{asking.base}/confirmationBase"
        held, one = session.get(AutoConfirm, device.id), steering.present(session, device)
        word = "deactivateAutoConfirm" if held else "activateAutoConfirm"
        links = {"deactivate_auto_confirm" if held else "activate_auto_confirm": Link(href=f"{place}/{word}")}
        if one is not None and one.asks:
            links["confirmation_base"] = Link(
                href=f"{place}/{one.id}?c={_hash(steering.offer_of(session, device, one))}"
            )
        return ConfirmationBase(auto_confirm=_confirmed_by(held), links=ConfirmationLinks(**links))

    return _said(asking.read(look))


def _confirmed_by(held: AutoConfirm | None) -> AutoConfirmed:
    if held is None:
        return AutoConfirmed(active=False)
    said = {"initiator": held.initiator or None, "remark": held.remark or None}
    return AutoConfirmed(active=True, activated_at=held.since * 1000, **said)


@router.post("/confirmationBase/activateAutoConfirm")
def activate_auto_confirm(asking: Device_, body: Body) -> Response:
    """Ask nobody at the device from now on, nor about what it is at."""
    asking.read(lambda session, device: None)
    said = _read(AutoConfirmation, body or b"{}")
    asking.write(lambda session, device: steering.ask_nobody(session, device, said.initiator or "", said.remark or ""))
    return Response()


@router.post("/confirmationBase/deactivateAutoConfirm")
def deactivate_auto_confirm(asking: Device_) -> Response:
    """Ask a person at the device again."""
    asking.write(steering.ask_again)
    return Response()


@router.get("/installedBase/{action}")
def installed(asking: Device_, action: str) -> Response:
    """What was installed last."""

    def look(session: Session, device: Device) -> Message:
        if str(device.installed_id) != action:
            raise NotThere("that was not installed last")
        offer = steering.offer_of(session, device, session.get_one(Assignment, device.installed_id))
        return Deployment(id=action, deployment=_handled(asking, offer))

    return _said(asking.read(look))


@router.get("/cancelAction/{action}")
def to_cancel(asking: Device_, action: str) -> Response:
    """What is to be stopped."""

    def look(session: Session, device: Device) -> Message:
        one = steering.present(session, device)
        if one is None or str(one.id) != action or one.state != Stage.STOPPING:
            raise NotThere("nothing is to be stopped")
        return Cancel(id=action, cancel_action=ToStop(stop_id=action))

    return _said(asking.read(look))


@router.post("/deploymentBase/{action}/feedback")
def report(asking: Device_, action: str, body: Body) -> Response:
    """What the device says of an action."""
    return _report(asking, action, body, on_stop=False)


@router.post("/cancelAction/{action}/feedback")
def report_on_stop(asking: Device_, action: str, body: Body) -> Response:
    """What it says of being stopped."""
    return _report(asking, action, body, on_stop=True)


def _report(asking: Asking, action: str, body: bytes, *, on_stop: bool) -> Response:
    asking.read(lambda session, device: steering.find(session, device, action))
    said = _read(Feedback, body)
    asking.write(lambda session, device: steering.report(session, device, action, said, on_stop=on_stop))
    return Response()


@router.post("/confirmationBase/{action}/feedback")
def confirm(asking: Device_, action: str, body: Body) -> Response:
    """What a person at the device said."""
    asking.read(lambda session, device: steering.find(session, device, action))
    said = _read(Consent, body)
    agreed, lines = said.confirmation == "confirmed", protocol.details(said.details or ())
    asking.write(lambda session, device: steering.consent(session, device, action, agreed=agreed, lines=lines))
    return Response()


@router.put("/configData")
def describe(asking: Device_, body: Body) -> Response:
    """What the device says of itself."""
    asking.read(lambda session, device: None)
    said = _read(ConfigData, body)

    def write(session: Session, device: Device) -> None:
        session.refresh(device, with_for_update=True)
        devices.describe(session, device, said.mode, said.data)
        steering.prove(session, device)

    asking.write(write)
    return Response()


@router.put("/installedBase")
def runs(asking: Device_, body: Body) -> Response:
    """What the device says it runs."""
    asking.read(lambda session, device: None)
    said = _read(Installed, body)

    def write(session: Session, device: Device) -> None:
        session.refresh(device, with_for_update=True)
        devices.runs(session, device, said.name, said.version)
        steering.prove(session, device)

    asking.write(write)
    return Response()


@router.get("/trustStatements")
def trusted(asking: Device_) -> Response:
    """Which keys are trusted, as those say who may: the device verifies it, as it would from a folder."""

    def look(session: Session, device: Device) -> bytes:
        chain = statements.chain(session, device.tenant_id)
        if chain is None:
            raise NotThere("there is no trust statement")
        return chain

    return Response(asking.read(look), media_type="application/json", headers={"Cache-Control": "no-store"})


@router.post("/enrolment")
def enrol(asking: Device_, body: Body) -> Response:
    """Make the device known by a token that it chose."""
    asking.enrol(_read(Enrolment, body).token)
    return Response()


@router.api_route("/softwaremodules/{artifact_id}/artifacts/{name}", methods=["GET", "HEAD"])
def download(asking: Device_, request: Request, artifact_id: Number, name: str) -> Response:
    """A file that the device needs for what it is at."""

    def look(session: Session, device: Device) -> tuple[Artifact, int]:
        one = steering.present(session, device)
        offered = steering.offer_of(session, device, one).artifacts if one is not None else ()
        for artifact in offered:
            if artifact.id == artifact_id and name in (artifact.name, f"{artifact.name}.MD5SUM"):
                return artifact, min((full.size for full in offered if not full.base), default=artifact.size)
        raise NotThere("there is no such file for this device now")

    artifact, full = asking.read(look)
    if name != artifact.name:
        return Response(f"{artifact.md5}  {artifact.name}", media_type="text/plain")
    if request.method == "GET" and request.headers.get("range", _BEGINNING).startswith(_BEGINNING):
        served: Served = request.app.state.served
        served.count_download(max(full - artifact.size, 0) if artifact.base else None)
    return files.send(request, asking.server.store, artifact)
