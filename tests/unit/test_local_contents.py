"""Texts and files of accounts put together: line by line, entry by entry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbupdate.localchanges import accounts, lines
from tbupdate.localchanges.contents import combine

LINE = st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n", b"d"])
TEXT = st.lists(LINE, max_size=12).map(b"".join)
ANY = st.one_of(TEXT, st.binary(max_size=40))


@given(ANY, ANY)
def test_a_change_on_one_side_is_taken(base: bytes, other: bytes) -> None:
    assert lines.merge(base, other, base) == other
    assert lines.merge(base, base, other) == other
    assert lines.merge(base, other, other) == other


@given(TEXT, TEXT, TEXT)
def test_it_does_not_matter_which_side_is_which(base: bytes, ours: bytes, theirs: bytes) -> None:
    assert lines.merge(base, ours, theirs) == lines.merge(base, theirs, ours)


@given(st.lists(st.integers(0, 9), min_size=9, max_size=30), st.data())
def test_changes_apart_from_each_other_are_both_there(base: list[int], data: st.DataObject) -> None:
    """Each line is its own, so that what comes of it can be said without a merge."""
    old = [b"%d:%d\n" % (n, value) for n, value in enumerate(base)]
    here = data.draw(st.integers(0, len(old) - 3))
    there = data.draw(st.integers(here + 2, len(old) - 1))
    new_here, new_there = data.draw(TEXT.map(lambda text: text + b"\n")), data.draw(st.sampled_from([b"", b"new\n"]))
    ours = b"".join([*old[:here], new_here, *old[here + 1 :]])
    theirs = b"".join([*old[:there], new_there, *old[there + 1 :]])
    both = b"".join([*old[:here], new_here, *old[here + 1 : there], new_there, *old[there + 1 :]])
    assert lines.merge(b"".join(old), ours, theirs) == both


CONFLICTS = [
    (b"a\nb\nc\n", b"a\nx\nc\n", b"a\ny\nc\n"),
    (b"a\nb\nc\n", b"a\nx\nc\n", b"a\nb\ny\n"),
    (b"a\nb\n", b"a\nx\nb\n", b"a\ny\nb\n"),
    (b"a\nb\n", b"a\nb", b"a\nb\nc\n"),
    (b"\0a\nb\nc\nd\n", b"\0x\nb\nc\nd\n", b"\0a\nb\nc\ny\n"),
    (b"\xff\nb\nc\nd\n", b"x\nb\nc\nd\n", b"\xff\nb\nc\ny\n"),
    (b"a\n" * 3000, b"b\n" + b"a\n" * 3000, b"a\n" * 3000 + b"c\n"),
]


@pytest.mark.parametrize(("base", "ours", "theirs"), CONFLICTS)
def test_changes_of_one_place_or_of_what_is_no_text_conflict(base: bytes, ours: bytes, theirs: bytes) -> None:
    assert lines.merge(base, ours, theirs) is None


def test_one_change_made_by_both_is_made_once() -> None:
    assert lines.merge(b"a\nb\nc\nd\n", b"x\nb\nc\n", b"x\nb\nc\nd\ne\n") is None
    assert lines.merge(b"a\nb\nc\nd\n", b"x\nb\nc\nz\n", b"x\nb\nc\nd\n") == b"x\nb\nc\nz\n"
    assert lines.merge(b"1\r\n2\r\n3\r\n", b"0\r\n2\r\n3\r\n", b"1\r\n2\r\n4\r\n") == b"0\r\n2\r\n4\r\n"


ACCOUNTS = [
    # The image adds a user, and so does somebody here.
    (
        b"passwd",
        b"r:x:0:0\n",
        b"r:x:0:0\nme:x:1000:9\n",
        b"r:x:0:0\nnew:x:9:9\n",
        b"r:x:0:0\nnew:x:9:9\nme:x:1000:9\n",
        (),
    ),
    # A shell here, a name in the image; a user removed here; one removed there.
    (
        b"passwd",
        b"r:x:0:0:R:/r:/sh\na:x:1:1\nb:x:2:2\n",
        b"r:x:0:0:R:/r:/bash\nb:x:2:2\n",
        b"r:x:0:0:Root:/r:/sh\na:x:1:1\n",
        b"r:x:0:0:Root:/r:/bash\n",
        (),
    ),
    # A password changed on both sides: the local one stays, and the rest comes.
    (
        b"shadow",
        b"r:*:1:\nb:*:1:\n",
        b"r:mine:2:\nb:*:1:\n",
        b"r:theirs:3:\nb:!:1:\nn:!:1:\n",
        b"r:mine:2:\nb:!:1:\nn:!:1:\n",
        ("r",),
    ),
    # Changed here, removed there; removed here, changed there.
    (b"shadow", b"a:*:1:\nb:*:1:\n", b"a:x:1:\n", b"b:y:1:\n", b"a:x:1:\n", ("b", "a")),
    # Members come and go one by one.
    (b"group", b"g:x:5:a,b\n", b"g:x:5:b,c\n", b"g:x:5:a,b,d\n", b"g:x:5:b,d,c\n", ()),
    (b"gshadow", b"g:!:a:a,b\n", b"g:!:a,z:a\n", b"g:!::a,b,c\n", b"g:!:z:a,c\n", ()),
    # One number for two names: both stay, and it is told.
    (
        b"group",
        b"",
        b"mine:x:100:\n",
        b"theirs:x:100:\n",
        b"theirs:x:100:\nmine:x:100:\n",
        ("theirs and mine (both have number 100)",),
    ),
    (b"group", b"a:x:1:\n", b"a:x:1:\nb:x:1:\n", b"a:x:1:\nc:x:2:\n", b"a:x:1:\nc:x:2:\nb:x:1:\n", ()),
    # Ranges are whole lines: one name has several.
    (b"subuid", b"me:1:10\n", b"me:1:10\nme:50:10\n", b"me:1:10\nyou:90:10\n", b"me:1:10\nyou:90:10\nme:50:10\n", ()),
    # Other sources of names stay at the end.
    (
        b"passwd",
        b"r:x:0:0\n+::::::\n",
        b"r:x:0:0\nme:x:1000:9\n+::::::\n",
        b"r:x:0:0\nn:x:9:9\n+::::::\n",
        b"r:x:0:0\nn:x:9:9\nme:x:1000:9\n+::::::\n",
        (),
    ),
    # Nonsense is kept, and nothing of it is lost.
    (b"passwd", b"# a\n\nr\n", b"# a\n# b\nr\n# b\n", b"# a\nr\nq\xff", b"# a\nr\nq\xff\n# b\n# b\n", ()),
]


@pytest.mark.parametrize(("name", "base", "ours", "theirs", "expected", "clashes"), ACCOUNTS)
def test_accounts(
    name: bytes, base: bytes, ours: bytes, theirs: bytes, expected: bytes, clashes: tuple[str, ...]
) -> None:
    merged = accounts.merge(b"etc/" + name, base, ours, theirs)
    assert merged.content == expected
    assert sorted(merged.clashes) == sorted(clashes)
    again = accounts.merge(b"etc/" + name, base, ours, merged.content)
    assert again.content == merged.content, "merging what was merged changes nothing"


ENTRIES = st.dictionaries(st.sampled_from("abcd"), st.tuples(st.sampled_from("*!xy"), st.sampled_from("12"))).map(
    lambda held: "".join(f"{name}:{password}:{day}:\n" for name, (password, day) in sorted(held.items())).encode()
)


@given(ENTRIES, ENTRIES)
def test_accounts_that_changed_on_one_side_are_taken(base: bytes, other: bytes) -> None:
    for ours, theirs in ((other, base), (base, other), (other, other)):
        merged = accounts.merge(b"etc/shadow", base, ours, theirs)
        assert sorted(merged.content.splitlines()) == sorted(other.splitlines())
        assert merged.clashes == ()


def test_which_files_are_put_together_how() -> None:
    assert combine(b"etc/group", None, b"a:x:1:\n", b"b:x:2:\n") is not None
    assert combine(b"etc/hosts", None, b"a\n", b"b\n") is None
    clash = combine(b"etc/shadow", b"r:*:\n", b"r:1:\n", b"r:2:\n")
    assert clash is not None
    assert clash.why == "entries changed here and in the image: r"
