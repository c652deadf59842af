"""Which delta is made next, which are given up for it, and why one is not there: decided on values."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tbserver import deltas
from tbserver.deltas import DAY, Demand, Facts, Stand, Target, Trial, Tried, Way

MIB = 1 << 20
A, B, C = (letter * 64 for letter in "abc")
NOW = 1_000_000


def facts(**more: object) -> Facts:
    """Three releases with full images of 100 MiB; 90 devices are to go from A to C, 10 from B."""
    known = {
        "releases": [Target(n, 1, tree, 300 * MIB, 100 * MIB) for n, tree in enumerate((A, B, C), 1)],
        "ways": [Way(n, n, "", 100 * MIB) for n in (1, 2, 3)],
        "demands": [Demand(B, 3, 10, 10), Demand(A, 3, 100, 90)],
        "tried": {},
        "budget": 50 * MIB,
        "room": 10_000 * MIB,
        "now": NOW,
    }
    return Facts(**(known | more))  # type: ignore[arg-type]


def why(given: Facts, base: str = A) -> str:
    """Why there is no delta from a tree to C, and none is made."""
    (found,) = [one for one in deltas.judge(given) if (one.base, one.release_id) == (base, 3)]
    assert found.stand is Stand.NOT, found
    assert (base, 3) not in deltas.choose(given)
    return found.why


def test_what_most_devices_wait_for_comes_first() -> None:
    assert deltas.choose(facts()) == [(A, 3), (B, 3)]
    # That they wait counts, not that they are there.
    assert deltas.choose(facts(demands=[Demand(B, 3, 10, 10), Demand(A, 3, 100, 5)])) == [(B, 3), (A, 3)]


def test_of_two_of_the_same_use_the_one_with_less_work_comes_first() -> None:
    large = [replace(one, size=900 * MIB) if one.tree == A else one for one in facts().releases]
    assert deltas.choose(facts(releases=large, demands=[Demand(A, 3, 9, 9), Demand(B, 3, 9, 9)])) == [(B, 3), (A, 3)]


def test_what_is_there_is_not_made() -> None:
    ways = [*facts().ways, Way(4, 3, A, 5 * MIB, made=True), Way(5, 3, B, 6 * MIB)]
    found = deltas.judge(facts(ways=ways))
    assert [(one.stand, one.size, one.saved) for one in found] == [
        (Stand.MADE, 5 * MIB, 95 * MIB),
        (Stand.UPLOADED, 6 * MIB, 94 * MIB),
    ]
    # Also when nobody needs it any more.
    assert {one.stand for one in deltas.judge(facts(ways=ways, demands=[]))} == {Stand.MADE, Stand.UPLOADED}


def test_why_there_is_none() -> None:
    assert "do not say what they run" in why(facts(demands=[Demand("", 3, 5, 5)]), "")
    assert "no full image of what they run" in why(facts(ways=[Way(2, 2, "", 1), Way(3, 3, "", 1)]))
    assert "no full image of this release" in why(facts(ways=[Way(1, 1, "", 1), Way(2, 2, "", 1)]))
    assert "no device waits" in why(facts(demands=[Demand(A, 3, 10, 0)]))
    assert "not that much to spare" in why(facts(room=899 * MIB))
    assert "to make none" in why(facts(makes=False))


def test_a_release_that_came_as_deltas_is_laid_out_over_what_they_start_from() -> None:
    ways = [Way(1, 1, "", 9), Way(4, 2, A, 4), Way(5, 3, B, 5), Way(3, 3, "", 9)]
    assert deltas.images_for(facts(ways=ways), (B, 3)) == [1, 4, 3]
    assert deltas.images_for(facts(ways=ways[:3]), (A, 3)) == [1, 4, 5]
    # There and back again leads nowhere.
    round_about = [Way(4, 2, A, 4), Way(5, 1, B, 4), Way(3, 3, "", 9)]
    assert "no full image of what they run" in why(facts(ways=round_about))


def test_what_failed_is_left_alone_for_a_while() -> None:
    def tried(state: Trial, until: int, begun: int = 1, size: int = 0) -> Facts:
        return facts(tried={(A, 3): Tried(state, until, begun, "it broke", size)})

    assert why(tried(Trial.FAILED, NOW + 1)) == "it broke"
    assert deltas.choose(tried(Trial.FAILED, NOW)) == [(A, 3), (B, 3)]
    assert [deltas.pause(n) for n in (1, 2, 3, 9)] == [600, 3600, DAY, DAY]
    assert "no smaller than the full image" in why(tried(Trial.LARGE, NOW + 1, size=200 * MIB))
    # Somebody is at it; or was, and is not there any more.
    assert deltas.choose(tried(Trial.MAKING, NOW + 1)) == [(B, 3)]
    assert deltas.judge(tried(Trial.MAKING, NOW + 1))[0].stand is Stand.MAKING
    assert deltas.choose(tried(Trial.MAKING, NOW)) == [(A, 3), (B, 3)]
    assert "begun 3 times" in why(tried(Trial.MAKING, NOW, begun=3))
    assert deltas.choose(tried(Trial.MAKING, NOW - DAY, begun=3)) == [(A, 3), (B, 3)]


def test_the_least_useful_goes_first_and_never_for_what_is_of_less_use() -> None:
    ways = [*facts().ways, Way(4, 2, A, 20 * MIB, made=True), Way(5, 3, B, 20 * MIB, made=True)]
    given = facts(ways=ways)
    assert deltas.give_up(given, (A, 3), 10 * MIB) == []
    # Nobody goes from A to B any more; ten devices may still go from B to C.
    assert deltas.give_up(given, (A, 3), 30 * MIB) == [4]
    assert deltas.give_up(given, (A, 3), 50 * MIB) == [4, 5]
    assert deltas.give_up(given, (A, 3), 51 * MIB) is None
    many = facts(ways=ways, demands=[Demand(B, 3, 1000, 0), Demand(A, 3, 100, 100)])
    assert deltas.give_up(many, (A, 3), 50 * MIB) is None
    crowded = {(A, 3): Tried(Trial.CROWDED, NOW, 1, size=50 * MIB)}
    assert "of more use" in why(replace(many, tried=crowded))
    # When what is in the way is of less use again, its turn comes.
    assert deltas.choose(replace(given, tried=crowded)) == [(A, 3)]
    # A smaller budget than before.
    assert deltas.give_up(replace(given, budget=20 * MIB)) == [4]
    assert deltas.give_up(replace(given, budget=0)) == [4, 5]


TREES = st.sampled_from([A, B, C])
WAYS = st.builds(Way, st.integers(10, 99), st.integers(1, 3), TREES, st.integers(1, 60 * MIB), st.just(value=True))


@given(
    made=st.lists(WAYS, unique_by=lambda way: way.id, max_size=8),
    demands=st.lists(
        st.builds(Demand, TREES, st.integers(1, 3), st.integers(1, 99), st.integers(0, 99)),
        unique_by=lambda one: (one.base, one.release_id),
        max_size=6,
    ),
    size=st.integers(1, 90 * MIB),
)
def test_the_budget_holds_and_nobody_loses_by_it(made: list[Way], demands: list[Demand], size: int) -> None:
    given_facts = facts(ways=[*facts().ways, *made], demands=demands)
    gone = deltas.give_up(given_facts, (A, 3), size)
    if gone is None:
        return
    kept = [way for way in made if way.id not in gone]
    assert sum(way.size for way in kept) + size <= given_facts.budget
    devices = {(one.base, one.release_id): one.devices for one in demands}
    worth = devices.get((A, 3), 0) * max(100 * MIB - size, 0)
    for way in made:
        if way.id in gone:
            assert devices.get((way.base, way.release_id), 0) * (100 * MIB - way.size) < max(worth, 1)
