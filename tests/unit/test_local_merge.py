"""The three-way merge of local changes, as a table: every state of base, ours and theirs, with what comes of it."""

from __future__ import annotations

import itertools

import pytest

from tbdiff.entry import Entry, Kind
from tbupdate.localchanges.contents import Combined
from tbupdate.localchanges.merge import Merged, Node, Sides, Source, merge, merge_one
from tbupdate.localchanges.policy import Fate, Policy, check_pattern

P = b"etc/x"


def regular(digest: bytes = b"1", **more: object) -> Node:
    return Node(Entry(path=P, kind=Kind.FILE, mode=0o644, size=1, digest=digest * 32, mtime=digest[0], **more))  # type: ignore[arg-type]


def folder(path: bytes = P, mode: int = 0o755) -> Node:
    return Node(Entry(path=path, kind=Kind.DIRECTORY, mode=mode))


def link(to: bytes = b"a") -> Node:
    return Node(Entry(path=P, kind=Kind.SYMLINK, link=to))


def alone(path: bytes) -> Combined | None:
    """Contents that cannot be put together."""
    return None


ABSENT = None
OLD, NEW, OTHER = regular(), regular(b"2"), regular(b"3")
DIRECTORY, LINK = folder(), link()
STATES: dict[str, Node | None] = {
    "absent": ABSENT,
    "old": OLD,
    "new": NEW,
    "other": OTHER,
    "directory": DIRECTORY,
    "link": LINK,
}
# What is in neither of these three rows of rules is a conflict.
COMBINATIONS = list(itertools.product(STATES, repeat=3))


@pytest.mark.parametrize(("base", "ours", "theirs"), COMBINATIONS, ids="-".join)
def test_every_combination(base: str, ours: str, theirs: str) -> None:
    merged = merge_one(Sides(STATES[base], STATES[ours], STATES[theirs]), P, alone)
    if ours == base:
        expected, conflict = theirs, False
    elif theirs == base or ours == theirs:
        expected, conflict = ours, False
    else:
        expected, conflict = ours, True
    assert merged.node == STATES[expected]
    assert (merged.why is not None) == conflict


REASONS = [
    (OLD, ABSENT, NEW, "removed here, a file, added or changed, in the image"),
    (OLD, NEW, ABSENT, "a file, added or changed, here, removed in the image"),
    (OLD, NEW, LINK, "a file, added or changed, here, a symlink, added or changed, in the image"),
    (OLD, NEW, OTHER, "changed here and in the image"),
    (ABSENT, NEW, OTHER, "changed here and in the image"),
]


@pytest.mark.parametrize(("base", "ours", "theirs", "why"), REASONS)
def test_a_conflict_says_why(base: Node | None, ours: Node | None, theirs: Node | None, why: str) -> None:
    assert merge_one(Sides(base, ours, theirs), P, alone).why == why


def changed(node: Node, **fields: object) -> Node:
    return Node(node.entry._replace(**fields))


FIELDS = [
    ({"mode": 0o600}, {"uid": 5}, {"mode": 0o600, "uid": 5}, None),
    ({"mode": 0o600}, {"mode": 0o640}, {"mode": 0o600}, "mode changed here and in the image"),
    ({"uid": 0, "gid": 7}, {"gid": 8, "uid": 1}, {"uid": 1, "gid": 7}, "group changed here and in the image"),
    ({"xattrs": ((b"user.a", b"1"),)}, {"xattrs": ((b"user.b", b"2"),)}, {}, None),
    ({"mtime": 70}, {"mode": 0o600}, {"mtime": 70, "mode": 0o600}, None),
    ({"mtime": 70}, {"mtime": 80}, {"mtime": 80}, None),
    ({"digest": b"2" * 32, "mtime": 50}, {"mode": 0o600}, {"digest": b"2" * 32, "mtime": 50, "mode": 0o600}, None),
    ({"mode": 0o600}, {"digest": b"2" * 32, "mtime": 50}, {"digest": b"2" * 32, "mtime": 50, "mode": 0o600}, None),
]


@pytest.mark.parametrize(("ours", "theirs", "expected", "why"), FIELDS)
def test_metadata_is_put_together_field_by_field(
    ours: dict[str, object], theirs: dict[str, object], expected: dict[str, object], why: str | None
) -> None:
    merged = merge_one(Sides(OLD, changed(OLD, **ours), changed(OLD, **theirs)), P, alone)
    if "xattrs" in ours:
        expected = {"xattrs": ((b"user.a", b"1"), (b"user.b", b"2"))}
    assert merged.node == changed(OLD, **expected)
    assert merged.why == why


def test_attributes_are_put_together_one_by_one() -> None:
    old = changed(OLD, xattrs=((b"user.gone", b"1"), (b"user.kept", b"1"), (b"user.z", b"1")))
    ours = changed(OLD, xattrs=((b"user.kept", b"1"), (b"user.z", b"2")))
    theirs = changed(OLD, xattrs=((b"user.gone", b"1"), (b"user.kept", b"3"), (b"user.z", b"4")))
    merged = merge_one(Sides(old, ours, theirs), P, alone)
    assert merged.node == changed(OLD, xattrs=((b"user.kept", b"3"), (b"user.z", b"2")))
    assert merged.why == "attribute user.z changed here and in the image"


def test_contents_that_can_be_put_together_are() -> None:
    ours, theirs = changed(NEW, mode=0o600), changed(OTHER, uid=3)
    merged = merge_one(Sides(OLD, ours, theirs), P, lambda path: Combined(b"both", None))
    assert merged.content == b"both"
    assert merged.node is not None
    entry = merged.node.entry
    assert (entry.size, entry.mode, entry.uid, entry.mtime) == (4, 0o600, 3, theirs.entry.mtime)
    assert merge_one(Sides(OLD, ours, theirs), P, lambda path: Combined(b"both", "root")).why == "root"


def test_a_name_that_was_linked_here_and_changed_in_the_image_is_a_conflict() -> None:
    ours = Node(OLD.entry, (P, b"etc/y"))
    assert merge_one(Sides(OLD, ours, OLD), P, alone) == Merged(ours, Source.OURS)
    assert merge_one(Sides(OLD, ours, NEW), P, alone).why == "linked to other names here, changed in the image"


D, F, G = b"etc/d", b"etc/d/f", b"etc/d/g"


def at(node: Node, path: bytes) -> Node:
    return Node(node.entry._replace(path=path), node.names)


def outcome(sides: dict[bytes, Sides]) -> dict[bytes, tuple[Node | None, bool]]:
    return {path: (one.node, one.why is not None) for path, one in merge(sides, alone).items()}


def test_a_directory_that_the_image_removes_stays_for_what_is_new_in_it() -> None:
    here = folder(D)
    found = outcome({D: Sides(here, here, None), G: Sides(None, at(NEW, G), None)})
    assert found == {D: (here, False), G: (at(NEW, G), False)}


def test_a_directory_with_changes_stays_whole_where_the_image_has_a_link() -> None:
    here, theirs = folder(D), at(link(), D)
    sides = {
        D: Sides(here, here, theirs),
        F: Sides(at(OLD, F), at(OLD, F), None),
        G: Sides(None, at(NEW, G), None),
    }
    assert outcome(sides) == {D: (here, True), F: (at(OLD, F), False), G: (at(NEW, G), False)}


def test_what_the_image_puts_into_a_directory_that_is_gone_here_stays_away() -> None:
    here = folder(D)
    for ours in (None, at(link(), D)):
        sides = {D: Sides(here, ours, here), F: Sides(at(OLD, F), None, at(OLD, F)), G: Sides(None, None, at(NEW, G))}
        assert outcome(sides) == {D: (ours, False), F: (None, False), G: (None, True)}


def test_a_directory_becomes_something_else_with_all_that_is_in_it() -> None:
    here, theirs = folder(D), at(link(), D)
    sides = {D: Sides(here, here, theirs), F: Sides(at(OLD, F), None, None)}
    assert outcome(sides) == {D: (theirs, False), F: (None, False)}


@pytest.mark.parametrize(
    ("path", "fate"),
    [
        (b"etc", Fate.CARRIED),
        (b"etc/a/b\n\xff", Fate.CARRIED),
        (b"etcetera", Fate.DROPPED),
        (b"usr/etc", Fate.DROPPED),
        (b"etc/passwd", Fate.CARRIED),
        (b"etc/passwd-", Fate.DROPPED),
        (b"etc/shadow", Fate.BOTH_WAYS),
        (b"etc/ssh/ssh_host_rsa_key.pub", Fate.BOTH_WAYS),
        (b"etc/ssh/sshd_config", Fate.CARRIED),
        (b"etc/ssh/sub/ssh_host_x", Fate.CARRIED),
        (b"etc/machine-id/below", Fate.BOTH_WAYS),
    ],
)
def test_what_becomes_of_a_path(path: bytes, fate: Fate) -> None:
    assert Policy().fate(path) is fate


def test_a_rollback_takes_only_what_goes_both_ways() -> None:
    back = Policy(reject=True).backwards
    assert [path for path in (b"etc/hosts", b"etc/shadow", b"etc/mtab") if back.follows(path)] == [b"etc/shadow"]
    assert not back.reject
    assert Policy((), (), (), ()).empty


@pytest.mark.parametrize("pattern", ["etc", "/", "", "/etc/", "/etc/../usr", "//etc", "/a\0b"])
def test_a_pattern_names_something_in_the_root(pattern: str) -> None:
    with pytest.raises(ValueError, match="path in the root"):
        check_pattern(pattern)
