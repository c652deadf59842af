"""Release order: the examples of the UAPI version format specification, and its laws."""

from __future__ import annotations

import itertools

import pytest

from tbupdate.release import compare

# Each list goes from older to newer, as in the specification and in systemd's own test.
ASCENDING = [
    ["~1", "", "1", "2"],
    ["1~rc1", "1", "1-1", "1^post", "1.1"],
    [
        "122.1",
        "123~rc1-1",
        "123",
        "123-a",
        "123-a.1",
        "123-1",
        "123-1.1",
        "123^post1",
        "123.a-1",
        "123.1-1",
        "123a-1",
        "124-1",
    ],
    ["1.0", "1.0.1", "1.1", "1.9", "1.10", "1.10.0", "2.0~beta", "2.0", "10"],
    ["A", "a", "aa"],
]


@pytest.mark.parametrize("releases", ASCENDING, ids=lambda r: r[-1])
def test_each_is_older_than_those_behind_it(releases: list[str]) -> None:
    for older, newer in itertools.combinations(releases, 2):
        assert compare(older, newer) < 0, (older, newer)
        assert compare(newer, older) > 0, (older, newer)


@pytest.mark.parametrize(("one", "other"), [("1.0", "1.0"), ("01", "1"), ("1.007", "1.7"), ("1_0", "10"), ("é1", "1")])
def test_equal(one: str, other: str) -> None:
    assert compare(one, other) == compare(other, one) == 0
