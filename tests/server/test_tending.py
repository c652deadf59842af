"""Rollouts over the records: from the order to the last device, stopped, taken back; by several processes at once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import hypothesis
from sqlalchemy import select, update

from tbdiff.manifest import Target
from tbserver import devices, filters, progress, selection, steering, tallies, tending
from tbserver.accounts import Role
from tbserver.records import Artifact, Assignment, Device, Group, Member, Release, Rollout, Tenant
from tbserver.rollout import Counts, Stage
from tbupdate.protocol import Feedback, Result, Status
from tests.server.harness import Fleet
from tests.server.test_filters import FILTERS


class Park:
    """Devices that run 1.0, and a release 2.0."""

    def __init__(self, fleet: Fleet, count: int) -> None:
        self.fleet, self.database = fleet, fleet.server.database
        self.operator = fleet.person(Role.OPERATOR)
        with self.database.writing() as session:
            old, new = (self._release(session, version) for version in ("1.0", "2.0"))
            self.release_id, self.old_id = new.id, old.id
            for n in range(count):
                device = devices.register(session, 1, f"box-{n:03}")
                devices.describe(session, device, "replace", {"release": "1.0", "number": str(n % 10)})

    def _release(self, session: Any, version: str) -> Release:
        row = Release(
            tenant_id=1,
            tree=version,
            statement=Target(name="demo", release=version).to_bytes(),
            name="demo",
            version=version,
            epoch=0,
            device_types=[],
            size=0,
            created=0,
        )
        session.add(row)
        session.flush()
        digests = {"digest": version, "md5": "", "sha1": "", "image": ""}
        session.add(
            Artifact(
                tenant_id=1,
                release_id=row.id,
                name="x",
                size=1,
                base="",
                free=0,
                encoders=[],
                signers=[],
                made="uploaded",
                created=0,
                **digests,
            )
        )
        return row

    def order(self, plan: dict[str, Any], filter_: str = "") -> int:
        said = {"name": "to 2.0", "release_id": self.release_id, "filter": filter_, "plan": plan}
        return int(self.operator.post("/rollouts", **said)["rollout"]["id"])

    def tend(self) -> None:
        tending.tend(self.database)

    def shown(self, rollout_id: int) -> dict[str, Any]:
        found: dict[str, Any] = self.operator.get(f"/rollouts/{rollout_id}")
        return found

    def poll(self, only: set[str] | None = None) -> list[tuple[str, int]]:
        """All devices ask; those that got something, and its action."""
        with self.database.reading() as session:
            known = session.execute(select(Device.id, Device.controller).order_by(Device.id)).all()
        got = []
        for number, controller in known:
            if only is None or controller in only:
                with self.database.writing() as session:
                    one = steering.take(session, number)
                    if one is not None and one.state in (Stage.OFFERED, Stage.STOPPING):
                        got.append((controller, one.id))
        return got

    def tell(self, controller: str, action: int, finished: Any, release: str = "", *, on_stop: bool = False) -> None:
        with self.database.writing() as session:
            device = session.scalars(select(Device).where(Device.controller == controller)).one()
            if release:
                devices.describe(session, device, "merge", {"release": release})
            said = Feedback(status=Status(execution="closed", result=Result(finished=finished)))
            steering.report(session, device, str(action), said, on_stop=on_stop)

    def describe(self, controller: str, said: dict[str, str | None]) -> None:
        """A device says of itself."""
        with self.database.writing() as session:
            device = session.scalars(select(Device).where(Device.controller == controller)).one()
            devices.describe(session, device, "merge", said)
            steering.prove(session, device)

    def why(self, rollout_id: int, controller: str) -> str:
        """Why a device stands where it stands."""
        with self.database.reading() as session:
            device = session.scalars(select(Device).where(Device.controller == controller)).one()
            query = select(Assignment).where(Assignment.rollout_id == rollout_id, Assignment.device_id == device.id)
            return steering.why(session, device, session.scalars(query).one(), int(time.time()))

    def stages(self, rollout_id: int) -> Counter[str]:
        with self.database.reading() as session:
            return Counter(session.scalars(select(Assignment.state).where(Assignment.rollout_id == rollout_id)))

    def check_counts(self) -> None:
        """What is kept as counts is what there is."""
        with self.database.reading() as session:
            for row in session.scalars(select(Rollout)):
                for phase in range(len(row.plan["phases"])):
                    there = Counter(
                        session.scalars(
                            select(Assignment.state).where(Assignment.rollout_id == row.id, Assignment.phase == phase)
                        )
                    )
                    assert tallies.read(session, 1, tallies.stages_of(row.id, phase)) == there
            for subject, column in ((tallies.DEVICES, Device.state), (tallies.RELEASES, Device.release)):
                assert tallies.read(session, 1, subject) == Counter(session.scalars(select(column)))


PHASES = {"phases": [{"devices": 2}, {"percent": 50}, {}], "errors": 20}


def test_a_rollout_from_the_order_to_the_last_device(a_fleet: Fleet) -> None:
    park = Park(a_fleet, 12)
    number = park.order(PHASES, "number != 9")
    assert park.poll() == []
    park.tend()
    assert [one["total"] for one in park.shown(number)["phases"]] == [2, 6, 3]
    assert "box-009" not in {controller for controller, _ in park.poll()}
    done: list[str] = []
    for expected in (2, 6, 3):
        got = park.poll()
        assert len(got) == expected
        for controller, action in got:
            park.tell(controller, action, "success", "2.0")
            done.append(controller)
        park.tend()
    assert len(set(done)) == 11
    shown = park.shown(number)["rollout"]
    assert (shown["state"], shown["reason"]) == ("finished", "11 of 11 devices run it")
    # How it went is kept: at first in steps of some seconds, here all in one or two; and how it ended.
    points = park.shown(number)["progress"]
    assert (points[-1]["succeeded"], points[-1]["waiting"]) == (11, 0)
    assert len(points) <= 3
    park.check_counts()


def test_how_a_rollout_went_is_kept_in_few_points(small_fleet: Fleet) -> None:
    park = Park(small_fleet, 3)
    number = park.order({})
    park.tend()
    with park.database.writing() as session:
        row = session.get_one(Rollout, number)
        begun = row.started or 0
        for second in range(10, 40_000, 10):
            progress.keep(session, row, Counts(waiting=40_000 - second, succeeded=second), begun + second)
        kept = progress.read(session, row)
        assert 300 < len(kept) < 700
        assert kept[-1].at > begun + 39_000
        # Nothing new is no point.
        progress.keep(session, row, Counts(waiting=kept[-1].waiting, succeeded=kept[-1].succeeded), begun + 100_000)
        assert len(progress.read(session, row)) == len(kept)
    page = park.operator.open("GET", f"/rollouts/{number}").text
    assert '<polygon class="succeeded"' in page


def test_a_release_that_was_withdrawn_reaches_nobody_more(a_fleet: Fleet) -> None:
    park = Park(a_fleet, 4)
    number = park.order({"phases": [{"devices": 2}, {}]})
    park.tend()
    (first, action), (second, other) = park.poll()
    park.tell(first, action, "success", "2.0")
    place = f"/releases/{park.release_id}"
    assert park.operator.ask("PATCH", place, json={"withdrawn": True}).json()["withdrawn"]
    park.tend()
    shown = park.shown(number)["rollout"]
    assert (shown["state"], shown["reason"]) == ("cancelled", "operator-1 withdrew the release")
    assert park.stages(number) == {"succeeded": 1, "stopping": 1, "cancelled": 2}
    assert park.poll({second}) == [(second, other)]
    said = {"name": "again", "release_id": park.release_id}
    assert "withdrawn" in park.operator.ask("POST", "/rollouts", json=said).text
    assert park.operator.ask("PATCH", place, json={"withdrawn": True}).status_code == 409
    assert "Allow it again" in park.operator.open("GET", place).text
    assert park.operator.open("POST", place, data={"withdrawn": "no"}).status_code == 303
    park.operator.post("/rollouts", **said)
    actions = [one["action"] for one in park.operator.get("/audit")["items"]]
    assert {"release.withdraw", "release.allow", "rollout.cancel"} <= set(actions)
    park.check_counts()


def test_past_the_threshold_it_stops_and_is_taken_back(a_fleet: Fleet) -> None:
    park = Park(a_fleet, 10)
    number = park.order({"phases": [{"devices": 5}, {}], "on_errors": "rollback"})
    park.tend()
    got = park.poll()
    # One runs it, one failed, one has begun, two were offered it.
    park.tell(*got[0], "success", "2.0")
    park.tell(*got[1], "failure")
    park.tend()
    park.tend()
    shown = park.shown(number)["rollout"]
    assert shown["state"] == "stopped"
    assert "more than 5 %; it is taken back" in shown["reason"]
    assert park.stages(number) == {"succeeded": 1, "failed": 1, "stopping": 3, "cancelled": 5}
    undo = park.operator.get("/rollouts")["items"][0]
    assert (undo["undoes"], undo["name"]) == (number, "back from to 2.0")
    # It was too late for one of those that were asked to stop; all that took it go back in the end.
    for controller, action in park.poll():
        if controller in {one for one, _ in got[2:]}:
            park.tell(controller, action, "success", on_stop=True)
    with park.database.reading() as session:
        back = session.execute(
            select(Device.controller, Assignment.id, Assignment.command, Assignment.release_id)
            .join(Assignment, Assignment.device_id == Device.id)
            .where(Assignment.rollout_id == undo["id"])
        ).all()
    assert {one.controller for one in back} == {controller for controller, _ in (got[0], *got[2:])}
    assert {(one.command, one.release_id) for one in back} == {("rollback", park.old_id)}
    for controller, action in park.poll():
        park.tell(controller, action, "success", "1.0")
    park.poll()
    park.tend()
    assert park.shown(undo["id"])["rollout"]["state"] == "finished"
    park.check_counts()
    assert park.operator.ask("POST", f"/rollouts/{number}/rollback").status_code == 409


def test_only_the_healthy_count_and_only_as_long_as_they_are(a_fleet: Fleet) -> None:
    park = Park(a_fleet, 4)
    number = park.order({"phases": [{"devices": 2}, {}], "errors": 50})
    park.tend()
    (first, action), (second, other) = park.poll()
    park.describe(first, {"health": "failed"})
    park.tell(first, action, "success", "2.0")
    park.tell(second, other, "success", "2.0")
    park.tend()
    assert park.stages(number) == {"succeeded": 1, "installed": 1, "waiting": 2}
    assert park.why(number, first) == "it says that it is done, but it runs 2.0, and its health is: failed"
    park.describe(first, {"health": "degraded"})
    assert park.stages(number) == {"succeeded": 2, "waiting": 2}
    # What was well is watched as long as the rollout goes on.
    park.describe(second, {"health": "failed"})
    assert park.stages(number) == {"succeeded": 1, "failed": 1, "waiting": 2}
    park.describe(first, {"release": "1.0"})
    assert park.why(number, first) == "it ran the release, and then not any more: it runs 1.0"
    park.tend()
    assert park.shown(number)["rollout"]["state"] == "stopped"
    park.check_counts()


def test_new_devices_join_the_last_phase_and_those_of_another_type_do_not(a_fleet: Fleet) -> None:
    park = Park(a_fleet, 3)
    park.describe("box-001", {"device_type": "lamp"})
    park.describe("box-002", {"device_type": "door"})
    with park.database.writing() as session:
        session.get_one(Release, park.release_id).device_types = ["door", "gate"]
    asked = {"filter": "release = 1.0", "release_id": park.release_id}
    assert park.operator.get("/rollouts/meant", params=asked)["devices"] == 2
    number = park.order({"phases": [{"devices": 2}, {}]}, "release = 1.0")
    park.tend()
    assert [one["total"] for one in park.shown(number)["phases"]] == [2, 0]
    with park.database.writing() as session:
        for name in ("new-1", "new-2", "new-3", "new-4"):
            devices.register(session, 1, name)
    park.describe("new-1", {"release": "1.0"})
    park.describe("new-2", {"release": "1.5"})
    park.describe("new-4", {"release": "1.0"})
    # The third has yet to say what it is, and holds back the fourth.
    park.tend()
    assert [one["total"] for one in park.shown(number)["phases"]] == [2, 1]
    park.describe("new-3", {"release": "1.0"})
    park.tend()
    assert [one["total"] for one in park.shown(number)["phases"]] == [2, 3]
    park.describe("box-002", {"device_type": "lamp"})
    assert park.why(number, "box-002") == "the release is for door, gate, and this device is lamp"
    assert "box-002" not in {controller for controller, _ in park.poll()}
    park.check_counts()


def test_who_is_not_heard_of_again_is_lost_and_stops_it(a_fleet: Fleet) -> None:
    park = Park(a_fleet, 10)
    number = park.order({"lost_seconds": 3600})
    park.tend()
    got = park.poll()
    for controller, action in got[:9]:
        park.tell(controller, action, "success", "2.0")
    with park.database.writing() as session:
        session.execute(update(Assignment).values(reported=int(time.time()) - 3599))
    park.tend()
    assert park.shown(number)["rollout"]["state"] == "running"
    with park.database.writing() as session:
        session.execute(update(Assignment).values(reported=int(time.time()) - 3660))
    park.tend()
    assert park.stages(number) == {"succeeded": 9, "lost": 1}
    assert park.shown(number)["rollout"]["state"] == "stopped"
    # It comes back after all.
    park.tell(*got[9], "success", "2.0")
    assert park.stages(number) == {"succeeded": 10}
    park.check_counts()


def test_a_second_person_approves(a_fleet: Fleet) -> None:
    park = Park(a_fleet, 3)
    with park.database.writing() as session:
        session.execute(update(Tenant).values(approval=True))
    approver = a_fleet.person(Role.APPROVER)
    number = park.order({})
    said = {"name": "own", "release_id": park.release_id}
    own = approver.post("/rollouts", **said)["rollout"]["id"]
    park.tend()
    assert park.stages(number) == {}
    assert approver.ask("POST", f"/rollouts/{own}/approve").status_code == 403
    shown = approver.post(f"/rollouts/{number}/approve")["rollout"]
    assert (shown["state"], shown["approved_by"]) == ("preparing", approver.id)
    park.tend()
    assert len(park.poll()) == 3


def test_paused_resumed_cancelled_tried_again(a_fleet: Fleet) -> None:
    park = Park(a_fleet, 4)
    number = park.order({"errors": 100})
    place = f"/rollouts/{number}"
    park.tend()
    first = {"box-000"}
    (got,) = park.poll(first)
    assert park.operator.post(f"{place}/pause")["rollout"]["state"] == "paused"
    assert park.poll() == [got]
    device = park.operator.get("/devices", params={"filter": "id = box-003"})["items"][0]["id"]
    (todo,) = park.operator.get(f"/devices/{device}")["todo"]
    assert (todo["state"], todo["why"]) == ("waiting", "the rollout is paused")
    park.tell(*got, "failure")
    park.operator.post(f"{place}/resume")
    assert len(park.poll()) == 3
    assert park.operator.post(f"{place}/retry")["rollout"]["state"] == "running"
    assert len(park.poll()) == 4
    assert park.operator.post(f"{place}/cancel")["rollout"]["state"] == "cancelled"
    park.tend()
    assert park.stages(number) == {"stopping": 4}
    for controller, action in park.poll():
        park.tell(controller, action, "success", on_stop=True)
    assert park.stages(number) == {"cancelled": 4}
    for word in ("pause", "resume", "cancel", "retry"):
        assert park.operator.ask("POST", f"{place}/{word}").status_code == 409
    park.check_counts()


def test_many_at_once_count_right(a_fleet: Fleet) -> None:
    """Devices ask and report, and several look after the rollout, all at the same time."""
    park = Park(a_fleet, 24)
    number = park.order({"phases": [{"devices": 4}, {"devices": 8}, {}], "errors": 100, "success": 50})
    errors: list[BaseException] = []

    def guarded(do: Any) -> threading.Thread:
        def run() -> None:
            try:
                do()
            except BaseException as error:  # noqa: BLE001 - it is looked at below
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def look_after() -> None:
        while park.shown(number)["rollout"]["state"] != "finished" and not errors:
            park.tend()

    def ask(names: set[str]) -> None:
        left = set(names)
        while left and not errors:
            for controller, action in park.poll(left):
                park.tell(controller, action, "failure" if controller.endswith("7") else "success", "2.0")
                left.discard(controller)

    names = [f"box-{n:03}" for n in range(24)]
    threads = [guarded(look_after) for _ in range(2)]
    threads += [guarded(lambda part=part: ask(set(names[part::4]))) for part in range(4)]  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert errors == []
    assert park.stages(number) == {"succeeded": 22, "failed": 2}
    park.check_counts()


DEVICES = [
    {},
    {"": ""},
    *({"a": value, "b": "%"} for value in ("", "a", "A", "ab", "a_b", "a%b", "[a]", "?", "~", "a*")),
    {"id": "other"},
]


def test_the_database_means_the_same_devices(database_url: str) -> None:
    from tbserver.database import Database

    records = Database(database_url)
    held: dict[int, tuple[dict[str, str], frozenset[str]]] = {}
    with records.writing() as session:
        session.add(Tenant(id=1, name="one", created=0))
        session.flush()
        groups = [Group(tenant_id=1, name=name, created=0) for name in ("a", "b%", "A")]
        session.add_all(groups)
        session.flush()
        for n, given in enumerate(DEVICES):
            device = devices.register(session, 1, f"d{n}")
            said = {key: value for key, value in given.items() if key and key != "id"}
            devices.describe(session, device, "replace", said)
            mine = groups[: n % 4]
            session.add_all(Member(group_id=one.id, device_id=device.id, tenant_id=1) for one in mine)
            held[device.id] = said | {"id": f"d{n}"}, frozenset(one.name for one in mine)

    @hypothesis.given(FILTERS)
    @hypothesis.example(filters.parse('a = ""'))
    @hypothesis.example(filters.parse("a = *"))
    @hypothesis.example(filters.parse("a = *_*"))
    @hypothesis.example(filters.parse("a = *%*"))
    @hypothesis.example(filters.parse("a = [*"))
    @hypothesis.example(filters.parse("a = ?*"))
    @hypothesis.example(filters.parse("a = ~*"))
    @hypothesis.example(filters.parse("a = A*"))
    @hypothesis.example(filters.parse("group = *"))
    @hypothesis.example(filters.parse("group != A and group = a*"))
    @hypothesis.example(filters.parse("id = d1* and not a = *b"))
    def check(given: filters.Filter) -> None:
        with records.reading() as session:
            found = set(session.scalars(select(Device.id).where(selection.meant(given))))
        assert found == {number for number, (said, groups) in held.items() if filters.matches(given, said, groups)}

    check()
    records.close()
