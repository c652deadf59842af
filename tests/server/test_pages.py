"""Pages, without a browser: forms that are ours only, text that stays text, plans as people write them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import httpx2
import pytest
from sqlalchemy import event, select
from starlette.testclient import TestClient

from tbserver import delivery, devices, tallies
from tbserver.accounts import Role
from tbserver.pages import charts, plans, sheet
from tbserver.records import Login
from tbserver.refusals import NotValid
from tbserver.rollout import Plan, read_phases
from tests.server.harness import Fleet
from tests.server.test_matrix import PAGES, READS_PAGES, filled
from tests.server.test_tending import Park

PASSWORD = "a password of some length"


def visit(browser: TestClient, place: str) -> httpx2.Response:
    return browser.get(place, headers=READS_PAGES, follow_redirects=False)


def send(browser: TestClient, place: str, **form: Any) -> httpx2.Response:
    return browser.post(place, data=form, headers=READS_PAGES, follow_redirects=False)


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    return found[1]


def logged_in(fleet: Fleet) -> TestClient:
    """The browser of the first admin, who has chosen a password."""
    browser = fleet.browser()
    assert send(browser, "/login", name="admin", password=fleet.password).headers["location"] == "/"
    # Nothing else is there before that.
    assert visit(browser, "/devices").headers["location"] == "/password"
    csrf = csrf_of(visit(browser, "/password").text)
    said = {"old": fleet.password, "new": PASSWORD, "csrf": csrf}
    assert send(browser, "/password", **said, again="another one").status_code == 409
    assert send(browser, "/password", **said, again=PASSWORD).headers["location"] == "/"
    assert visit(browser, "/").status_code == 200
    return browser


def test_a_form_counts_only_from_our_own_page(small_fleet: Fleet) -> None:
    browser = logged_in(small_fleet)
    csrf = csrf_of(visit(browser, "/users").text)
    new = {"name": "mallory", "role": "admin"}
    for form in (new, new | {"csrf": "x"}, new | {"csrf": ""}):
        assert send(browser, "/users", **form).status_code == 403
    elsewhere = {"Origin": "https://elsewhere.example"} | READS_PAGES
    answer = browser.post("/users", data=new | {"csrf": csrf}, headers=elsewhere)
    assert answer.status_code == 403
    assert "mallory" not in visit(browser, "/users").text
    made = send(browser, "/users", **new, csrf=csrf)
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    assert "mallory" in visit(browser, "/users").text
    assert send(browser, "/logout", csrf=csrf).headers["location"] == "/login"
    assert visit(browser, "/").headers["location"] == "/login"


def test_who_was_asked_to_log_in_comes_back(small_fleet: Fleet) -> None:
    logged_in(small_fleet)
    browser = small_fleet.browser()
    asked = visit(browser, "/devices?state=failed").headers["location"]
    assert asked == "/login?next=%2Fdevices%3Fstate%3Dfailed"
    assert 'name="next" value="/devices?state=failed"' in visit(browser, asked).text
    wrong = send(browser, "/login", name="admin", password="x", next="/devices?state=failed")
    assert wrong.status_code == 401
    assert 'name="next" value="/devices?state=failed"' in wrong.text
    right = send(browser, "/login", name="admin", password=PASSWORD, next="/devices?state=failed")
    assert right.headers["location"] == "/devices?state=failed"


@pytest.mark.parametrize("place", ["//evil.example", "/\\evil.example", "https://evil.example", "", "/a\r\nx: y", "/é"])
def test_nobody_is_sent_elsewhere(place: str) -> None:
    assert sheet.inside(place) == "/"


class Strict(HTMLParser):
    """What a browser would refuse to run or to apply, and what has no name for who does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        inline = (tag == "script" and not said.get("src")) or tag == "style"
        if inline or any(name == "style" or name.startswith("on") for name in said):
            self.found.append(self.get_starttag_text() or tag)
        if "id" in said:
            assert said["id"] not in self._ids, said["id"]
            self._ids.add(said["id"] or "")
        assert tag != "img" or "alt" in said
        assert tag != "html" or said.get("lang")


def test_what_devices_say_is_text_on_every_page(small_fleet: Fleet) -> None:
    park = Park(small_fleet, 3)
    nasty = "<script>alert(1)</script>\x1b[31m\u202e"
    with park.database.writing() as session:
        row = devices.register(session, 1, "nasty'\"<img src=x>")
        devices.describe(session, row, "replace", {"release": nasty, "name": nasty, nasty: nasty, "health": '\x1b"<b>'})
        number = row.id
    rollout = park.order({"phases": [{}]}, "")
    park.tend()
    for controller, action in park.poll():
        park.tell(controller, action, "failure")
    group = park.operator.post("/groups", name="<script>alert(1)</script>")["id"]
    assert park.operator.ask("PUT", f"/groups/{group}/devices/{number}").status_code == 204
    held = {"device_id": number, "release_id": park.release_id, "rollout_id": rollout, "group_id": group}
    admin = small_fleet.person(Role.ADMIN)
    seen = ""
    for route in PAGES:
        method, path = route.split(" ")
        if method == "GET" and not {"static", "events", "metrics", "healthz"} & set(path.split("/")):
            text = admin.open("GET", filled(path, held)).text
            reader = Strict()
            reader.feed(text)
            assert reader.found == [], route
            assert "<script>alert" not in text
            assert "<img src=x" not in text
            assert not set(text) & {"\x1b", "\u202e"}, route
            seen += text
    assert seen.count("&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\u202e") > 5


def test_what_goes_on_is_told_until_it_is_over(small_fleet: Fleet) -> None:
    park = Park(small_fleet, 2)
    number = park.order({"phases": [{}]})
    park.tend()
    for controller, action in park.poll():
        park.tell(controller, action, "success", "2.0")
    park.tend()
    answer = park.operator.open("GET", f"/rollouts/{number}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = re.findall(r"^event: (\w+)$", answer.text, re.MULTILINE)
    assert told == ["progress", "over"]
    assert "data: <p" in answer.text
    assert "2 of 2 devices run it" in answer.text


def test_watching_keeps_no_login_alive(small_fleet: Fleet) -> None:
    park = Park(small_fleet, 1)
    number = park.order({"phases": [{}]})
    browser = logged_in(small_fleet)
    with park.database.writing() as session:
        login = session.scalars(select(Login)).one()
        login.seen -= 3600
        before = login.seen
    # It ends at once, as the server is about to.
    small_fleet.web.app.state.is_stopping = lambda: True  # type: ignore[attr-defined]
    for place, keeps in ((f"/rollouts/{number}/events", False), (f"/rollouts/{number}", True)):
        assert visit(browser, place).status_code == 200
        with park.database.reading() as session:
            assert (session.scalars(select(Login.seen)).one() > before) == keeps, place


def test_a_search_by_a_word_a_filter_and_page_by_page(small_fleet: Fleet) -> None:
    park = Park(small_fleet, 60)
    first = park.operator.open("GET", "/devices").text
    assert first.count('scope="row"') == 50
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following
    assert park.operator.open("GET", f"/devices{following[1].replace('&amp;', '&')}").text.count('scope="row"') == 10
    assert park.operator.open("GET", "/devices?filter=x-01").text.count('scope="row"') == 10
    assert park.operator.open("GET", "/devices?filter=number+%3D+3").text.count('scope="row"') == 6
    wrong = park.operator.open("GET", "/devices?filter=number+%3D")
    assert (wrong.status_code, "the filter is not understood" in wrong.text.lower()) == (422, True)


def test_who_trusts_the_delivery_key_is_looked_for_only_when_that_is_asked(small_fleet: Fleet) -> None:
    key = delivery.ready(small_fleet.server.settings).key_id.hex()
    with small_fleet.server.database.writing() as session:
        for name, keys in (("box-1", f"ffffffffffffffff {key}"), ("box-2", "ffffffffffffffff")):
            devices.describe(session, devices.register(session, 1, name), "replace", {"delivery_keys": keys})
    asked: list[str] = []
    engine = small_fleet.server.database.engine
    event.listen(engine, "before_cursor_execute", lambda *said: asked.append(said[2]))
    viewer = small_fleet.person(Role.VIEWER)
    page = viewer.open("GET", "/releases").text
    assert not [one for one in asked if "attribute" in one.lower()]
    found = re.search(rf'{key}</code>. <a href="([^"]+)"', page)
    assert found
    there = viewer.open("GET", found[1]).text
    assert ("box-1" in there, "box-2" in there) == (True, False)
    assert viewer.get("/deltas")["key"]["trusted_by"] == 1
    assert [one for one in asked if "attribute" in one.lower()]


def test_a_rollout_is_looked_at_planned_and_steered(small_fleet: Fleet) -> None:
    park = Park(small_fleet, 12)
    form = {"name": "to 2.0", "release_id": park.release_id, "filter": "number = 1", "phases": "1, rest"}
    looked = park.operator.open("POST", "/rollouts", data=form | {"do": "look"})
    assert "2 devices now: box-001, box-011." in looked.text
    wrong = park.operator.open("POST", "/rollouts", data=form | {"do": "start", "phases": "many"})
    assert (wrong.status_code, "The phase &#39;many&#39; is not understood" in wrong.text) == (422, True)
    assert 'value="number = 1"' in wrong.text
    made = park.operator.open(
        "POST", "/rollouts", data=form | {"do": "start", "days": ["sat", "sun"], "opens": "22:00"}
    )
    assert made.status_code == 303, made.text
    number = int(made.headers["location"].rpartition("/")[2])
    plan = park.shown(number)["rollout"]["plan"]
    assert plan["phases"] == [{"percent": None, "devices": 1}, {"percent": None, "devices": None}]
    assert plan["window"] == {"days": ["sat", "sun"], "start": "22:00", "minutes": 240, "zone": "UTC"}
    park.tend()
    for step, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert park.operator.open("POST", f"/rollouts/{number}/{step}").headers["location"] == f"/rollouts/{number}"
        assert park.shown(number)["rollout"]["state"] == state
    again = park.operator.open("POST", f"/rollouts/{number}/cancel")
    assert (again.status_code, "This rollout has ended." in again.text) == (409, True)


def test_a_second_person_approves(small_fleet: Fleet) -> None:
    park = Park(small_fleet, 3)
    admin, other = small_fleet.person(Role.ADMIN), small_fleet.person(Role.APPROVER)
    assert admin.open("POST", "/tenant", data={"approval": "yes"}).status_code == 303
    assert "checked" in admin.open("GET", "/users").text
    place = f"/rollouts/{park.order({'phases': [{}]})}"
    assert "Approve</button>" not in park.operator.open("GET", place).text
    assert "Approve</button>" in other.open("GET", place).text
    assert other.open("POST", f"{place}/approve").status_code == 303
    assert park.shown(1)["rollout"]["state"] == "preparing"
    assert admin.open("POST", "/tenant").status_code == 303
    assert admin.get("/tenant") == {"name": "default", "approval": False}


def test_phases_as_people_write_them() -> None:
    assert read_phases("5, 10 %,50%, rest") == [{"devices": 5}, {"percent": 10}, {"percent": 50}, {}]
    for text in ("", "1,", "ten", "-1", "5 %%", "1000 %"):
        with pytest.raises(NotValid):
            read_phases(text)
    words = dict(plans.describe(Plan(on_errors="rollback", soak_seconds=3600)))
    assert words["Next phase"].endswith("for 1 hour")
    assert "taken back" in words["Too many errors"]


def test_areas_stand_on_each_other() -> None:
    layers = [("succeeded", [0, 1, 3]), ("lost", [0, 0, 0]), ("waiting", [4, 3, 1])]
    assert [(area.name, area.points) for area in charts.areas([10, 15, 30], layers)] == [
        ("succeeded", "0,100.00 25,75.00 100,25.00 100,100.00 25,100.00 0,100.00"),
        ("waiting", "0,0.00 25,0.00 100,0.00 100,25.00 25,75.00 0,100.00"),
    ]
    assert charts.areas([10], [("waiting", [4])]) == charts.areas([], []) == []


def test_bars_are_as_wide_as_what_they_stand_for() -> None:
    parts = charts.bar([("succeeded", 999_999), ("failed", 1), ("lost", 0)])
    assert [part.name for part in parts] == ["succeeded", "failed"]
    assert parts[1].width >= 0.5
    assert abs(sum(part.width for part in parts) - 100) < 0.01
    assert charts.bar([]) == []
    many = {f"{n}": 100 - n for n in range(20)}
    shown = tallies.largest(many, 8)
    assert len(shown) == 8
    assert sum(count for _, count in shown) == sum(many.values())
    assert [charts.percent(*one) for one in ((0, 9), (1, 9999), (9998, 9999), (9, 9))] == [
        "0 %",
        "1 %",
        "99 %",
        "100 %",
    ]


def test_what_pages_are_drawn_with_is_kept_by_browsers(small_fleet: Fleet) -> None:
    page = visit(small_fleet.browser(), "/login").text
    places = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert len(set(places)) == 3
    for place in places:
        answer = small_fleet.web.get(place)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert small_fleet.web.get("/static/../app.py").status_code == 404
