"""People: the first account, logins and their end, guesses, roles, tokens."""

from __future__ import annotations

import threading
import time
from typing import Any

import argon2
import httpx2
import pytest
from sqlalchemy import select, update

from tbserver import accounts, throttle
from tbserver.accounts import Role
from tbserver.records import Account, ApiToken, AuditEntry, Login, Throttle
from tbserver.server import open_server
from tests.server.harness import Fleet

NEW = "a long new password"
COOKIE = "__Host-tb-login"


def log_in(fleet: Fleet, password: str, name: str = "admin", **more: Any) -> tuple[httpx2.Client, httpx2.Response]:
    browser = fleet.browser()
    return browser, browser.post("/api/v1/login", json={"name": name, "password": password} | more)


def begin(fleet: Fleet) -> httpx2.Client:
    """The admin, logged in with a password of their own."""
    browser, answer = log_in(fleet, fleet.password)
    done = browser.put(
        "/api/v1/me/password", json={"old": fleet.password, "new": NEW}, headers={"X-CSRF-Token": answer.json()["csrf"]}
    )
    assert done.status_code == 200, done.text
    browser.headers["X-CSRF-Token"] = done.json()["csrf"]
    return browser


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stands still."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)


@pytest.mark.real_passwords
def test_passwords_are_kept_by_argon2id(small_fleet: Fleet) -> None:
    with small_fleet.server.database.reading() as session:
        kept = session.scalars(select(Account.password)).one()
    parameters = argon2.extract_parameters(kept)
    assert parameters.type is argon2.Type.ID
    # What RFC 9106 recommends where memory is short, or more.
    assert (parameters.memory_cost, parameters.time_cost, parameters.hash_len, parameters.salt_len) >= (
        65536,
        3,
        32,
        16,
    )


def test_the_first_account_is_made_once_and_its_password_is_for_one_login(a_fleet: Fleet) -> None:
    again, password = open_server(a_fleet.server.settings)
    again.database.close()
    assert password is None
    browser, answer = log_in(a_fleet, a_fleet.password)
    assert answer.status_code == 200
    assert browser.get("/api/v1/me").json() | {"csrf": None} == {
        "tenant": "default",
        "name": "admin",
        "role": "admin",
        "must_change": True,
        "csrf": None,
    }
    assert browser.get("/api/v1/users").status_code == 403
    changed = begin(a_fleet)
    assert changed.get("/api/v1/users").json()["items"][0]["name"] == "admin"
    # The other login ended with the password that it was made with.
    assert browser.get("/api/v1/me").status_code == 401
    assert log_in(a_fleet, a_fleet.password)[1].status_code == 401
    assert log_in(a_fleet, NEW)[1].status_code == 200


def test_the_cookie_is_for_this_server_only_and_is_new_at_each_login(small_fleet: Fleet) -> None:
    browser, answer = log_in(small_fleet, small_fleet.password)
    said = answer.headers["set-cookie"].lower()
    assert said.startswith("__host-tb-login=")
    for word in ("; secure", "; httponly", "; samesite=strict", "; path=/"):
        assert word in said
    assert "domain" not in said
    first = browser.cookies[COOKIE]
    browser.post("/api/v1/login", json={"name": "admin", "password": small_fleet.password})
    assert browser.cookies[COOKIE] != first
    with small_fleet.server.database.reading() as session:
        assert first not in session.scalars(select(Login.digest)).all()


def test_what_changes_things_comes_from_our_page(small_fleet: Fleet) -> None:
    browser = begin(small_fleet)
    new = {"name": "eve", "role": "admin"}
    for headers in (
        {"X-CSRF-Token": ""},
        {"X-CSRF-Token": "wrong"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answer = browser.post("/api/v1/users", json=new, headers=headers)
        assert answer.status_code == 403, headers
    assert browser.post("/api/v1/users", json=new).status_code == 201
    foreign = small_fleet.browser().post(
        "/api/v1/login", json={"name": "admin", "password": NEW}, headers={"Origin": "https://evil.example"}
    )
    assert foreign.status_code == 403


@pytest.mark.parametrize(("column", "seconds"), [("seen", accounts.IDLE_SECONDS), ("created", accounts.LOGIN_SECONDS)])
def test_a_login_ends(small_fleet: Fleet, column: str, seconds: int) -> None:
    browser = begin(small_fleet)
    for age, status in ((seconds - 60, 200), (seconds + 60, 401)):
        with small_fleet.server.database.writing() as session:
            session.execute(update(Login).values({"seen": int(time.time()), column: int(time.time()) - age}))
        assert browser.get("/api/v1/users").status_code == status


def test_logging_out_ends_the_login_on_the_server(small_fleet: Fleet) -> None:
    browser = begin(small_fleet)
    cookie = browser.cookies[COOKIE]
    assert browser.post("/api/v1/logout").status_code == 204
    assert browser.get("/api/v1/me").status_code == 401
    assert small_fleet.browser().get("/api/v1/me", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code == 401


def test_guesses_are_throttled_and_a_right_one_in_time_is_not(a_fleet: Fleet, still: None) -> None:
    for _ in range(3):
        for _ in range(throttle.FREE["both"] - 1):
            assert log_in(a_fleet, "wrong")[1].status_code == 401
        assert log_in(a_fleet, a_fleet.password)[1].status_code == 200
    statuses = [log_in(a_fleet, "wrong")[1].status_code for _ in range(throttle.FREE["both"] + 2)]
    assert statuses == [401] * throttle.FREE["both"] + [429, 429]
    refused = log_in(a_fleet, a_fleet.password)[1]
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= throttle.LONGEST_WAIT
    with a_fleet.server.database.writing() as session:
        session.execute(update(Throttle).values(until=0))
    assert log_in(a_fleet, a_fleet.password)[1].status_code == 200


def test_who_guesses_many_accounts_is_throttled_by_address(small_fleet: Fleet, still: None) -> None:
    statuses = [log_in(small_fleet, "wrong", f"name{n}")[1].status_code for n in range(throttle.FREE["address"] + 1)]
    assert statuses == [401] * throttle.FREE["address"] + [429]


def test_of_very_many_who_log_in_at_once_the_rest_is_sent_away_and_it_counts_for_nobody(
    small_fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = threading.BoundedSemaphore(1)
    monkeypatch.setattr(accounts, "_LOGGING_IN", busy)
    said = {"name": "admin", "password": small_fleet.password}
    with busy:
        for _ in range(10):
            answer = small_fleet.web.post("/api/v1/login", json=said)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
    assert small_fleet.web.post("/api/v1/login", json=said).status_code == 200


def test_successes_do_not_count_as_failures(small_fleet: Fleet) -> None:
    begin(small_fleet)
    for _ in range(throttle.FREE["address"] + 2):
        assert log_in(small_fleet, NEW)[1].status_code == 200


def test_an_account_that_is_not_there_takes_the_same_way_as_one_that_is(
    small_fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    original = accounts._verify

    def counted(stored: str, password: str) -> bool:
        verified.append(stored)
        return original(stored, password)

    monkeypatch.setattr(accounts, "_verify", counted)
    answers = [log_in(small_fleet, "wrong", name)[1] for name in ("admin", "nobody")]
    answers.append(log_in(small_fleet, "wrong", "admin", tenant="nowhere")[1])
    assert [answer.status_code for answer in answers] == [401] * 3
    assert len({answer.text for answer in answers}) == 1
    assert len(verified) == 3
    assert len({stored.rsplit("$", 2)[0] for stored in verified}) == 1  # the same parameters of argon2id


def test_a_throttle_counts_a_household_of_ipv6_as_one() -> None:
    one, other = (throttle.keys("t", "n", address)["address"] for address in ("2001:db8::1", "2001:db8::ffff:2"))
    assert one == other
    assert one != throttle.keys("t", "n", "2001:db8:0:1::1")["address"]


def test_the_last_admin_stays(a_fleet: Fleet) -> None:
    browser = begin(a_fleet)
    me = browser.get("/api/v1/users").json()["items"][0]["id"]
    for change in ({"role": "viewer"}, {"disabled": True}):
        assert browser.patch(f"/api/v1/users/{me}", json=change).status_code == 409
    other = browser.post("/api/v1/users", json={"name": "second", "role": "admin"}).json()
    assert browser.patch(f"/api/v1/users/{me}", json={"role": "viewer"}).status_code == 200
    assert browser.get("/api/v1/users").status_code == 403
    assert log_in(a_fleet, other["password"], "second")[1].status_code == 200
    with a_fleet.server.database.reading() as session:
        roles = session.execute(select(Account.name, Account.role)).all()
    assert sorted(map(tuple, roles)) == [("admin", "viewer"), ("second", "admin")]


def test_two_accounts_of_one_name_are_refused(a_fleet: Fleet) -> None:
    admin = a_fleet.person(Role.ADMIN)
    assert admin.ask("POST", "/users", json={"name": "admin", "role": "viewer"}).status_code == 409


def test_a_closed_account_is_out_at_once(small_fleet: Fleet) -> None:
    admin, operator = small_fleet.person(Role.ADMIN), small_fleet.person(Role.OPERATOR)
    assert operator.ask("GET", "/me").status_code == 200
    admin.ask("PATCH", f"/users/{operator.id}", json={"disabled": True})
    assert operator.ask("GET", "/me").status_code == 401


def test_a_token_can_no_more_than_its_role_nor_than_its_owner(small_fleet: Fleet) -> None:
    admin, viewer = small_fleet.person(Role.ADMIN), small_fleet.person(Role.VIEWER)
    made = admin.post("/tokens", name="for a screen", role="viewer")
    assert made["token"]["role"] == "viewer"
    weak = {"Authorization": f"Bearer {made['secret']}"}
    assert small_fleet.web.get("/api/v1/users", headers=weak).status_code == 403
    assert viewer.post("/tokens", name="too much", role="admin")["token"]["role"] == "viewer"
    strong = admin.post("/tokens", name="all", role="admin")
    admin.ask("PATCH", f"/users/{admin.id}", json={"role": "viewer"})
    answer = small_fleet.web.get("/api/v1/users", headers={"Authorization": f"Bearer {strong['secret']}"})
    assert answer.status_code == 403


def test_a_token_is_kept_as_a_digest_ends_and_can_be_revoked(a_fleet: Fleet) -> None:
    viewer = a_fleet.person(Role.VIEWER)
    made = viewer.post("/tokens", name="one")
    headers = {"Authorization": f"Bearer {made['secret']}"}
    assert a_fleet.web.get("/api/v1/me", headers=headers).status_code == 200
    with a_fleet.server.database.writing() as session:
        kept = session.get_one(ApiToken, made["token"]["id"])
        assert made["secret"] not in (kept.digest, kept.name)
        assert kept.used
        kept.expires = int(time.time()) - 1
    assert a_fleet.web.get("/api/v1/me", headers=headers).status_code == 401
    other = viewer.post("/tokens", name="two")
    assert viewer.ask("DELETE", f"/tokens/{other['token']['id']}").status_code == 204
    headers = {"Authorization": f"Bearer {other['secret']}"}
    assert a_fleet.web.get("/api/v1/me", headers=headers).status_code == 401
    stranger = a_fleet.person(Role.OPERATOR)
    mine = viewer.post("/tokens", name="three")["token"]["id"]
    assert stranger.ask("DELETE", f"/tokens/{mine}").status_code == 404
    assert a_fleet.person(Role.ADMIN).ask("DELETE", f"/tokens/{mine}").status_code == 204


@pytest.mark.parametrize("password", ["short", "x" * 1001])
def test_passwords_have_a_length(small_fleet: Fleet, password: str) -> None:
    browser, answer = log_in(small_fleet, small_fleet.password)
    done = browser.put(
        "/api/v1/me/password",
        json={"old": small_fleet.password, "new": password},
        headers={"X-CSRF-Token": answer.json()["csrf"]},
    )
    assert done.status_code == 422
    assert "12 to 1000" in done.json()["error"]


def test_what_is_done_to_accounts_is_in_the_audit_log_without_secrets(a_fleet: Fleet) -> None:
    browser = begin(a_fleet)
    made = browser.post("/api/v1/users", json={"name": "eve", "role": "viewer"}).json()
    browser.post(f"/api/v1/users/{made['user']['id']}/password")
    log_in(a_fleet, "wrong", "eve")
    done = [(one["who"], one["action"], one["subject"]) for one in browser.get("/api/v1/audit").json()["items"]]
    assert done == [
        ("the server", "login.failed", "eve"),
        ("admin", "account.reset", "eve"),
        ("admin", "account.create", "eve"),
        ("admin", "account.password", "admin"),
        ("admin", "login", "admin"),
        ("the server", "account.create", "admin"),
    ]
    with a_fleet.server.database.reading() as session:
        everything = repr([vars(entry) for entry in session.scalars(select(AuditEntry))])
    for secret in (a_fleet.password, NEW, made["password"], "wrong"):
        assert secret not in everything


def test_long_lists_come_in_pages(a_fleet: Fleet) -> None:
    viewer = a_fleet.person(Role.VIEWER)
    names = [f"token {n}" for n in range(7)]
    for name in names:
        viewer.post("/tokens", name=name)
    found, after = [], None
    for _ in range(3):
        page = viewer.get("/tokens", params={"limit": 3} | ({"after": after} if after else {}))
        found += [one["name"] for one in page["items"]]
        after = page["next"]
    assert (found, after) == (["test", *names], None)


@pytest.mark.parametrize(
    "after", ["x", "!!", "e30", "WzEsMl0", "WyJhIl0", "W3RydWVd", "WzFlOTld", "WzEwMDAwMDAwMDAwMDAwMDAwMDAwMF0"]
)
def test_a_key_of_a_page_that_is_none_is_refused(small_fleet: Fleet, after: str) -> None:
    answer = small_fleet.person(Role.VIEWER).ask("GET", "/audit", params={"after": after})
    assert answer.status_code == 422
    assert "no key" in answer.json()["error"]
