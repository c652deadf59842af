"""Deltas made by the server: claimed by one of many, within limits, signed by its own key, kept within the budget."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from tbdiff.image import open_image
from tbdiff.signature import KeyRing, load_public_key
from tbserver import delivery, devices, tending, workshop
from tbserver.accounts import Role
from tbserver.files import key_of
from tbserver.records import Artifact, AuditEntry, Making
from tbserver.server import Server
from tests.server.harness import Fleet, Person
from tests.server.images import Works, upload
from tests.server.test_artifacts import trust


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Works:
    return Works(tmp_path_factory.mktemp("works"))


class Depot:
    """Full images of 1.0, 1.1 and 2.0, devices that run the first two, and a rollout of the last."""

    def __init__(self, fleet: Fleet, works: Works, **running: int) -> None:
        self.fleet, self.works = fleet, works
        self.operator: Person = fleet.person(Role.OPERATOR)
        trust(fleet, works)
        for version in ("1.0", "1.1", "2.0"):
            assert upload(self.operator, works.image(version))[0] == 201
        self.releases = {one["version"]: one for one in self.operator.get("/releases")["items"]}
        with fleet.server.database.writing() as session:
            for version, count in running.items():
                for n in range(count):
                    device = devices.register(session, 1, f"box-{version}-{n}")
                    devices.describe(session, device, "replace", {"release": version.replace("_", ".")[1:]})
        order = {"name": "to 2.0", "release_id": self.releases["2.0"]["id"], "filter": "", "plan": {}}
        self.operator.post("/rollouts", **order)
        tending.tend(fleet.server.database)

    def server(self, **more: Any) -> Server:
        """The server, told to make deltas in another way."""
        settings = self.fleet.server.settings
        return replace(self.fleet.server, settings=replace(settings, making=replace(settings.making, **more)))

    def made(self) -> list[Artifact]:
        with self.fleet.server.database.reading() as session:
            return list(session.scalars(select(Artifact).where(Artifact.made == "delta").order_by(Artifact.id)))

    def tried(self) -> list[Making]:
        with self.fleet.server.database.reading() as session:
            return list(session.scalars(select(Making)))

    def later(self) -> None:
        """What has to pass has passed."""
        with self.fleet.server.database.writing() as session:
            session.execute(update(Making).values(until=0))


def nothing_is_left(server: Server) -> bool:
    return list(server.settings.scratch.iterdir()) == []


def test_what_the_fleet_needs_is_made_and_signed_by_the_server_only(a_fleet: Fleet, works: Works) -> None:
    depot = Depot(a_fleet, works, v1_0=1, v1_1=3)
    server = a_fleet.server
    assert workshop.make_next(server)
    assert workshop.make_next(server)
    assert not workshop.make_next(server)
    first, second = depot.made()
    # What more devices wait for came first.
    assert [first.base, second.base] == [depot.releases[version]["tree"] for version in ("1.1", "1.0")]
    assert first.signers == ["release", delivery.NAME]
    assert (depot.tried(), nothing_is_left(server)) == ([], True)
    key = server.settings.key
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    image = server.settings.data / "artifacts" / key_of(1, first.digest)
    release, own = (
        load_public_key(path) for path in (works.key("release").with_suffix(".key.pub"), Path(f"{key}.pub"))
    )
    with open_image(str(image), KeyRing((release,), (own,))) as made, open_image(str(works.image("2.0"))) as full:
        assert made.stated == full.stated
        assert made.manifest.way.base == first.base
    with a_fleet.server.database.reading() as session:
        done = session.scalars(select(AuditEntry).where(AuditEntry.action == "delta.make")).all()
    assert [one.details["release"] for one in done] == ["2.0", "2.0"]
    assert {one.who for one in done} == {"the server"}


def test_two_at_once_never_make_the_same(a_fleet: Fleet, works: Works) -> None:
    depot = Depot(a_fleet, works, v1_0=1, v1_1=1)
    threads = [threading.Thread(target=workshop.make_next, args=(a_fleet.server,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.base for one in depot.made()} == {depot.releases[version]["tree"] for version in ("1.0", "1.1")}
    assert depot.tried() == []


def test_a_claim_that_is_not_renewed_is_taken_over_and_what_comes_of_it_does_not_count(
    a_fleet: Fleet, works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    depot = Depot(a_fleet, works, v1_1=1)
    run, others = workshop._run, []

    def slow(*given: Any) -> None:
        run(*given)
        if not others:
            # It hangs at the end, for so long that another one takes over.
            others.append(1)
            assert not workshop.make_next(a_fleet.server)
            depot.later()
            assert workshop.make_next(a_fleet.server)

    monkeypatch.setattr(workshop, "_run", slow)
    assert workshop.make_next(a_fleet.server)
    (made,) = depot.made()
    assert a_fleet.server.store.size(key_of(1, made.digest)) == made.size
    assert depot.tried() == []


def test_a_process_that_stops_lets_go_at_once(small_fleet: Fleet, works: Works) -> None:
    depot = Depot(small_fleet, works, v1_1=1)
    assert workshop.make_next(small_fleet.server, lambda: True)
    assert (depot.made(), depot.tried(), nothing_is_left(small_fleet.server)) == ([], [], True)


def _damage(server: Server, depot: Depot) -> None:
    (image,) = depot.operator.get(f"/releases/{depot.releases['1.1']['id']}")["artifacts"]
    path = server.settings.data / "artifacts" / key_of(1, image["digest"])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _shorten(server: Server, depot: Depot) -> None:
    (image,) = depot.operator.get(f"/releases/{depot.releases['1.1']['id']}")["artifacts"]
    os.truncate(server.settings.data / "artifacts" / key_of(1, image["digest"]), 0)


def _distrust(_: Server, depot: Depot) -> None:
    admin = depot.fleet.person(Role.ADMIN, name="another")
    admin.ask("DELETE", f"/keys/{admin.get('/keys')['items'][0]['id']}")


def _nothing(_: Server, __: Depot) -> None:
    pass


@pytest.mark.parametrize(
    ("limits", "hurt", "words"),
    [
        ({"memory": 48 << 20}, _nothing, "it takes more memory than 48 MiB"),
        ({"seconds": 0}, _nothing, "it takes longer than 0 seconds"),
        ({"encoders": "/nonexistent"}, _nothing, "/nonexistent"),
        ({}, _damage, "damaged"),
        ({}, _shorten, "the store of artifacts does not answer as it should"),
        ({}, _distrust, "no key is trusted here"),
    ],
)
def test_why_one_failed_is_said_and_it_is_left_alone(
    small_fleet: Fleet, works: Works, limits: dict[str, Any], hurt: Callable[[Server, Depot], None], words: str
) -> None:
    depot = Depot(small_fleet, works, v1_1=1)
    hurt(small_fleet.server, depot)
    assert workshop.make_next(depot.server(**limits))
    (tried,) = depot.tried()
    assert words in tried.why
    assert str(small_fleet.server.settings.data) not in tried.why
    assert (tried.state, tried.begun, tried.owner, tried.until > time.time() + 500) == ("failed", 1, "", True)
    assert (depot.made(), nothing_is_left(small_fleet.server)) == ([], True)
    assert not workshop.make_next(small_fleet.server)
    assert len(os.listdir(small_fleet.server.settings.data / "artifacts/artifacts/1")) == 3


def test_the_budget_holds(small_fleet: Fleet, works: Works) -> None:
    depot = Depot(small_fleet, works, v1_0=1, v1_1=3)
    assert workshop.make_next(small_fleet.server)
    (first,) = depot.made()
    # The second one is of less use than what would have to go for it.
    small = depot.server(budget=first.size + 100)
    assert workshop.make_next(small)
    assert depot.made()[0].id == first.id
    assert [(one.state, one.size > 100) for one in depot.tried()] == [("crowded", True)]
    assert not workshop.make_next(small)
    # With more room its turn comes; with less than before the least useful goes, and its object.
    assert workshop.make_next(small_fleet.server)
    second = depot.made()[1]
    assert not workshop.make_next(depot.server(budget=first.size + 100, makers=0))
    assert [one.id for one in depot.made()] == [first.id]
    assert small_fleet.server.store.size(key_of(1, second.digest)) is None
    assert small_fleet.server.store.size(key_of(1, first.digest)) == first.size
