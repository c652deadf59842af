"""Filters as people write them."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest

from tbserver import filters
from tbserver.filters import All, Any, Condition, Not, matches, parse
from tbserver.refusals import NotValid

DEVICE = {"id": "kiosk-7", "device_type": "kiosk", "site": "berlin-1", "note": "two words", "a.b": "x*y"}
GROUPS = frozenset({"beta", "north"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("  ", True),
        ("device_type = kiosk", True),
        ("device_type=kiosk", True),
        ("device_type = kios", False),
        ("device_type != kiosk", False),
        ("site = berlin-*", True),
        ("site = *", True),
        ("site = *1 and device_type = k*k", True),
        ("nothing = x", False),
        ('nothing = ""', True),
        ("nothing != x", True),
        ('note = "two words"', True),
        ("group = beta", True),
        ("group = no*", True),
        ("group != beta", False),
        ("group = alpha", False),
        ("not group = alpha", True),
        ("id = kiosk-7 or site = nowhere and site = elsewhere", True),
        ("(id = kiosk-7 or site = nowhere) and site = elsewhere", False),
        ("not (site = berlin-* or group = gamma)", False),
        ("site = berlin.1", False),
        ("a.b = x*y", True),
        ("NOT id = x AND id = kiosk-7", True),
        ('"and" = x', False),
    ],
)
def test_which_devices_are_meant(text: str, expected: bool) -> None:
    assert matches(parse(text), DEVICE, GROUPS) is expected


@pytest.mark.parametrize(
    "text",
    [
        *("=", "a", "a =", "a = b c = d", "a = b and", "(a = b", "a = b)", "not", "a == b", "a ! b", '"a', "a = (b)"),
        "x" * 2001,
        "(" * 50,
        "not " * 50,
    ],
)
def test_what_is_no_filter_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(NotValid, match="filter"):
        parse(text)


WORDS = st.text(st.characters(codec="ascii", exclude_characters='"\0'), min_size=0, max_size=6)
FILTERS = st.recursive(
    st.builds(Condition, WORDS, WORDS),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(All, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Any, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


def written(given: filters.Filter) -> str:
    match given:
        case Condition(key, pattern):
            return f'"{key}" = "{pattern}"'
        case Not(one):
            return f"not ({written(one)})"
        case All(of):
            return " and ".join(f"({written(one)})" for one in of)
        case Any(of):
            return " or ".join(f"({written(one)})" for one in of)


@hypothesis.given(FILTERS)
def test_what_is_written_is_what_is_read(given: filters.Filter) -> None:
    assert parse(written(given)) == given


@hypothesis.given(st.text(max_size=60))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        matches(parse(text), DEVICE, GROUPS)
    except NotValid:
        pass
