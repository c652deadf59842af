"""Groups of devices: filled by hand, on the page and by the API, and meant by a filter."""

from __future__ import annotations

from tbserver import devices
from tbserver.accounts import Role
from tests.server.harness import Fleet


def test_a_group_is_filled_meant_and_removed(a_fleet: Fleet) -> None:
    operator, viewer = a_fleet.person(Role.OPERATOR), a_fleet.person(Role.VIEWER)
    with a_fleet.server.database.writing() as session:
        ids = {name: devices.register(session, 1, name).id for name in ("a-1", "a-2", "b-1")}
    other = a_fleet.tenant("other")
    with a_fleet.server.database.writing() as session:
        theirs = devices.register(session, other, "theirs").id
    group = operator.post("/groups", name="first ones")
    place = f"/groups/{group['id']}"
    # All or none; one that is in already stays, and is noted once.
    strange = operator.ask("POST", f"{place}/devices", json={"controllers": ["a-1", "nobody"]})
    assert (strange.status_code, "there is no device nobody" in strange.text) == (409, True)
    assert operator.ask("POST", f"{place}/devices", json={"controllers": ["theirs"]}).status_code == 409
    assert operator.ask("PUT", f"{place}/devices/{theirs}").status_code == 404
    assert viewer.get(f"{place}/devices")["items"] == []
    operator.post(f"{place}/devices", controllers=["b-1", "a-1"])
    operator.post(f"{place}/devices", controllers=["a-1"])
    assert [one["controller"] for one in viewer.get(f"{place}/devices")["items"]] == ["a-1", "b-1"]
    assert [one["action"] for one in viewer.get("/audit")["items"]].count("group.add") == 2
    assert viewer.get("/rollouts/meant", params={"filter": 'group = "first ones"'})["first"] == ["a-1", "b-1"]
    assert viewer.get(f"/devices/{ids['a-1']}")["groups"] == ["first ones"]
    operator.ask("DELETE", f"{place}/devices/{ids['a-1']}")
    part = viewer.get(f"{place}/devices?limit=1")
    assert ([one["controller"] for one in part["items"]], part["next"]) == (["b-1"], None)
    assert operator.ask("DELETE", place).status_code == 204
    assert viewer.ask("GET", place).status_code == 404
    assert viewer.get("/rollouts/meant", params={"filter": 'group = "first ones"'})["devices"] == 0
    assert viewer.get("/devices")["items"][2]["controller"] == "b-1"


def test_the_page_of_a_group(small_fleet: Fleet) -> None:
    operator, viewer = small_fleet.person(Role.OPERATOR), small_fleet.person(Role.VIEWER)
    with small_fleet.server.database.writing() as session:
        for name in ("a-1", "a-2"):
            devices.register(session, 1, name)
    for name in ('a "b"', "a*", " "):
        assert operator.open("POST", "/groups", data={"name": name}).status_code == 422
    made = operator.open("POST", "/groups", data={"name": "<beta> & more"})
    place = made.headers["location"]
    assert operator.open("POST", f"{place}/devices", data={"devices": "a-1,\r\na-2"}).status_code == 303
    page = operator.open("GET", place).text
    assert "&lt;beta&gt; &amp; more" in page
    assert "/rollouts/new?filter=group+%3D+%22%3Cbeta%3E+%26+more%22" in page
    assert page.count("Take out") == 2
    # What was written stays, with what was wrong.
    wrong = operator.open("POST", f"{place}/devices", data={"devices": "a-1 zzz"})
    assert (wrong.status_code, "There is no device zzz." in wrong.text, ">a-1 zzz<" in wrong.text) == (409, True, True)
    assert "<form" not in viewer.open("GET", place).text.partition("<main")[2]
    first = operator.get("/devices")["items"][0]["id"]
    assert operator.open("POST", f"{place}/devices/{first}/remove").status_code == 303
    assert operator.open("GET", place).text.count("Take out") == 1
    assert operator.open("POST", f"{place}/remove").headers["location"] == "/groups"
    assert "There is no group yet." in viewer.open("GET", "/groups").text
