"""What is new in a release: found out once by one of many, within limits, and shown to its own tenant."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select, update

from tbserver import children, comparing, demand
from tbserver.accounts import Role
from tbserver.files import key_of
from tbserver.records import Comparison
from tests.server.harness import Fleet, Person
from tests.server.images import Works, upload
from tests.server.test_artifacts import trust


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Works:
    """A build host whose releases have packages, as dpkg leaves them."""
    made = Works(tmp_path_factory.mktemp("works"))
    for version, packages in (("1.0", ("old", "libc6")), ("1.1", ("libc6",)), ("2.0", ("new", "libc6"))):
        info = made.tree(version) / "var/lib/dpkg/info"
        info.mkdir(parents=True)
        for name in packages:
            (info / f"{name}.md5sums").write_text(f"{name} {version}")
    return made


def filled(fleet: Fleet, works: Works, *versions: str) -> tuple[Person, dict[str, int]]:
    """Full images that were uploaded; the numbers of their releases."""
    operator = fleet.person(Role.OPERATOR)
    trust(fleet, works)
    for version in versions:
        assert upload(operator, works.image(version))[0] == 201
    return operator, {one["version"]: one["id"] for one in operator.get("/releases")["items"]}


def test_what_is_new_is_found_out_once_and_shown(a_fleet: Fleet, works: Works) -> None:
    operator, releases = filled(a_fleet, works, "1.0", "1.1", "2.0")
    place = f"/releases/{releases['2.0']}"
    assert (operator.get(place)["news"]["state"], operator.get(place)["news"]["why"]) == ("waiting", "its turn comes")
    assert comparing.compare_next(a_fleet.server)
    assert operator.get(place)["news"]["state"] == "done"
    assert comparing.compare_next(a_fleet.server)
    assert not comparing.compare_next(a_fleet.server)
    assert list(a_fleet.server.settings.scratch.iterdir()) == []
    whole = operator.get(place)
    news, found = whole["news"], whole["news"]["found"]
    assert (news["since"], news["since_id"], news["delta"]) == ("1.1", releases["1.1"], 0)
    assert found["files"]["added"] == {"count": 1, "size": len("new 2.0")}
    assert found["files"]["changed"] == {"count": 2, "size": 300 + len("libc6 2.0")}
    assert found["files"]["removed"] == {"count": 0, "size": 0}
    assert found["packages"]["added"] == {"count": 1, "names": ["new"]}
    assert found["packages"]["changed"] == {"count": 1, "names": ["libc6"]}
    assert operator.get(f"/releases/{releases['1.1']}")["news"]["found"]["packages"]["removed"]["names"] == ["old"]
    assert operator.get(f"/releases/{releases['1.0']}")["news"] is None
    assert (whole["manifest"]["release"], whole["manifest"]["entries"]) == ("2.0", 9)
    # A delta that comes counts, for the news and for the size.
    assert upload(operator, works.image("2.0", "1.1", of=works.image("2.0")))[0] == 201
    whole = operator.get(place)
    (size,) = whole["sizes"]
    assert (size["device_type"], size["size"]) == ("kiosk", whole["release"]["size"])
    assert 0 < size["delta"] == whole["news"]["delta"] < size["full"]
    page = operator.open("GET", place).text
    assert "Packages changed</dt><dd>libc6</dd>" in page
    stranger = a_fleet.person(Role.ADMIN, a_fleet.tenant("other"))
    assert stranger.ask("GET", place).status_code == 404


def test_where_nothing_is_to_be_compared_little_is_asked(small_fleet: Fleet, works: Works) -> None:
    filled(small_fleet, works, "1.0", "1.1")
    asked: list[str] = []
    event.listen(small_fleet.server.database.engine, "before_cursor_execute", lambda *said: asked.append(said[2]))
    assert comparing.compare_next(small_fleet.server)
    # What deltas are decided by, which is read anew each time.
    assert [one for one in asked if "FROM wanted" in one]
    asked.clear()
    assert not comparing.compare_next(small_fleet.server)
    assert not [one for one in asked if "FROM wanted" in one]


def test_only_what_is_for_the_same_devices_is_compared(small_fleet: Fleet, works: Works) -> None:
    operator, releases = filled(small_fleet, works, "1.0")
    others = Works(works.place, types=("panel",))
    assert upload(operator, others.image("1.1", key="release"))[0] == 201
    assert upload(operator, works.image("2.0"))[0] == 201
    releases = {one["version"]: one["id"] for one in operator.get("/releases")["items"]}
    assert operator.get(f"/releases/{releases['1.1']}")["news"] is None
    assert operator.get(f"/releases/{releases['2.0']}")["news"]["since"] == "1.0"


def test_a_version_for_two_types_has_two_sizes(small_fleet: Fleet, works: Works, tmp_path: Path) -> None:
    operator, releases = filled(small_fleet, works, "1.0")
    others = Works(tmp_path, types=("panel",))
    others.tree("1.0").joinpath("more").write_bytes(bytes(1000))
    trust(small_fleet, others, "another")
    assert upload(operator, others.image("1.0", key="another"))[0] == 201
    sizes = operator.get(f"/releases/{releases['1.0']}")["sizes"]
    assert [one["device_type"] for one in sizes] == ["kiosk", "panel"]
    assert len({one["release_id"] for one in sizes}) == 2


def test_two_at_once_never_compare_the_same(a_fleet: Fleet, works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(a_fleet, works, "1.0", "1.1", "2.0")
    run = children.run
    done: list[list[str]] = []

    def noted(server: Any, words: list[str], *more: Any) -> str:
        done.append(words)
        return run(server, words, *more)

    monkeypatch.setattr(children, "run", noted)
    threads = [threading.Thread(target=comparing.compare_next, args=(a_fleet.server,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not comparing.compare_next(a_fleet.server)
    assert len(done) == 2


def test_a_claim_that_ran_out_is_taken_over(small_fleet: Fleet, works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, releases = filled(small_fleet, works, "1.0", "1.1")
    run = children.run
    others: list[int] = []

    def slow(*given: Any) -> str:
        said = run(*given)
        if not others:
            others.append(1)
            assert not comparing.compare_next(small_fleet.server)
            with small_fleet.server.database.writing() as session:
                session.execute(update(Comparison).values(until=0))
            assert comparing.compare_next(small_fleet.server)
            # What the first one brings comes too late.
            return said.replace("libc6", "wrong")
        return said

    monkeypatch.setattr(children, "run", slow)
    assert comparing.compare_next(small_fleet.server)
    news = operator.get(f"/releases/{releases['1.1']}")["news"]
    assert news["found"]["packages"]["changed"]["names"] == ["libc6"]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"memory": 20 << 20}, "it takes more memory than 20 MiB"),
        ({"seconds": 0}, "it takes longer than 0 seconds"),
        ({}, "damaged"),
    ],
)
def test_why_it_failed_is_said_and_it_is_left_alone(
    small_fleet: Fleet, works: Works, limits: dict[str, Any], words: str
) -> None:
    operator, releases = filled(small_fleet, works, "1.0", "1.1")
    server, place = small_fleet.server, f"/releases/{releases['1.1']}"
    if not limits:
        path = server.settings.data / "artifacts" / key_of(1, operator.get(place)["artifacts"][0]["digest"])
        content = bytearray(path.read_bytes())
        # All digests of chunks are in front; what is read of the rest is checked by them.
        content[len(content) * 99 // 100 :] = bytes(len(content) - len(content) * 99 // 100)
        path.write_bytes(content)
    making = replace(server.settings.making, **limits)
    limited = replace(server, settings=replace(server.settings, making=making))
    assert comparing.compare_next(limited)
    news = operator.get(place)["news"]
    assert (news["state"], words in news["why"]) == ("not compared", True), news["why"]
    assert str(server.settings.data) not in news["why"]
    assert not comparing.compare_next(server)
    with server.database.writing() as session:
        (row,) = session.scalars(select(Comparison)).all()
        assert (row.begun, row.owner) == (1, "")


def test_what_stands_in_the_way_is_said(small_fleet: Fleet, works: Works) -> None:
    operator, releases = filled(small_fleet, works, "1.0", "1.1")
    with small_fleet.server.database.reading() as session:
        facts = demand.facts_of(small_fleet.server, session, 1)
    pair = (operator.get(f"/releases/{releases['1.0']}")["release"]["tree"], releases["1.1"])
    assert comparing._why_not(facts, pair) == ""
    assert "no full image" in comparing._why_not(replace(facts, ways=facts.ways[:1]), pair)
    assert "not that much to spare" in comparing._why_not(replace(facts, room=100), pair)
    assert "told to make no deltas" in comparing._why_not(replace(facts, makes=False), pair)
