"""All routes, all roles, two tenants: who may what, and that nobody learns of another tenant."""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from tbdiff.rotation import Wish, rotate
from tbdiff.signature import create_key
from tbserver import api, devices, pages, vitals
from tbserver.accounts import Role
from tbserver.records import Release
from tests.server.harness import Fleet

OPEN = "anybody"
# The least role for each route of the API. A route that is not here fails the test below.
ROLES: dict[str, Role | str] = {
    "POST /login": OPEN,
    "GET /me": Role.VIEWER,
    "POST /logout": Role.VIEWER,
    "PUT /me/password": Role.VIEWER,
    "GET /tenant": Role.VIEWER,
    "PATCH /tenant": Role.ADMIN,
    "GET /users": Role.ADMIN,
    "POST /users": Role.ADMIN,
    "PATCH /users/{user_id}": Role.ADMIN,
    "POST /users/{user_id}/password": Role.ADMIN,
    "GET /tokens": Role.VIEWER,
    "POST /tokens": Role.VIEWER,
    "DELETE /tokens/{token_id}": Role.VIEWER,
    "GET /webhooks": Role.ADMIN,
    "POST /webhooks": Role.ADMIN,
    "DELETE /webhooks/{webhook_id}": Role.ADMIN,
    "GET /audit": Role.VIEWER,
    "GET /devices": Role.VIEWER,
    "GET /devices/counts": Role.VIEWER,
    "GET /devices/{device_id}": Role.VIEWER,
    "PATCH /devices/{device_id}": Role.OPERATOR,
    "GET /device-tokens": Role.ADMIN,
    "POST /device-tokens": Role.ADMIN,
    "DELETE /device-tokens/{device_token_id}": Role.ADMIN,
    "GET /groups": Role.VIEWER,
    "POST /groups": Role.OPERATOR,
    "GET /groups/{group_id}": Role.VIEWER,
    "DELETE /groups/{group_id}": Role.OPERATOR,
    "GET /groups/{group_id}/devices": Role.VIEWER,
    "POST /groups/{group_id}/devices": Role.OPERATOR,
    "PUT /groups/{group_id}/devices/{device_id}": Role.OPERATOR,
    "DELETE /groups/{group_id}/devices/{device_id}": Role.OPERATOR,
    "GET /rollouts": Role.VIEWER,
    "POST /rollouts": Role.OPERATOR,
    "GET /rollouts/meant": Role.VIEWER,
    "GET /rollouts/{rollout_id}": Role.VIEWER,
    "GET /rollouts/{rollout_id}/devices": Role.VIEWER,
    "POST /rollouts/{rollout_id}/approve": Role.APPROVER,
    **{
        f"POST /rollouts/{{rollout_id}}/{word}": Role.OPERATOR
        for word in ("pause", "resume", "cancel", "retry", "rollback")
    },
    "GET /keys": Role.VIEWER,
    "POST /keys": Role.ADMIN,
    "DELETE /keys/{key_id}": Role.ADMIN,
    "GET /statements": Role.VIEWER,
    "PUT /statements": Role.ADMIN,
    "DELETE /statements": Role.ADMIN,
    "POST /uploads": Role.OPERATOR,
    "PATCH /uploads/{upload_id}": Role.OPERATOR,
    "DELETE /uploads/{upload_id}": Role.OPERATOR,
    "POST /uploads/{upload_id}/finish": Role.OPERATOR,
    "GET /releases": Role.VIEWER,
    "GET /releases/{release_id}": Role.VIEWER,
    "PATCH /releases/{release_id}": Role.OPERATOR,
    "GET /deltas": Role.VIEWER,
}
# The same for the pages, and for what looks after the server.
PAGES: dict[str, Role | str] = {
    "GET /healthz": OPEN,
    "GET /metrics": Role.VIEWER,
    "GET /static/{name}": OPEN,
    "GET /login": OPEN,
    "POST /login": OPEN,
    "POST /logout": Role.VIEWER,
    "GET /password": Role.VIEWER,
    "POST /password": Role.VIEWER,
    "GET /": Role.VIEWER,
    "GET /devices": Role.VIEWER,
    "GET /devices/{device_id}": Role.VIEWER,
    "POST /devices/{device_id}": Role.OPERATOR,
    "GET /groups": Role.VIEWER,
    "POST /groups": Role.OPERATOR,
    "GET /groups/{group_id}": Role.VIEWER,
    "POST /groups/{group_id}/devices": Role.OPERATOR,
    "POST /groups/{group_id}/devices/{device_id}/remove": Role.OPERATOR,
    "POST /groups/{group_id}/remove": Role.OPERATOR,
    "GET /releases": Role.VIEWER,
    "GET /releases/{release_id}": Role.VIEWER,
    "POST /releases/{release_id}": Role.OPERATOR,
    "POST /keys": Role.ADMIN,
    "POST /keys/{key_id}/distrust": Role.ADMIN,
    "GET /rollouts": Role.VIEWER,
    "POST /rollouts": Role.OPERATOR,
    "GET /rollouts/new": Role.OPERATOR,
    "GET /rollouts/{rollout_id}": Role.VIEWER,
    "GET /rollouts/{rollout_id}/events": Role.VIEWER,
    "POST /rollouts/{rollout_id}/approve": Role.APPROVER,
    "POST /rollouts/{rollout_id}/{step}": Role.OPERATOR,
    "GET /audit": Role.VIEWER,
    "POST /tenant": Role.ADMIN,
    "GET /users": Role.ADMIN,
    "POST /users": Role.ADMIN,
    "POST /users/{user_id}": Role.ADMIN,
    "POST /users/{user_id}/password": Role.ADMIN,
    "GET /tokens": Role.VIEWER,
    "POST /tokens": Role.VIEWER,
    "POST /tokens/{token_id}/revoke": Role.VIEWER,
    "POST /device-tokens": Role.ADMIN,
    "POST /device-tokens/{device_token_id}/revoke": Role.ADMIN,
    "POST /webhooks": Role.ADMIN,
    "POST /webhooks/{webhook_id}/remove": Role.ADMIN,
}
# What a form has to say before anybody is told that what it is about is not there.
FORMS = {
    "POST /releases/{release_id}": {"withdrawn": "yes"},
    "POST /devices/{device_id}": {"revoked": "yes"},
    "POST /groups": {"name": " "},
    "POST /groups/{group_id}/devices": {"devices": "x"},
    "POST /users/{user_id}": {"role": "viewer"},
    "POST /keys": {"name": "x", "kind": "release", "pem": "x"},
    "POST /users": {"name": " ", "role": "viewer"},
    "POST /tokens": {"name": " ", "role": "viewer"},
    "POST /device-tokens": {"name": " ", "kind": "gateway"},
    "POST /webhooks": {"name": " ", "url": "x"},
}
READS_PAGES = {"Accept": "text/html,application/xhtml+xml"}


def api_routes(fleet: Fleet) -> list[str]:
    routes = fleet.web.app.openapi()["paths"]  # type: ignore[attr-defined]
    return [
        f"{method.upper()} {path.removeprefix('/api/v1')}"
        for path, methods in routes.items()
        for method in methods
        if path.startswith("/api/v1/")
    ]


def things(fleet: Fleet, tenant_id: int) -> dict[str, Any]:
    """One of everything, of a tenant; by the names of parameters in paths."""
    name = f"owner-{tenant_id}"
    admin = fleet.person(Role.ADMIN, tenant_id, name)
    data = name.encode()
    said = {"digest": hashlib.sha256(data).hexdigest(), "size": len(data)}
    with tempfile.TemporaryDirectory() as place:
        key, chain = Path(place, name), Path(place, "trust.json")
        create_key(key)
        public = key.with_name(f"{name}.pub")
        pem = public.read_text()
        rotate(chain, Wish(release=[public]), [key])
        assert admin.ask("PUT", "/statements", content=chain.read_bytes()).json()["release"][0]["name"] == name
    with fleet.server.database.writing() as session:
        device = devices.register(session, tenant_id, name).id
        row = Release(
            tenant_id=tenant_id,
            tree=name,
            statement=b"",
            name=name,
            version=name,
            epoch=0,
            device_types=[],
            size=0,
            created=0,
        )
        session.add(row)
        session.flush()
        release = row.id
    return {
        "user_id": admin.id,
        "token_id": admin.get("/tokens")["items"][0]["id"],
        "device_id": device,
        "group_id": admin.post("/groups", name=name)["id"],
        "device_token_id": admin.post("/device-tokens", kind="gateway", name=name)["token"]["id"],
        "webhook_id": admin.post("/webhooks", name=name, url="https://hooks.example/1")["webhook"]["id"],
        "key_id": admin.post("/keys", name=name, pem=pem)["id"],
        "upload_id": admin.post("/uploads", **said)["id"],
        "release_id": release,
        "rollout_id": admin.post("/rollouts", name=name, release_id=release)["rollout"]["id"],
    }


def filled(path: str, held: dict[str, Any]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: str(held[found[1]]), path)


def routes_of(part: Any) -> list[APIRoute]:
    return [route for route in part.router.routes if isinstance(route, APIRoute)]


def test_every_route_has_a_role(small_fleet: Fleet) -> None:
    assert sorted(api_routes(small_fleet)) == sorted(ROLES)
    assert all(route.include_in_schema for part in api.PARTS for route in routes_of(part))
    shown = {
        f"{method} {route.path}"
        for part in (*pages.PARTS, vitals)
        for route in routes_of(part)
        for method in route.methods
    }
    assert shown == set(PAGES)


def test_every_page_takes_its_role_and_no_less(small_fleet: Fleet) -> None:
    people = {role: small_fleet.person(role) for role in Role}
    absent = dict.fromkeys(things(small_fleet, 1), 999_999) | {"step": "pause", "name": "nothing"}
    for route, least in PAGES.items():
        method, path = route.split(" ")
        place, form = filled(path, absent), FORMS.get(route, {})
        answer = small_fleet.web.request(method, place, data=form, headers=READS_PAGES, follow_redirects=False)
        assert (answer.status_code == 303 and answer.headers["location"].startswith("/login")) == (least != OPEN), route
        if path in ("/logout", "/password") or not isinstance(least, Role):
            continue
        for role, person in people.items():
            status = person.open(method, place, data=form).status_code
            assert status in (200, 303, 403, 404, 409, 422), (route, role, status)
            assert (status == 403) == (role < least), (route, role, status)
            assert status == 404 or role < least or "{" not in path, (route, role, status)


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, -(2**63) - 1])
def test_numbers_that_no_database_has_are_none(a_fleet: Fleet, number: int) -> None:
    admin = a_fleet.person(Role.ADMIN)
    absent = dict.fromkeys(things(a_fleet, 1), number) | {"step": "pause", "name": "nothing"}
    for route in ROLES:
        method, path = route.split(" ")
        if "_id}" in path and "upload" not in path:
            answer = admin.ask(method, filled(path, absent), json=body(route))
            assert answer.status_code in (404, 422), (route, answer.text)
    for route in PAGES:
        method, path = route.split(" ")
        if "_id}" in path:
            answer = admin.open(method, filled(path, absent), data=FORMS.get(route, {}))
            assert answer.status_code in (404, 422), (route, answer.text)
    rollout = {"name": "x", "release_id": number}
    assert admin.ask("POST", "/rollouts", json=rollout).status_code in (404, 422)
    assert admin.open("POST", "/rollouts", data=rollout).status_code in (200, 404, 422)
    assert admin.ask("GET", "/rollouts/meant", params={"release_id": number}).status_code in (200, 422)


def test_a_page_shows_nothing_of_another_tenant(small_fleet: Fleet) -> None:
    other = small_fleet.tenant("other")
    theirs = things(small_fleet, other) | {"step": "pause", "name": "nothing"}
    me = small_fleet.person(Role.ADMIN)
    for route in PAGES:
        method, path = route.split(" ")
        if "{" in path:
            answers = [
                me.open(method, filled(path, held), data=FORMS.get(route, {}))
                for held in (theirs, dict.fromkeys(theirs, 999_999) | {"step": "pause"})
            ]
            assert [answer.status_code for answer in answers] == [404, 404], route
            assert answers[0].content == answers[1].content, route
        elif method == "GET" and path != "/login":
            answer = me.open(method, path)
            assert answer.status_code == 200, route
            assert f"owner-{other}" not in answer.text, route


def test_every_route_takes_its_role_and_no_less(small_fleet: Fleet) -> None:
    people = {role: small_fleet.person(role) for role in Role}
    # What is not there: who may do it is told so, and nothing happens.
    absent = dict.fromkeys(things(small_fleet, 1), 999_999)
    for route, least in ROLES.items():
        method, path = route.split(" ")
        place = filled(path, absent)
        answer = small_fleet.web.request(method, f"/api/v1{place}", json={})
        assert (answer.status_code == 401) == (least != OPEN), route
        if path in ("/login", "/logout", "/me/password"):
            continue
        for role, person in people.items():
            status = person.ask(method, place, json={}).status_code
            assert status not in (401, 500), (route, role, status)
            assert (status == 403) == (role < least), (route, role, status)


def test_nothing_of_another_tenant_is_there(small_fleet: Fleet) -> None:
    other = small_fleet.tenant("other")
    theirs = things(small_fleet, other)
    me = small_fleet.person(Role.ADMIN)
    for route in ROLES:
        method, path = route.split(" ")
        if "{" in path:
            answers = [
                me.ask(method, filled(path, held), json=body(route), params={"offset": 0})
                for held in (theirs, dict.fromkeys(theirs, 999_999))
            ]
            assert [answer.status_code for answer in answers] == [404, 404], (route, answers[0].text)
            assert answers[0].content == answers[1].content, route
        elif method == "GET" and path != "/me":
            assert f"owner-{other}" not in me.ask(method, path).text, route


def body(route: str) -> dict[str, Any]:
    """What a route takes."""
    said: dict[str, Any] = {
        "PATCH /devices/{device_id}": {"revoked": True},
        "PATCH /releases/{release_id}": {"withdrawn": True},
        "POST /groups/{group_id}/devices": {"controllers": ["x"]},
    }
    return said.get(route, {})


def test_an_answer_says_what_browsers_may_do_with_it(small_fleet: Fleet) -> None:
    for path in ("/api/v1/me", "/nowhere"):
        headers = small_fleet.web.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert small_fleet.web.get("/api/v1/me").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/nothing", "/api/v1/users/../me/"])
def test_what_is_not_there_is_said_in_json(small_fleet: Fleet, path: str) -> None:
    answer = small_fleet.web.get(path)
    assert answer.status_code == 404
    assert set(answer.json()) == {"error", "remedy"}
