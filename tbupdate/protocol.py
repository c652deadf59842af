"""The messages of hawkBit's DDI protocol, and of our own additions to it, as device and server exchange them.

They are the same classes for both ends, and know nothing of either. What is not known is ignored; what is known is
bounded.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic.alias_generators import to_camel

from tbupdate.naming import ControllerId as ControllerId  # noqa: PLC0414 - it is part of all addresses

# No message of either end is longer, in bytes.
MESSAGE_MAX = 1 << 20
ID_LIMIT = 1 << 31
# What hawkBit keeps of a report and of an attribute, in characters; more of them would be refused.
DETAIL_MAX, DETAILS_MAX = 500, 50
KEY_MAX, VALUE_MAX, ATTRIBUTES_MAX = 128, 128, 200
CHUNKS_MAX, ARTIFACTS_MAX = 64, 64
# Seconds between two polls, at least and at most.
SLEEP_LEAST, SLEEP_MOST = 30, 24 * 3600 - 1

# The words before a token in the header `Authorization`.
TARGET, GATEWAY, ENROLMENT = "TargetToken", "GatewayToken", "EnrolmentToken"
# A chunk of this part is a command of ours to the device, and no software: its name says which.
COMMAND_PART = "tb-update"
ROLLBACK, POSTPONE = "rollback", "postpone"

M = TypeVar("M", bound="Message")


def _digits(value: object) -> object:
    """An id, which some write as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _below_limit(value: str) -> str:
    if int(value) >= ID_LIMIT:
        raise ValueError("no id of an action is as high")
    return value


ActionId = Annotated[
    str,
    pydantic.BeforeValidator(_digits),
    pydantic.StringConstraints(pattern=r"^[0-9]{1,10}$"),
    pydantic.AfterValidator(_below_limit),
]
Text = Annotated[str, pydantic.StringConstraints(max_length=1 << 12)]
Href = Annotated[str, pydantic.StringConstraints(pattern=r"^https?://[!-~]{1,4000}$")]
Sleep = Annotated[str, pydantic.StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]$")]
Token = Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Za-z0-9_.~+/=-]{8,500}$")]
Hex = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-fA-F]{32,64}$")]
Size = Annotated[int, pydantic.Field(ge=0, lt=1 << 63)]

Handling = Literal["skip", "attempt", "forced"]
Execution = Literal["closed", "proceeding", "canceled", "scheduled", "rejected", "resumed", "download", "downloaded"]
Finished = Literal["success", "failure", "none"]


# Names that are not what camelCase makes of ours.
_NAMES = {"links": "_links", "md5sum": "md5sum", "download_http": "download-http", "md5sum_http": "md5sum-http"}


def _name(ours: str) -> str:
    return _NAMES.get(ours) or to_camel(ours)


class Message(pydantic.BaseModel):
    """Any message or part of one; as JSON its names are those of hawkBit."""

    model_config = pydantic.ConfigDict(
        defer_build=True, frozen=True, strict=True, extra="ignore", alias_generator=_name, populate_by_name=True
    )

    def to_json(self) -> bytes:
        """As it is sent; what says nothing is left out."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


def read(model: type[M], raw: bytes) -> M:
    """Decode a message. ValueError: it is none of that kind.

    Clients of others send line feeds within a text, which JSON does not allow.
    """
    if len(raw) > MESSAGE_MAX:
        raise ValueError("it is longer than any message")
    try:
        return model.model_validate_json(json.dumps(json.loads(raw, strict=False)))
    except RecursionError:
        raise ValueError("it is nested deeper than any message") from None


class Link(Message):
    """Where something is."""

    href: Href


class Statements(Link):
    """Our addition to a poll: where the chain of trust statements is, and the version of the last one.

    A device asks there if that is later than what it knows. The answer to `GET` is `trust.json`, as in a folder.
    """

    version: int


class Links(Message):
    """What a poll leads to: at most one of the first three, while an action is active.

    `config_data` is there while the server wants to know the device's attributes, `installed_base` is what was last
    installed.
    """

    deployment_base: Link | None = None
    cancel_action: Link | None = None
    confirmation_base: Link | None = None
    installed_base: Link | None = None
    config_data: Link | None = None
    trust_statements: Statements | None = None


class Polling(Message):
    """How long to wait until the next poll, as HH:MM:SS."""

    sleep: Sleep = "00:05:00"

    @property
    def seconds(self) -> int:
        """The same in seconds, within what is reasonable."""
        hours, minutes, seconds = map(int, self.sleep.split(":"))
        return min(max(hours * 3600 + minutes * 60 + seconds, SLEEP_LEAST), SLEEP_MOST)


class PollConfig(Message):
    """What a poll says of polls."""

    polling: Polling = Polling()


class Poll(Message):
    """The answer to `GET {base}`."""

    config: PollConfig = PollConfig()
    links: Links = Links()


class Hashes(Message):
    """The digests of an artifact, as hexadecimal digits."""

    sha1: Hex | None = None
    md5: Hex | None = None
    sha256: Hex | None = None


class ArtifactLinks(Message):
    """Where an artifact is; the second is for servers and devices without TLS."""

    download: Link | None = None
    download_http: Link | None = None
    md5sum: Link | None = None
    md5sum_http: Link | None = None


class Artifact(Message):
    """A file of a release: `size` in bytes."""

    filename: Text
    size: Size
    hashes: Hashes = Hashes()
    links: ArtifactLinks = ArtifactLinks()


class Chunk(Message):
    """A part of a release; with the part `tb-update`, a command to the device (see `COMMAND_PART`)."""

    part: Text
    name: Text
    version: Text
    artifacts: Annotated[tuple[Artifact, ...], pydantic.Field(max_length=ARTIFACTS_MAX)] = ()


class Handled(Message):
    """What is to be done, and how: `skip` not yet, `attempt` when it suits, `forced` as soon as may be."""

    download: Handling = "attempt"
    update: Handling = "attempt"
    maintenance_window: Literal["available", "unavailable"] | None = None
    chunks: Annotated[tuple[Chunk, ...], pydantic.Field(max_length=CHUNKS_MAX)] = ()


class Deployment(Message):
    """The answer to `GET {base}/deploymentBase/{id}` and `…/installedBase/{id}`."""

    id: ActionId
    deployment: Handled


class Confirmation(Message):
    """The answer to `GET {base}/confirmationBase/{id}`: what a person at the device has to agree to."""

    id: ActionId
    confirmation: Handled


class ToStop(Message):
    """Which action is to be stopped."""

    stop_id: ActionId


class Cancel(Message):
    """The answer to `GET {base}/cancelAction/{id}`."""

    id: ActionId
    cancel_action: ToStop


class Progress(Message):
    """How far it is; others count in ways of their own."""

    cnt: int | None = None
    of: int | None = None


class Result(Message):
    """How an action ended, or that it has not."""

    finished: Finished
    progress: Progress | None = None


class Status(Message):
    """How an action stands; `details` are for people."""

    execution: Execution
    code: int | None = None
    details: Annotated[tuple[Text, ...], pydantic.Field(max_length=1000)] | None = None
    result: Result


class Feedback(Message):
    """The body of `POST {base}/deploymentBase/{id}/feedback` and of `…/cancelAction/{id}/feedback`.

    `timestamp` is in milliseconds since 1970. `report` is our addition: it names this report, so that one that comes a
    second time, because its answer was lost, need not count twice.
    """

    id: ActionId | None = None
    timestamp: int | None = None
    report: Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{16,64}$")] | None = None
    status: Status


class Consent(Message):
    """The body of `POST {base}/confirmationBase/{id}/feedback`: what a person said."""

    confirmation: Literal["confirmed", "denied"]
    code: int | None = None
    details: Annotated[tuple[Text, ...], pydantic.Field(max_length=1000)] | None = None


class AutoConfirmation(Message):
    """The body of `POST {base}/confirmationBase/activateAutoConfirm`: who wants that nobody is asked, and why."""

    initiator: Text | None = None
    remark: Text | None = None


class AutoConfirmed(Message):
    """Whether nobody at the device is asked; by whom and since when (in milliseconds since 1970)."""

    active: bool
    initiator: Text | None = None
    remark: Text | None = None
    activated_at: int | None = None


class ConfirmationLinks(Message):
    """What can be done about it: one of the first two; the last while a person is asked."""

    activate_auto_confirm: Link | None = None
    deactivate_auto_confirm: Link | None = None
    confirmation_base: Link | None = None


class ConfirmationBase(Message):
    """The answer to `GET {base}/confirmationBase`."""

    auto_confirm: AutoConfirmed
    links: ConfirmationLinks


class ConfigData(Message):
    """The body of `PUT {base}/configData`: attributes of the device."""

    mode: Literal["merge", "replace", "remove"] = "merge"
    data: dict[Text, Text | None]


class Installed(Message):
    """The body of `PUT {base}/installedBase`: what the device runs."""

    name: Text
    version: Text


class Enrolment(Message):
    """The body of `POST {base}/enrolment`, our addition: the token by which the device will be known from then on.

    The request itself goes with a token that is good for one device, once; a repeat with both tokens the same succeeds,
    so that an answer may be lost. The server keeps a hash of the device's token only.
    """

    token: Token


def details(lines: Any) -> tuple[str, ...]:
    """Lines for people, as many and as long as a server keeps them: of too many the first and the last."""
    # Names of files may hold bytes that no text does.
    texts = (line.encode("utf-8", "backslashreplace").decode() for line in lines if line)
    cut = [line[:DETAIL_MAX] for line in texts]
    if len(cut) > DETAILS_MAX:
        cut = [*cut[: DETAILS_MAX // 2], *cut[-DETAILS_MAX // 2 :]]
    return tuple(cut)
