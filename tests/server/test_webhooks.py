"""Webhooks: what is told to whom, how it is signed, and that nothing is lost where nobody answers or a process ends."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from sqlalchemy import select, update
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from tbserver import webhooks
from tbserver.accounts import Role
from tbserver.records import AuditEntry, Notice, Webhook
from tbserver.settings import Settings
from tests.server.harness import Fleet, Person


@dataclass
class Receiver:
    """A real web server that keeps what it is told, and answers what it shall."""

    url: str = ""
    status: int = 200
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@contextmanager
def receiving() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(kept.status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.url = f"http://localhost:{server.server_address[1]}/hook"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield kept
        finally:
            server.shutdown()
            thread.join()


def settings_of(fleet: Fleet) -> Settings:
    return replace(fleet.server.settings, private_webhooks=True)


def hook(fleet: Fleet, url: str, actions: list[str], tenant_id: int = 1) -> str:
    """A webhook as the API makes it, but to the own network; its secret."""
    secret = webhooks.create_secret()
    with fleet.server.database.writing() as session:
        session.add(Webhook(tenant_id=tenant_id, name="x", url=url, secret=secret, actions=actions, created=0))
    return secret


def tell(fleet: Fleet) -> None:
    webhooks.tell(fleet.server.database, settings_of(fleet))


def left(fleet: Fleet) -> list[tuple[int, int]]:
    """What is still to be told: how often it was tried, and in how many seconds it is tried again."""
    with fleet.server.database.reading() as session:
        return [(one.tries, one.due - int(time.time())) for one in session.scalars(select(Notice).order_by(Notice.id))]


def later(fleet: Fleet) -> None:
    """All pauses are over."""
    with fleet.server.database.writing() as session:
        session.execute(update(Notice).values(due=0))


def test_who_asked_is_told_what_was_done_and_can_tell_who_says_so(a_fleet: Fleet, receiver: Receiver) -> None:
    secret = hook(a_fleet, receiver.url, ["group.*", "user.create"])
    other = hook(a_fleet, receiver.url, ["*"], a_fleet.tenant("other"))
    admin = a_fleet.person(Role.ADMIN)
    admin.post("/groups", name="beta")
    admin.post("/tokens", name="not of interest", role="viewer")
    tell(a_fleet)
    ((headers, body),) = receiver.got
    said: dict[str, Any] = Verifier(secret).verify(body, headers)
    assert said["format_version"] == 1
    assert (said["type"], said["data"]["subject"], said["data"]["who"]) == ("group.create", "beta", "admin-1")
    assert said["data"]["tenant"] == "default"
    for key, changed in ((other, body), (secret, body.replace(b"beta", b"Beta"))):
        with pytest.raises(WebhookVerificationError):
            Verifier(key).verify(changed, headers)
    tell(a_fleet)
    assert len(receiver.got) == 1
    assert left(a_fleet) == []


def test_what_was_not_done_is_not_told(a_fleet: Fleet, receiver: Receiver) -> None:
    hook(a_fleet, receiver.url, ["*"])
    person = a_fleet.person(Role.OPERATOR)
    later(a_fleet)
    tell(a_fleet)
    receiver.got.clear()
    person.post("/groups", name="beta")
    assert person.ask("POST", "/groups", json={"name": "beta"}).status_code == 409
    tell(a_fleet)
    assert [json.loads(body)["data"]["subject"] for _, body in receiver.got] == ["beta"]


def test_it_is_told_again_until_it_arrives_and_for_a_day(a_fleet: Fleet, receiver: Receiver) -> None:
    hook(a_fleet, receiver.url, ["group.*"])
    a_fleet.person(Role.OPERATOR).post("/groups", name="beta")
    receiver.status = 500
    pauses = []
    for _ in range(3):
        tell(a_fleet)
        tell(a_fleet)
        ((_, pause),) = left(a_fleet)
        pauses.append(pause)
        later(a_fleet)
    assert [round(pause / 10) for pause in pauses] == [1, 2, 4]
    # Elsewhere is not where it was to go.
    receiver.status = 302
    tell(a_fleet)
    assert len(receiver.got) == 4
    shown = a_fleet.person(Role.ADMIN).get("/webhooks")["items"][0]
    assert shown["fault"] == "it answered 302"
    later(a_fleet)
    receiver.status = 204
    tell(a_fleet)
    assert left(a_fleet) == []
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert a_fleet.person(Role.ADMIN, name="a2").get("/webhooks")["items"][0]["fault"] == ""
    # Nobody is ever there.
    receiver.status = 404
    a_fleet.person(Role.OPERATOR, name="o2").post("/groups", name="gamma")
    for _ in range(webhooks.TRIES):
        later(a_fleet)
        tell(a_fleet)
    assert left(a_fleet) == []
    shown = a_fleet.person(Role.ADMIN, name="a3").get("/webhooks")["items"][0]
    assert shown["fault"] == "it answered 404; a notice was given up"


def test_what_a_killed_process_had_taken_is_told_by_another(a_fleet: Fleet, receiver: Receiver) -> None:
    hook(a_fleet, receiver.url, ["group.*"])
    a_fleet.person(Role.OPERATOR).post("/groups", name="beta")
    assert webhooks._take(a_fleet.server.database) is not None
    tell(a_fleet)
    assert receiver.got == []
    ((_, pause),) = left(a_fleet)
    assert webhooks.TAKEN_SECONDS - 5 < pause <= webhooks.TAKEN_SECONDS
    later(a_fleet)
    tell(a_fleet)
    assert len(receiver.got) == 1


def test_many_processes_tell_each_once(a_fleet: Fleet, receiver: Receiver) -> None:
    hook(a_fleet, receiver.url, ["group.*"])
    person = a_fleet.person(Role.OPERATOR)
    for number in range(20):
        person.post("/groups", name=f"g{number}")
    threads = [threading.Thread(target=tell, args=(a_fleet,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(json.loads(body)["data"]["subject"] for _, body in receiver.got) == sorted(
        f"g{number}" for number in range(20)
    )


def test_the_own_network_is_not_reached_by_who_may_name_an_address(small_fleet: Fleet, receiver: Receiver) -> None:
    admin = small_fleet.person(Role.ADMIN)
    for url in (receiver.url, "ftp://example.org/", "https://user:word@example.org/", "https:///", "nonsense", "//x"):
        assert admin.ask("POST", "/webhooks", json={"name": "x", "url": url}).status_code == 422, url
    # A name can stand for any address: it is looked at when it is told.
    port = receiver.url.rpartition(":")[2].partition("/")[0]
    hook(small_fleet, f"https://localhost:{port}/hook", ["group.*"])
    admin.post("/groups", name="beta")
    webhooks.tell(small_fleet.server.database, small_fleet.server.settings)
    assert receiver.got == []
    assert "localhost is a private address" in admin.get("/webhooks")["items"][0]["fault"]


def test_made_and_removed(small_fleet: Fleet) -> None:
    admin = small_fleet.person(Role.ADMIN)
    made = admin.post("/webhooks", name="chat", url="https://chat.example/1")
    assert made["secret"].startswith("whsec_")
    assert made["webhook"]["actions"] == ["rollout.*"]
    assert made["secret"] not in json.dumps(admin.get("/webhooks")) + admin.open("GET", "/tokens").text
    assert made["secret"] not in json.dumps(admin.get("/audit"))
    with small_fleet.server.database.writing() as session:
        entry = session.scalars(select(AuditEntry)).first()
        assert entry is not None
        session.add(Notice(webhook_id=made["webhook"]["id"], audit_id=entry.id, tries=0, due=0))
    assert admin.ask("DELETE", f"/webhooks/{made['webhook']['id']}").status_code == 204
    assert left(small_fleet) == []
    page(admin)


def page(admin: Person) -> None:
    """The same by the page."""
    form = {"name": "chat", "url": "https://chat.example/1", "actions": "a.*, b"}
    answer = admin.open("POST", "/webhooks", data=form)
    assert answer.status_code == 201
    assert "whsec_" in answer.text
    (shown,) = admin.get("/webhooks")["items"]
    assert shown["actions"] == ["a.*", "b"]
    assert "https://chat.example/1" in admin.open("GET", "/tokens").text
    assert admin.open("POST", f"/webhooks/{shown['id']}/remove").status_code == 303
    assert admin.get("/webhooks")["items"] == []
