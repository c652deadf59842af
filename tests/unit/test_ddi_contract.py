"""What any server that speaks DDI has to do, told by a client that shares no code with ours, request by request."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.ddi_server import TENANT, DDIServer, double
from tests.server.live import live

# Every server that has to keep the contract.
SERVERS: dict[str, Callable[[], AbstractContextManager[DDIServer]]] = {"double": double, "tb-server": live}
IMAGE = bytes(range(256)) * 40


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[DDIServer]:
    with SERVERS[request.param]() as made:
        yield made


class Client:
    """A device in a few lines."""

    def __init__(self, server: DDIServer, device: str = "dev-1", token: str | None = None) -> None:
        self.server, self.device = server, device
        self.authorization = f"TargetToken {server.add_device(device) if token is None else token}"

    @property
    def base(self) -> str:
        return f"/{TENANT}/controller/v1/{self.device}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        parts = urllib.parse.urlsplit(path if path.startswith("http") else self.server.url + self.base + path)
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        said.setdefault("Authorization", self.authorization)
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        try:
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            if raw is not None:
                said["Content-Type"] = "application/json"
            connection.request(method, target, raw, {k: v for k, v in said.items() if v})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def poll(self) -> dict[str, Any]:
        status, headers, raw = self.ask("GET", "")
        assert (status, headers["content-type"].partition(";")[0]) == (200, "application/json")
        return dict(json.loads(raw))

    def links(self) -> dict[str, str]:
        return {name: link["href"] for name, link in self.poll().get("_links", {}).items()}

    def open(self, kind: str) -> dict[str, Any]:
        status, _, raw = self.ask("GET", self.links()[kind])
        assert status == 200
        return dict(json.loads(raw))

    def report(
        self, action: str, execution: str, finished: str = "none", kind: str = "deploymentBase", **more: Any
    ) -> int:
        result = {"finished": finished} | more.pop("result", {})
        status = {"execution": execution, "details": more.pop("details", []), "result": result}
        return self.ask("POST", f"/{kind}/{action}/feedback", {"id": action, "status": status} | more)[0]


@pytest.fixture
def client(server: DDIServer) -> Client:
    return Client(server)


@pytest.mark.parametrize(
    "said",
    ["", "TargetToken", "TargetToken nonsense", "targettoken {token}", "TargetToken  {token}", "GatewayToken {token}"],
)
def test_only_the_device_itself_is_answered(client: Client, said: str) -> None:
    token = client.authorization.split()[1]
    status, _, body = client.ask("GET", "", Authorization=said.format(token=token))
    assert (status, body) == (401, b"")
    other = Client(client.server, "dev-2", token)
    client.server.add_device("dev-2")
    assert other.ask("GET", "")[0] == 401


def test_an_unknown_device_registers_by_the_token_of_a_gateway(server: DDIServer) -> None:
    new = Client(server, "new-1", "x" * 20)
    assert new.ask("GET", "")[0] == 401
    new.authorization = f"GatewayToken {server.gateway_token}"
    assert "configData" in new.links()


def test_a_poll_without_an_action(client: Client) -> None:
    sleep = client.poll()["config"]["polling"]["sleep"]
    assert re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d", sleep)
    assert "00:00:30" <= sleep <= "23:59:59"
    assert not {"deploymentBase", "cancelAction", "confirmationBase"} & client.links().keys()


def test_attributes_are_wanted_until_they_are_there(client: Client) -> None:
    assert client.links()["configData"] == f"{client.server.url}{client.base}/configData"
    odd = {"id": "", "time": "20260101T000000", "status": {"execution": "closed", "result": {"finished": "success"}}}
    assert client.ask("PUT", "/configData", odd | {"data": {"a": "1", "b": "2"}})[0] == 200
    assert "configData" not in client.links()
    client.ask("PUT", "/configData", {"mode": "merge", "data": {"b": "3"}})
    assert client.server.attributes(client.device) == {"a": "1", "b": "3"}
    client.ask("PUT", "/configData", {"mode": "remove", "data": {"a": ""}})
    assert client.server.attributes(client.device) == {"b": "3"}
    client.ask("PUT", "/configData", {"mode": "replace", "data": {"c": "4"}})
    assert client.server.attributes(client.device) == {"c": "4"}


def test_a_whole_cycle(client: Client) -> None:
    action = client.server.add_action(client.device, {"full.tbdiff": IMAGE}, version="2.0")
    href = client.links()["deploymentBase"]
    assert re.fullmatch(rf"{re.escape(client.server.url + client.base)}/deploymentBase/{action}\?c=.+", href)
    said = client.open("deploymentBase")
    assert said["id"] == action
    assert (said["deployment"]["download"], said["deployment"]["update"]) == ("attempt", "attempt")
    (chunk,) = said["deployment"]["chunks"]
    assert chunk["version"] == "2.0"
    (artifact,) = chunk["artifacts"]
    assert (artifact["filename"], artifact["size"]) == ("full.tbdiff", len(IMAGE))
    for kind in ("sha1", "md5", "sha256"):
        assert artifact["hashes"][kind] == hashlib.new(kind, IMAGE).hexdigest()
    assert client.ask("GET", artifact["_links"]["download"]["href"])[2] == IMAGE
    assert client.ask("GET", artifact["_links"]["md5sum"]["href"])[2].startswith(artifact["hashes"]["md5"].encode())
    assert client.report(action, "download") == 200
    assert client.report(action, "downloaded") == 200
    assert client.report(action, "proceeding", result={"progress": {"cnt": 1, "of": 2}}, details=["half"]) == 200
    assert client.server.state(action) == "open"
    assert client.report(action, "closed", "success", details=["done"]) == 200
    assert client.server.state(action) == "finished"
    assert client.server.told(action) == ["half", "done"]
    assert "deploymentBase" not in client.links()
    assert client.report(action, "closed", "success") == 410
    assert client.open("installedBase")["id"] == action


@pytest.mark.parametrize(
    ("execution", "finished", "state"),
    [
        *(("closed", "failure", "error"), ("closed", "success", "finished"), ("closed", "none", "finished")),
        *(("canceled", "none", "canceled"), ("rejected", "none", "open"), ("proceeding", "failure", "open")),
        *(("scheduled", "none", "open"), ("resumed", "none", "open")),
    ],
)
def test_what_a_report_makes_of_an_action(client: Client, execution: str, finished: str, state: str) -> None:
    action = client.server.add_action(client.device, {"x": b"x"})
    assert client.report(action, execution, finished) == 200
    assert client.server.state(action) == state
    assert ("deploymentBase" in client.links()) == (state == "open")


def test_reports_as_odd_clients_send_them(client: Client) -> None:
    action = client.server.add_action(client.device, {"x": b"x"})
    raw = b'{"id": %s, "time": "20260101T000000", "new": [1], "status": {"execution": "proceeding",'
    raw += b' "details": ["two\nlines"], "result": {"finished": "none", "progress": {"percentage": 5}}}}'
    assert client.ask("POST", f"/deploymentBase/{action}/feedback", raw % action.encode())[0] == 200
    assert client.server.told(action) == ["two\nlines"]
    assert client.ask("POST", f"/deploymentBase/{action}/feedback", b"{")[0] == 400
    assert client.report("2147483646", "closed") == 404
    assert client.report("99999999999", "closed") == 404
    client.server.add_device("dev-2")
    other = Client(client.server, "dev-2")
    assert other.report(action, "closed", "success") == 404
    assert other.ask("GET", f"/deploymentBase/{action}")[0] == 404


def test_a_report_that_comes_twice_counts_once(client: Client) -> None:
    action = client.server.add_action(client.device, {"x": b"x"})
    for _ in range(2):
        assert client.report(action, "proceeding", details=["once"], report="0123456789abcdef") == 200
    assert client.server.told(action) == ["once"]


def test_it_is_stopped_when_the_device_says_so(client: Client) -> None:
    action = client.server.add_action(client.device, {"x": b"x"})
    client.server.cancel(action)
    assert {"deploymentBase", "cancelAction"} & client.links().keys() == {"cancelAction"}
    assert client.ask("GET", f"/deploymentBase/{action}")[0] == 404
    assert client.open("cancelAction") == {"id": action, "cancelAction": {"stopId": action}}
    assert client.server.state(action) == "open"
    assert client.report(action, "closed", "success", "cancelAction") == 200
    assert client.server.state(action) == "canceled"
    assert not {"deploymentBase", "cancelAction"} & client.links().keys()


def test_a_device_may_go_on(client: Client) -> None:
    action = client.server.add_action(client.device, {"x": b"x"})
    client.server.cancel(action)
    assert client.report(action, "rejected", "none", "cancelAction", details=["too late"]) == 200
    assert "deploymentBase" in client.links()
    assert client.server.told(action) == ["too late"]
    client.report(action, "closed", "success")
    assert client.server.state(action) == "finished"


def test_a_person_at_the_device_is_asked(client: Client) -> None:
    action = client.server.add_action(client.device, {"x": IMAGE}, confirm=True)
    href = client.links()["confirmationBase"]
    assert client.ask("GET", f"/deploymentBase/{action}")[0] == 404
    said = client.open("confirmationBase")
    assert said["id"] == action
    assert said["confirmation"]["chunks"][0]["artifacts"][0]["size"] == len(IMAGE)
    answer = {"confirmation": "denied", "code": 0, "details": ["not now"]}
    assert client.ask("POST", f"/confirmationBase/{action}/feedback", answer)[0] == 200
    assert client.links()["confirmationBase"] == href
    assert client.ask("POST", f"/confirmationBase/{action}/feedback", answer | {"confirmation": "confirmed"})[0] == 200
    assert client.open("deploymentBase")["id"] == action
    assert client.links()["deploymentBase"].partition("?c=")[2] != href.partition("?c=")[2]


@pytest.mark.parametrize("how", ["skip", "attempt", "forced"])
def test_how_it_is_to_be_handled(client: Client, how: str) -> None:
    client.server.add_action(client.device, {"x": b"x"}, update=how)
    if how == "skip" and "deploymentBase" not in client.links():
        # Withheld, which is better: there are clients that say at once that they are done.
        return
    assert client.open("deploymentBase")["deployment"]["update"] == how


def test_a_command_is_a_chunk_of_its_own_kind(client: Client) -> None:
    client.server.add_action(client.device, {}, command="rollback", version="1.0")
    (chunk,) = client.open("deploymentBase")["deployment"]["chunks"]
    assert (chunk["part"], chunk["name"], chunk["version"], chunk["artifacts"]) == ("tb-update", "rollback", "1.0", [])


def test_what_a_device_runs_it_says_itself(client: Client) -> None:
    assert client.ask("PUT", "/installedBase", {"name": "demo", "version": "1.0"})[0] == 200
    assert client.server.installed(client.device) == ("demo", "1.0")


def test_trust_statements_are_there_as_they_were_put(client: Client) -> None:
    assert "trustStatements" not in client.links()
    assert client.ask("GET", "/trustStatements")[0] == 404
    client.server.put_statements(b'{"statements": []}', 3)
    told = client.poll()["_links"]["trustStatements"]
    assert told["version"] == 3
    assert client.ask("GET", told["href"])[::2] == (200, b'{"statements": []}')
    assert client.ask("GET", told["href"], Authorization="")[0] == 401


@pytest.mark.parametrize(
    ("wanted", "status", "part", "told"),
    [
        ("bytes=0-99", 206, slice(0, 100), "bytes 0-99/10240"),
        ("bytes=10000-", 206, slice(10000, None), "bytes 10000-10239/10240"),
        ("bytes=10000-99999", 206, slice(10000, None), "bytes 10000-10239/10240"),
        ("bytes=-40", 206, slice(-40, None), "bytes 10200-10239/10240"),
        ("bytes=10240-", 416, slice(0), "bytes */10240"),
        ("lines=1-2", 200, slice(None), None),
    ],
)
def test_parts_of_a_file(client: Client, wanted: str, status: int, part: slice, told: str | None) -> None:
    client.server.add_action(client.device, {"x.tbdiff": IMAGE})
    href = client.open("deploymentBase")["deployment"]["chunks"][0]["artifacts"][0]["_links"]["download"]["href"]
    found, headers, body = client.ask("GET", href, Range=wanted)
    assert (found, headers.get("content-range")) == (status, told)
    assert status == 416 or body == IMAGE[part]
    assert client.ask("GET", href, Authorization="")[0] == 401
    _, head, nothing = client.ask("HEAD", href)
    assert (head["content-length"], head["accept-ranges"], nothing) == ("10240", "bytes", b"")
    assert client.ask("GET", href, Range="bytes=5-", If_Range=head["etag"])[2] == IMAGE[5:]
    assert client.ask("GET", href, Range="bytes=5-", If_Range='"other"')[0::2] == (200, IMAGE)


def test_a_device_enrols_once_and_may_ask_twice(server: DDIServer) -> None:
    once = server.add_enrolment("new-2")
    new = Client(server, "new-2", "my-own-token-of-the-device")

    def enrol(token: str, once: str = once) -> int:
        return new.ask("POST", "/enrolment", {"token": token}, Authorization=f"EnrolmentToken {once}")[0]

    own = new.authorization.split()[1]
    assert enrol(own, "wrong-token") == 401
    assert enrol(own) == 200
    assert enrol(own) == 200
    assert enrol("another-token-of-a-thief") == 401
    new.poll()
    thief = Client(server, "new-3", own)
    assert thief.ask("POST", "/enrolment", {"token": own}, Authorization=f"EnrolmentToken {once}")[0] == 401
