"""Rollouts: who is in which phase, what becomes of one, what a device is told; by table and by simulation."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pydantic
import pytest

from tbserver import rollout
from tbserver.rollout import Counts, Member, Phase, Plan, Stage, Standing, State, advance, answer, sizes, spread
from tbserver.windows import Window, opens

NOW = int(datetime(2026, 3, 10, 12, 0, tzinfo=UTC).timestamp())  # a Tuesday
RUNNING = Standing(State.RUNNING)
TWO = Plan(phases=(Phase(devices=10), Phase()), success=90, errors=10)


@pytest.mark.parametrize(
    ("phases", "total", "expected"),
    [
        ([{}], 7, (7,)),
        ([{"percent": 10}, {}], 100, (10, 90)),
        ([{"percent": 1}, {"percent": 9}, {}], 10, (1, 1, 8)),  # rounded up: a phase of none shows nothing
        ([{"devices": 5}, {"percent": 50}, {}], 20, (5, 10, 5)),
        ([{"devices": 50}, {}], 20, (20, 0)),
        ([{"percent": 10}, {"percent": 10}], 100, (10, 90)),  # nobody is left out
        ([{"percent": 100}, {}], 3, (3, 0)),
        ([{}], 0, (0,)),
        ([{"percent": 33.3}, {"percent": 33.3}, {"percent": 33.3}], 10, (4, 4, 2)),
    ],
)
def test_sizes_of_phases(phases: list[dict[str, Any]], total: int, expected: tuple[int, ...]) -> None:
    assert sizes(Plan(phases=tuple(Phase(**phase) for phase in phases)), total) == expected


@hypothesis.given(st.sets(st.text(max_size=8), max_size=60), st.lists(st.floats(0.5, 100), min_size=1, max_size=5))
def test_everybody_is_in_one_phase_and_always_in_the_same(devices: set[str], percents: list[float]) -> None:
    plan = Plan(phases=tuple(Phase(percent=percent) for percent in percents))
    found = spread(plan, "seed", devices)
    assert found.keys() == devices
    assert found == spread(plan, "seed", sorted(devices))
    counts = Counter(found.values())
    assert tuple(counts[n] for n in range(len(percents))) == sizes(plan, len(devices))


def test_the_spread_is_by_chance_and_another_for_another_rollout() -> None:
    devices = [f"device-{n:05}" for n in range(10_000)]
    plan = Plan(phases=(Phase(percent=10), Phase()))
    first = {device for device, phase in spread(plan, "a", devices).items() if phase == 0}
    other = {device for device, phase in spread(plan, "b", devices).items() if phase == 0}
    assert len(first) == len(other) == 1000
    # Of devices numbered in order of purchase each thousand gives its share, and two rollouts have a tenth in common.
    shares = Counter(int(device[-5:]) // 1000 for device in first)
    assert all(60 < shares[n] < 140 for n in range(10))
    assert 50 < len(first & other) < 150


@pytest.mark.parametrize(
    ("plan", "standing", "counts", "expected"),
    [
        # It goes on when enough of a phase run it, and no sooner.
        (TWO, RUNNING, [Counts(waiting=10), Counts(waiting=90)], (State.RUNNING, 0)),
        (TWO, RUNNING, [Counts(busy=2, succeeded=8), Counts(waiting=90)], (State.RUNNING, 0)),
        (TWO, RUNNING, [Counts(busy=1, succeeded=9), Counts(waiting=90)], (State.RUNNING, 1)),
        (TWO, RUNNING, [Counts(failed=1, succeeded=9), Counts(waiting=90)], (State.RUNNING, 1)),
        # It stops past the threshold, not at it; who is lost counts as who failed.
        (TWO, RUNNING, [Counts(failed=2, waiting=8), Counts(waiting=90)], (State.STOPPED, 0)),
        (TWO, RUNNING, [Counts(failed=1, lost=1, succeeded=8), Counts(waiting=90)], (State.STOPPED, 0)),
        (TWO, RUNNING, [Counts(lost=1, succeeded=8, busy=1), Counts(waiting=90)], (State.RUNNING, 0)),
        # Later phases are measured against all that was open.
        (TWO, Standing(State.RUNNING, 1), [Counts(succeeded=10), Counts(failed=10, waiting=80)], (State.RUNNING, 1)),
        (TWO, Standing(State.RUNNING, 1), [Counts(succeeded=10), Counts(failed=11, waiting=79)], (State.STOPPED, 1)),
        # It is over when nobody waits or is at it, in any phase.
        (TWO, Standing(State.RUNNING, 1), [Counts(succeeded=9, busy=1), Counts(succeeded=90)], (State.RUNNING, 1)),
        (TWO, Standing(State.RUNNING, 1), [Counts(succeeded=9, failed=1), Counts(succeeded=90)], (State.FINISHED, 1)),
        # Empty phases are passed.
        (TWO, RUNNING, [Counts(), Counts()], (State.FINISHED, 1)),
        (Plan(phases=(Phase(),) * 3), RUNNING, [Counts(), Counts(), Counts(waiting=3)], (State.RUNNING, 2)),
        (Plan(errors=0), RUNNING, [Counts(failed=1, succeeded=999)], (State.STOPPED, 0)),
        (Plan(errors=0, errors_least=3), RUNNING, [Counts(failed=2, waiting=9)], (State.RUNNING, 0)),
        (Plan(errors=100), RUNNING, [Counts(failed=9)], (State.FINISHED, 0)),
        # Nothing moves what does not run.
        *((TWO, Standing(s), [Counts(failed=10), Counts()], (s, 0)) for s in State if s is not State.RUNNING),
    ],
)
def test_what_becomes_of_a_rollout(
    plan: Plan, standing: Standing, counts: list[Counts], expected: tuple[State, int]
) -> None:
    found = advance(plan, standing, counts, NOW)
    assert (found.state, found.phase) == expected
    assert not found.undo


def test_a_phase_that_did_well_is_watched_before_the_next_opens() -> None:
    plan = Plan(phases=(Phase(devices=1), Phase()), soak_seconds=3600)
    counts = [Counts(succeeded=1), Counts(waiting=9)]
    first = advance(plan, RUNNING, counts, NOW)
    assert (first.phase, first.reached) == (0, NOW)
    assert "is watched until 2026-03-10 13:00 UTC" in first.reason
    assert advance(plan, first, counts, NOW + 3599).phase == 0
    assert advance(plan, first, counts, NOW + 3600).phase == 1
    # What goes bad meanwhile begins anew.
    worse = advance(Plan(**plan.model_dump() | {"errors": 100}), first, [Counts(failed=1), Counts(waiting=9)], NOW + 60)
    assert worse.reached is None


def test_past_the_threshold_it_is_taken_back_where_that_was_wanted() -> None:
    found = advance(Plan(on_errors="rollback"), RUNNING, [Counts(failed=2, lost=1, waiting=7)], NOW)
    assert (found.state, found.undo) == (State.STOPPED, True)
    assert found.reason == (
        "3 of 10 devices failed, 1 of them were not heard of again: more than 5 %; it is taken back"
    )


WINDOW = Window(days=("tue",), start="22:00", minutes=240, zone="UTC")


@pytest.mark.parametrize(
    ("plan", "standing", "member", "offer", "why"),
    [
        (Plan(), RUNNING, {}, True, "it is offered when it asks next"),
        (Plan(), Standing(State.PAUSED), {}, False, "the rollout is paused"),
        (Plan(), Standing(State.APPROVAL), {}, False, "waits for approval by a second person"),
        (Plan(), Standing(State.STOPPED, reason="3 of 9 failed"), {}, False, "was stopped: 3 of 9 failed"),
        (Plan(start=NOW + 60), RUNNING, {}, False, "starts at 2026-03-10 12:01 UTC"),
        (Plan(start=NOW), RUNNING, {}, True, ""),
        (Plan(), RUNNING, {"phase": 1}, False, "it is in phase 2, and phase 1 is not through"),
        (Plan(), RUNNING, {"other": "rollout 7"}, False, "it is busy with rollout 7"),
        (Plan(), RUNNING, {"has_image": False}, False, "no image leads from what it runs"),
        (Plan(window=WINDOW), RUNNING, {}, False, "opens on 2026-03-10 at 22:00 (UTC)"),
        (Plan(window=WINDOW), RUNNING, {"zone": "Australia/Sydney"}, True, ""),
        (Plan(window=WINDOW), RUNNING, {"zone": "no such zone"}, False, "(UTC)"),
        # What a device has begun it brings to its end, whatever becomes of the rollout.
        *(
            (Plan(window=WINDOW), Standing(state), {"stage": stage}, True, "")
            for state in (State.PAUSED, State.STOPPED)
            for stage in (Stage.OFFERED, Stage.RUNNING, Stage.LOST)
        ),
        *((Plan(), RUNNING, {"stage": s}, False, "") for s in (Stage.INSTALLED, Stage.SUCCEEDED, Stage.FAILED)),
    ],
)
def test_what_a_device_is_told(plan: Plan, standing: Standing, member: dict[str, Any], offer: bool, why: str) -> None:
    found = answer(plan, standing, Member(**{"phase": 0, "stage": Stage.WAITING} | member), NOW)
    assert found.offer is offer
    assert why in found.why
    assert found.why


@pytest.mark.parametrize(
    ("window", "zone", "now", "expected"),
    [
        # Over midnight, and over the end of the week.
        (Window(days=("sun",), start="23:30", minutes=120), "", "2026-03-09T00:30", None),
        (Window(days=("sun",), start="23:30", minutes=120), "", "2026-03-09T01:30", "2026-03-15T23:30"),
        # A night in which clocks are put forward: 02:30 is not there, and is 03:30.
        (Window(start="02:30", minutes=60), "Europe/Berlin", "2026-03-29T00:45", "2026-03-29T02:30"),
        (Window(start="02:30", minutes=60), "Europe/Berlin", "2026-03-29T01:45", None),
        # One in which they are put back: 02:30 is there twice, and the first counts.
        (Window(start="02:30", minutes=30), "Europe/Berlin", "2026-10-25T00:45", None),
        (Window(start="02:30", minutes=30), "Europe/Berlin", "2026-10-25T01:45", "2026-10-26T02:30"),
        (Window(start="00:00", minutes=7 * 24 * 60, days=("mon",)), "", "2026-03-12T13:00", None),
    ],
)
def test_maintenance_windows(window: Window, zone: str, now: str, expected: str | None) -> None:
    found = opens(window, zone, int(datetime.fromisoformat(now + "+00:00").timestamp()))
    assert (found.strftime("%Y-%m-%dT%H:%M") if found else None) == expected


@pytest.mark.parametrize(
    "said",
    [
        {"phases": []},
        {"phases": [{"percent": 10, "devices": 3}]},
        {"phases": [{"percent": 0}]},
        {"phases": [{"devices": -1}]},
        {"start": 1 << 40},
        {"success": 101},
        {"errors": float("nan")},
        {"window": {"start": "24:00", "minutes": 5}},
        {"window": {"start": "02:00", "minutes": 5, "zone": "../../etc/passwd"}},
        {"window": {"start": "02:00", "minutes": 5, "days": []}},
        {"unknown": 1},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        Plan.model_validate(said)


@pytest.mark.parametrize(
    ("retries", "attempts", "stage"), [(0, 1, Stage.FAILED), (2, 2, Stage.WAITING), (2, 3, Stage.FAILED)]
)
def test_who_failed_tries_again_as_often_as_planned(retries: int, attempts: int, stage: Stage) -> None:
    assert rollout.after_failure(Plan(retries=retries), attempts) is stage


@pytest.mark.parametrize(
    ("proof", "told", "health", "why"),
    [
        ("told", "1.0", "good", "it runs 1.0"),
        ("told", "2.0", "good", ""),
        ("told", "2.0", "degraded", ""),
        ("told", "2.0", "failed", "it runs 2.0, and its health is: failed"),
        ("told", "", "", ""),
        ("closed", "1.0", "failed", ""),
    ],
)
def test_success_counts_from_what_a_device_says_it_runs_and_how(proof: Any, told: str, health: str, why: str) -> None:
    assert rollout.unproven(Plan(proof=proof), told, health, "2.0") == why


def test_a_release_is_for_types_of_device() -> None:
    assert rollout.misfit([], "lamp") == rollout.misfit(["door"], "") == rollout.misfit(["door"], "door") == ""
    assert rollout.misfit(["door", "gate"], "lamp") == "the release is for door, gate, and this device is lamp"


@dataclass
class Simulated:
    """What came of a simulation."""

    state: State
    phases: list[Counter[Stage]]
    hours: int
    standing: Standing

    def at(self, stage: Stage) -> int:
        return sum(counter[stage] for counter in self.phases)


def simulate(plan: Plan, devices: int, outcome: dict[Stage, float], seed: int = 1) -> Simulated:
    """Devices that ask once an hour, take an hour for the release, and end as chance has it."""
    chance = random.Random(seed)
    phase_of = spread(plan, "seed", (f"d{n}" for n in range(devices)))
    stages = dict.fromkeys(phase_of, Stage.WAITING)
    attempts: Counter[str] = Counter()
    phases = [Counter[Stage]() for _ in plan.phases]
    for phase in phase_of.values():
        phases[phase][Stage.WAITING] += 1
    ends, weights = list(outcome), list(outcome.values())
    open_ones = set(phase_of)
    standing, now = RUNNING, NOW
    for hour in range(24 * 60):
        standing = advance(plan, standing, [Counts.of(dict(counter)) for counter in phases], now)
        if standing.state is not State.RUNNING and not any(stages[d] is Stage.RUNNING for d in open_ones):
            return Simulated(standing.state, phases, hour, standing)
        for device in list(open_ones):
            stage = stages[device]
            said = answer(plan, standing, Member(phase_of[device], stage), now)
            if stage is Stage.RUNNING:
                (new,) = chance.choices(ends, weights)
                if new is Stage.FAILED:
                    new = rollout.after_failure(plan, attempts[device])
            elif said.offer:
                new = Stage.RUNNING
                attempts[device] += 1
            else:
                continue
            stages[device] = new
            phases[phase_of[device]][stage] -= 1
            phases[phase_of[device]][new] += 1
            if new not in (Stage.RUNNING, Stage.WAITING):
                open_ones.discard(device)
        now += 3600
    raise AssertionError(f"it does not end: {standing}")


CAREFUL = (Phase(devices=100), Phase(percent=5), Phase(percent=20), Phase())


def test_a_good_release_reaches_100000_devices() -> None:
    done = simulate(Plan(phases=CAREFUL), 100_000, {Stage.SUCCEEDED: 0.99, Stage.FAILED: 0.01})
    assert done.state is State.FINISHED
    assert done.at(Stage.SUCCEEDED) + done.at(Stage.FAILED) == 100_000
    assert 0.985 < done.at(Stage.SUCCEEDED) / 100_000 < 0.995


@pytest.mark.parametrize("how", [Stage.FAILED, Stage.LOST])
def test_a_bad_release_stops_at_the_first_hundred_of_100000(how: Stage) -> None:
    done = simulate(Plan(phases=CAREFUL, on_errors="rollback"), 100_000, {Stage.SUCCEEDED: 0.6, how: 0.4})
    assert (done.state, done.standing.undo) == (State.STOPPED, True)
    assert done.at(Stage.WAITING) == 99_900
    assert done.standing.phase == 0


def test_what_only_many_devices_show_stops_in_a_later_phase() -> None:
    """Seven in a hundred fail, and five are allowed: of a hundred that may pass, of five thousand it hardly can."""
    plan = Plan(phases=CAREFUL, success=90)
    stopped = [simulate(plan, 20_000, {Stage.SUCCEEDED: 0.93, Stage.FAILED: 0.07}, seed) for seed in range(3)]
    assert all(done.state is State.STOPPED for done in stopped)
    assert all(done.at(Stage.WAITING) >= 14_900 for done in stopped)


def test_what_fails_now_and_then_gets_through_by_tries() -> None:
    often = {Stage.SUCCEEDED: 0.7, Stage.FAILED: 0.3}
    assert simulate(Plan(phases=CAREFUL), 10_000, often).state is State.STOPPED
    done = simulate(Plan(phases=CAREFUL, retries=4), 10_000, often)
    assert done.state is State.FINISHED
    assert done.at(Stage.FAILED) < 100
