"""The device's end of the DDI protocol: one method for each thing that can be asked of a server or told to it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TypeVar

from tbdiff.errors import Failed, Rejected
from tbdiff.head import MAGIC, Head, read_head
from tbdiff.line import Line, origin
from tbupdate import protocol
from tbupdate.exchange import Answer, exchange, refused
from tbupdate.identity import Account
from tbupdate.protocol import (
    Artifact,
    Cancel,
    ConfigData,
    Confirmation,
    Consent,
    Deployment,
    Enrolment,
    Installed,
    Link,
    Message,
    Poll,
)

# Where the head of an image hardly ever is longer; and what it can be at most.
HEAD_MOSTLY, HEAD_MAX = 1 << 16, 3 << 20
GONE = (404, 410)
# What a server may say again and differently: it is asked another time.
PASSING = (401, 403, 408, 425, 429)
SAME = "What the server says of its own address has to be as [server] url in config.toml says it."

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Client:
    """This device, as it talks to its server. Failed: there was no answer that can be used."""

    account: Account
    line: Line

    def poll(self) -> Poll:
        """What there is for this device."""
        return self._read(Poll, self.account.base)

    def deployment(self, link: Link) -> Deployment | None:
        """What is to be installed; None if that is over."""
        return self._read_if_there(Deployment, link)

    def confirmation(self, link: Link) -> Confirmation | None:
        """What a person has to agree to; None if that is over."""
        return self._read_if_there(Confirmation, link)

    def to_cancel(self, link: Link) -> Cancel | None:
        """What is to be stopped; None if that is over."""
        return self._read_if_there(Cancel, link)

    def statements(self, link: Link) -> bytes | None:
        """The chain of trust statements, unverified; None if it is not there any more."""
        answer = self._ask_if_there(link)
        return answer.body if answer is not None else None

    def confirm(self, action: str, said: Consent) -> bool:
        """Tell what a person said; whether the action was still there."""
        return self.tell(f"confirmationBase/{action}/feedback", said.to_json())

    def tell(self, place: str, body: bytes, method: str = "POST") -> bool:
        """Send a message; whether anybody wanted it. Rejected: the server will never take it."""
        url = f"{self.account.base}/{place}"
        answer = exchange(url, self.line, method, body)
        if 200 <= answer.status < 300:
            return True
        if answer.status in GONE:
            return False
        if answer.status >= 500 or answer.status in PASSING or answer.status < 400:
            raise refused(url, answer)
        raise Rejected(
            f"{url} does not take what it was told ({answer.status})", "Whoever keeps the server finds in its log why."
        )

    def describe(self, attributes: dict[str, str]) -> None:
        """Say what this device is; what was said before is replaced."""
        self.tell("configData", ConfigData(mode="replace", data=dict(attributes)).to_json(), "PUT")

    def runs(self, name: str, version: str) -> None:
        """Say what this device runs."""
        self.tell("installedBase", Installed(name=name, version=version).to_json(), "PUT")

    def enrol(self, token: str) -> None:
        """Make this device known by a token of its own."""
        url = f"{self.account.base}/enrolment"
        answer = exchange(url, self.line, "POST", Enrolment(token=token).to_json())
        if answer.status in (401, 403):
            raise Rejected(
                f"{url} does not take this token: it is wrong, or was used for another device; "
                "this one was not enrolled",
                "Get a new token from whoever keeps the server, then enrol again.",
            )
        if not 200 <= answer.status < 300:
            raise refused(url, answer)

    def address(self, artifact: Artifact) -> str:
        """Where an artifact is, if that is on this server; Rejected if not."""
        for link in (artifact.links.download, artifact.links.download_http):
            if link is not None and self._is_ours(link.href):
                return link.href
        raise Rejected(f"the server offers a file that is not on it: {artifact.filename!r}; nothing was fetched", SAME)

    def head(self, artifact: Artifact) -> Head | None:
        """The head of an image, unverified; None if it is no image. Rejected: it is damaged."""
        for most in (HEAD_MOSTLY, HEAD_MAX):
            url = self.address(artifact)
            answer = exchange(url, self.line, begin=most)
            if not 200 <= answer.status < 300:
                raise refused(url, answer)
            if not answer.body.startswith(MAGIC):
                return None
            try:
                return read_head(io.BytesIO(answer.body[len(MAGIC) :]))
            except Rejected:
                if len(answer.body) < most or most == HEAD_MAX:
                    raise
        raise AssertionError("it was read or refused")

    def _read_if_there(self, model: type[M], link: Link) -> M | None:
        answer = self._ask_if_there(link)
        return self._decoded(model, link.href, answer) if answer is not None else None

    def _ask_if_there(self, link: Link) -> Answer | None:
        if not self._is_ours(link.href):
            raise Failed(f"{self.account.base} sends us to another server ({link.href}); nothing was asked there", SAME)
        answer = exchange(link.href, self.line)
        if answer.status in GONE:
            return None
        if answer.status != 200:
            raise refused(link.href, answer)
        return answer

    def _read(self, model: type[M], url: str) -> M:
        return self._decoded(model, url, exchange(url, self.line))

    def _decoded(self, model: type[M], url: str, answer: Answer) -> M:
        if answer.status != 200:
            raise refused(url, answer)
        try:
            return protocol.read(model, answer.body)
        except ValueError:
            raise Failed(f"{url} answers what is no {model.__name__.lower()} of DDI", "Ask its keeper.") from None

    def _is_ours(self, url: str) -> bool:
        try:
            return origin(url) == origin(self.account.base)
        except (ValueError, KeyError):
            return False
