"""A server that speaks DDI, in memory, on the loopback interface; and what a test needs of any such server."""

from __future__ import annotations

import hashlib
import http.server
import itertools
import re
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from tbupdate import protocol
from tbupdate.protocol import (
    Artifact,
    ArtifactLinks,
    Cancel,
    Chunk,
    ConfigData,
    Confirmation,
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

TENANT = "demo"
CLOSED_WORDS = ("finished", "error", "canceled")
# A date that never changes: the files of a release do not either.
MODIFIED = "Sat, 01 Jan 2022 00:00:00 GMT"


class DDIServer(Protocol):
    """A server under test, however it is made: the double below, or a real one."""

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""

    @property
    def gateway_token(self) -> str:
        """A token that may act for any device, and lets unknown ones register."""

    def add_device(self, device: str) -> str:
        """Make a device known; its token."""

    def add_enrolment(self, device: str) -> str:
        """A token by which this device can enrol, once."""

    def add_action(
        self,
        device: str,
        files: Mapping[str, bytes],
        *,
        version: str = "1.0",
        update: Any = "attempt",
        confirm: bool = False,
        command: str = "",
    ) -> str:
        """Let a device install a release of these files, or do a command; the id of the action."""

    def put_statements(self, chain: bytes, version: int) -> None:
        """Tell devices of trust statements, whatever they are."""

    def cancel(self, action: str) -> None:
        """Ask the device to stop an action."""

    def state(self, action: str) -> str:
        """How it stands: open, finished, error or canceled."""

    def told(self, action: str) -> list[str]:
        """All details of all reports on it, the oldest first."""

    def attributes(self, device: str) -> dict[str, str]:
        """What a device said of itself."""

    def installed(self, device: str) -> tuple[str, str] | None:
        """Name and version that it said it runs."""


@dataclass
class Action:
    """What a device is to do."""

    id: str
    device: str
    chunk: Chunk
    update: Any = "attempt"
    window: Any = None
    waits_for_consent: bool = False
    canceling: bool = False
    state: str = "open"
    reports: list[Feedback] = field(default_factory=list)
    consents: list[Consent] = field(default_factory=list)

    @property
    def hash(self) -> str:
        """It changes when the handling does."""
        return hashlib.sha256(repr((self.id, self.update, self.waits_for_consent)).encode()).hexdigest()[:8]

    def take(self, report: Feedback) -> int:
        """What a report on it makes of it; the status of the answer."""
        if self.state != "open":
            return 410
        if report.report is not None and report.report in [one.report for one in self.reports]:
            return 200
        self.reports.append(report)
        status = report.status
        if status.execution == "closed":
            self.state = "error" if status.result.finished == "failure" else "finished"
        elif status.execution == "canceled":
            self.state = "canceled"
        return 200

    def take_cancel(self, report: Feedback) -> int:
        """The same of a report on that it is to be stopped."""
        if not self.canceling or self.state != "open":
            return 404
        self.reports.append(report)
        if report.status.execution == "closed":
            self.state = "error" if report.status.result.finished == "failure" else "canceled"
        elif report.status.execution == "rejected":
            self.canceling = False
        return 200


@dataclass
class Request:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass
class Answer:
    """What is sent back. `pieces` instead of `body` are sent as they come, without a length."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: Iterator[bytes] | None = None


Fault = Callable[[Request], "Answer | None"]


class Double:
    """A server in memory. `fault` may answer a request in its place; `asked` are all requests, the oldest first."""

    gateway_token = "gateway-token-of-demo"

    def __init__(self) -> None:
        self.url = ""
        self.fault: Fault = lambda request: None
        self.asked: list[Request] = []
        self.sleep = "00:05:00"
        self.wants_attributes = True
        self.actions: dict[str, Action] = {}
        self.statements: tuple[bytes, int] = b"", 0
        self._tokens: dict[str, str] = {}
        self._enrolments: dict[str, tuple[str, str]] = {}
        self._files: dict[str, bytes] = {}
        self._attributes: dict[str, dict[str, str]] = {}
        self._installed: dict[str, tuple[str, str]] = {}
        self._numbers = itertools.count(7)
        self._lock = threading.RLock()

    def add_device(self, device: str) -> str:
        self._tokens[device] = f"token-of-{device}"
        self._attributes.setdefault(device, {})
        return self._tokens[device]

    def add_enrolment(self, device: str) -> str:
        self._enrolments[device] = (f"once-for-{device}", "")
        return f"once-for-{device}"

    def add_action(
        self,
        device: str,
        files: Mapping[str, bytes],
        *,
        version: str = "1.0",
        update: Any = "attempt",
        confirm: bool = False,
        command: str = "",
    ) -> str:
        number = str(next(self._numbers))
        artifacts = tuple(self._artifact(device, number, name, data) for name, data in files.items())
        part = protocol.COMMAND_PART if command else "os"
        chunk = Chunk(part=part, name=command or "demo", version=version, artifacts=artifacts)
        self.actions[number] = Action(number, device, chunk, update, waits_for_consent=confirm)
        return number

    def _artifact(self, device: str, number: str, name: str, data: bytes) -> Artifact:
        path = f"/{TENANT}/controller/v1/{device}/softwaremodules/{number}/artifacts/{name}"
        self._files[path] = data
        here = Link(href=self.url + path)
        md5sum = Link(href=f"{self.url}{path}.MD5SUM")
        links = ArtifactLinks(download=here, md5sum=md5sum, download_http=here, md5sum_http=md5sum)
        made = [hashlib.new(kind, data, usedforsecurity=False).hexdigest() for kind in ("sha1", "md5", "sha256")]
        return Artifact(
            filename=name,
            size=len(data),
            hashes=Hashes(**dict(zip(Hashes.model_fields, made, strict=True))),
            links=links,
        )

    def put_statements(self, chain: bytes, version: int) -> None:
        self.statements = chain, version

    def cancel(self, action: str) -> None:
        self.actions[action].canceling = True

    def state(self, action: str) -> str:
        return self.actions[action].state

    def told(self, action: str) -> list[str]:
        return [line for one in self.actions[action].reports for line in one.status.details or ()]

    def attributes(self, device: str) -> dict[str, str]:
        return self._attributes[device]

    def installed(self, device: str) -> tuple[str, str] | None:
        return self._installed.get(device)

    def answer(self, request: Request) -> Answer:
        """What is said to a request."""
        with self._lock:
            self.asked.append(request)
            # A fault may take its time.
        return self.fault(request) or self._answer(request)

    def _answer(self, request: Request) -> Answer:
        with self._lock:
            path = urllib.parse.urlsplit(request.path).path
            found = re.fullmatch(rf"/{TENANT}/controller/v1/([^/]+)(?:/(.*))?", path)
            if found is None:
                return Answer(404)
            device, rest = found[1], found[2] or ""
            if (request.method, rest) == ("POST", "enrolment"):
                return self._enrol(device, request)
            if not self._is_known(device, request):
                return Answer(401)
            if rest.startswith("softwaremodules/"):
                return self._file(path, request)
            try:
                return self._message(device, rest, request)
            except (ValidationError, ValueError):
                return Answer(400)

    def _enrol(self, device: str, request: Request) -> Answer:
        once, used_for = self._enrolments.get(device, ("", ""))
        if not once or request.headers.get("authorization") != f"{protocol.ENROLMENT} {once}":
            return Answer(401)
        token = protocol.read(Enrolment, request.body).token
        if used_for not in ("", token):
            return Answer(401)
        self._enrolments[device] = (once, token)
        self.add_device(device)
        self._tokens[device] = token
        return Answer()

    def _is_known(self, device: str, request: Request) -> bool:
        said = request.headers.get("authorization", "")
        if said == f"{protocol.GATEWAY} {self.gateway_token}":
            if device not in self._tokens and request.method == "GET":
                self.add_device(device)
            return device in self._tokens
        return device in self._tokens and said == f"{protocol.TARGET} {self._tokens[device]}"

    def _message(self, device: str, rest: str, request: Request) -> Answer:
        match request.method, *rest.split("/"):
            case "GET", "":
                return _said(self._poll(device))
            case "GET", "trustStatements" if self.statements[0]:
                return Answer(200, self.statements[0], {"Content-Type": "application/json"})
            case "PUT", "configData":
                self._merge(device, protocol.read(ConfigData, request.body))
                return Answer()
            case "PUT", "installedBase":
                said = protocol.read(Installed, request.body)
                self._installed[device] = (said.name, said.version)
                return Answer()
            case method, kind, number, *more:
                action = self.actions.get(number)
                if action is None or action.device != device:
                    return Answer(404)
                if method == "GET" and not more:
                    return self._shown(action, kind)
                if method == "POST" and more == ["feedback"]:
                    return Answer(self._take(action, kind, request.body))
        return Answer(404)

    def _base(self, device: str) -> str:
        return f"{self.url}/{TENANT}/controller/v1/{device}"

    def _poll(self, device: str) -> Poll:
        base, links = self._base(device), Links()
        mine = [one for one in self.actions.values() if one.device == device]
        active = next((one for one in reversed(mine) if one.state == "open"), None)
        if active is not None and active.canceling:
            links = Links(cancel_action=Link(href=f"{base}/cancelAction/{active.id}"))
        elif active is not None:
            kind = "confirmation_base" if active.waits_for_consent else "deployment_base"
            word = "confirmationBase" if active.waits_for_consent else "deploymentBase"
            links = Links(**{kind: Link(href=f"{base}/{word}/{active.id}?c={active.hash}")})
        done = next((one for one in reversed(mine) if one.state == "finished"), None)
        if done is not None:
            links = links.model_copy(update={"installed_base": Link(href=f"{base}/installedBase/{done.id}")})
        if self.wants_attributes and not self._attributes[device]:
            links = links.model_copy(update={"config_data": Link(href=f"{base}/configData")})
        chain, version = self.statements
        if chain:
            told = Statements(href=f"{base}/trustStatements", version=version)
            links = links.model_copy(update={"trust_statements": told})
        return Poll(config=PollConfig(polling=Polling(sleep=self.sleep)), links=links)

    def _shown(self, action: Action, kind: str) -> Answer:
        what = Handled(
            download=action.update, update=action.update, maintenance_window=action.window, chunks=(action.chunk,)
        )
        if kind == "cancelAction" and action.canceling:
            return _said(Cancel(id=action.id, cancel_action=ToStop(stop_id=action.id)))
        if kind == "installedBase" and action.state == "finished":
            return _said(Deployment(id=action.id, deployment=what))
        if action.canceling or action.state != "open":
            return Answer(404)
        if kind == "deploymentBase" and not action.waits_for_consent:
            return _said(Deployment(id=action.id, deployment=what))
        if kind == "confirmationBase" and action.waits_for_consent:
            return _said(Confirmation(id=action.id, confirmation=what))
        return Answer(404)

    def _take(self, action: Action, kind: str, body: bytes) -> int:
        if kind == "deploymentBase":
            return action.take(protocol.read(Feedback, body))
        if kind == "cancelAction":
            return action.take_cancel(protocol.read(Feedback, body))
        if kind == "confirmationBase":
            said = protocol.read(Consent, body)
            if not action.waits_for_consent:
                return 410
            action.consents.append(said)
            action.waits_for_consent = said.confirmation != "confirmed"
            return 200
        return 404

    def _merge(self, device: str, said: ConfigData) -> None:
        held = self._attributes[device]
        if said.mode == "replace":
            held.clear()
        for key, value in said.data.items():
            if said.mode == "remove":
                held.pop(key, None)
            else:
                held[key] = value or ""

    def _file(self, path: str, request: Request) -> Answer:
        if path.endswith(".MD5SUM"):
            data = self._files.get(path.removesuffix(".MD5SUM"))
            if data is None:
                return Answer(404)
            name = path.removesuffix(".MD5SUM").rpartition("/")[2]
            return Answer(200, f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}  {name}".encode())
        data = self._files.get(path)
        return Answer(404) if data is None else ranged(data, request)


def _said(message: Message) -> Answer:
    return Answer(200, message.to_json(), {"Content-Type": "application/json"})


def ranged(data: bytes, request: Request) -> Answer:
    """A file, or the range of it that was asked for."""
    tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Last-Modified": MODIFIED, "Accept-Ranges": "bytes"}
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if wanted is None or wanted[0] == "bytes=-" or request.headers.get("if-range", tag) not in (tag, MODIFIED):
        return Answer(200, data, headers)
    begin = int(wanted[1]) if wanted[1] else max(len(data) - int(wanted[2]), 0)
    end = min(int(wanted[2]) if wanted[1] and wanted[2] else len(data) - 1, len(data) - 1)
    if begin > end:
        return Answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    return Answer(206, data[begin : end + 1], headers | {"Content-Range": f"bytes {begin}-{end}/{len(data)}"})


@contextmanager
def serving(answer: Callable[[Request], Answer], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve on the loopback interface, by TLS if there is a context for it; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # A client that goes away must not let its thread wait for ever.
        timeout = 30

        def log_message(self, *_: object) -> None:
            pass

        def _do(self) -> None:
            said = self.headers
            if said.get("transfer-encoding") == "chunked":
                body = b"".join(iter(self._chunk, b""))
            else:
                body = self.rfile.read(int(said.get("content-length") or 0))
            headers = {name.lower(): value for name, value in said.items()}
            try:
                self._send(answer(Request(self.command, self.path, headers, body)))
            except OSError:
                self.close_connection = True

        def _chunk(self) -> bytes:
            data = self.rfile.read(int(self.rfile.readline(), 16))
            self.rfile.readline()
            return data

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.pieces is not None:
                self.send_header("Connection", "close")
                self.end_headers()
                for piece in answer.pieces:
                    self.wfile.write(piece)
                self.close_connection = True
                return
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _do

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that does not like our certificate."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://{'localhost' if tls else '127.0.0.1'}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def double(tls: ssl.SSLContext | None = None) -> Iterator[Double]:
    """A double that runs."""
    made = Double()
    with serving(made.answer, tls) as url:
        made.url = url
        yield made
