"""Which release a device goes to, and by which images: all of it decided without a device."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from tbdiff.errors import NothingToDo, Rejected
from tbdiff.index import Index, ListedImage, Release
from tbupdate import choosing, sources
from tbupdate.choosing import Bounds
from tbupdate.config import Source
from tbupdate.sources import Seen
from tests.unit.test_planning import a_system, identity, tree

THEN, NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-02-01T00:00:00Z"
SOURCE = Source(url="https://example.org/images")


def image(base: int | None, target: int, size: int, *encoders: str) -> ListedImage:
    digest = f"{(base or 0) * 1000 + target:064x}"
    start = tree(base) if base else None
    return ListedImage(
        file=f"{base}-{target}.tbdiff", size=size, digest=digest, tree=tree(target), base=start, encoders=encoders
    )


def an_index(*images: ListedImage, stable: tuple[int, ...] = (1, 2, 3), **more: Any) -> Index:
    special = more.pop("special", {})
    numbers = {*stable, *(int(one.tree, 16) for one in images)}
    releases = tuple(
        Release(**({"tree": tree(n), "release": f"{n}.0", "epoch": n} | special.get(n, {}))) for n in sorted(numbers)
    )
    given = {"version": 5, "issued": THEN, "expires": LATER, "channels": {"stable": tuple(map(tree, stable))}} | more
    return Index(releases=releases, images=images, **given)


def way(index: Index, bounds: Bounds | None = None, encoders: tuple[str, ...] = (), **system: Any) -> list[list[str]]:
    update = choosing.choose(a_system(**system), index, bounds or Bounds("stable"), encoders)
    return [[one.file.removesuffix(".tbdiff") for one in route.images] for route in update.routes]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ((image(None, 3, 900), image(2, 3, 10)), [["2-3"], ["None-3"]]),
        ((image(None, 3, 900), image(1, 3, 10), image(2, 3, 20)), [["1-3"], ["None-3"]]),
        ((image(None, 3, 900), image(2, 4, 10), image(4, 3, 10), image(1, 3, 30)), [["2-4", "4-3"], ["None-3"]]),
        ((image(None, 3, 15), image(2, 4, 10), image(4, 3, 10)), [["None-3"]]),
        ((image(2, 3, 20), image(2, 4, 10), image(4, 3, 10)), [["2-3"]]),
        ((image(None, 4, 5), image(4, 3, 5), image(None, 3, 90)), [["None-4", "4-3"], ["None-3"]]),
        ((image(2, 3, 1, "zstd=0123456789abcdef"), image(None, 3, 900)), [["None-3"]]),
        ((image(2, 4, 1), image(4, 2, 1), image(4, 3, 1)), [["2-4", "4-3"]]),
    ],
)
def test_the_cheapest_way_and_the_full_image_as_the_last_resort(
    images: tuple[ListedImage, ...], expected: list[list[str]]
) -> None:
    assert way(an_index(*images)) == expected


def test_encoders_that_are_here_count() -> None:
    mark = "zstd=0123456789abcdef"
    assert way(an_index(image(2, 3, 1, mark), image(None, 3, 9)), encoders=(mark,)) == [["2-3"], ["None-3"]]


def test_where_no_way_leads() -> None:
    with pytest.raises(Rejected, match=r"no image leads from what is here to 3\.0"):
        way(an_index(image(7, 3, 1)))


FULL = tuple(image(None, n, 100) for n in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("index", "bounds", "said"),
    [
        (an_index(*FULL, stable=(1, 2)), Bounds("stable"), "2.0 is the newest of stable, and boots next already"),
        (an_index(*FULL, stable=(3, 1)), Bounds("stable", at_most="1.5"), "holds no release for this device"),
        (an_index(*FULL, stable=(3,), special={3: {"device_types": ("x",)}}), Bounds("stable", "y"), "for this device"),
        (an_index(*FULL, stable=(3,), special={3: {"epoch": 1}}), Bounds("stable"), "holds no release for this device"),
        (an_index(*FULL, stable=(3,)), Bounds("stable", exactly="2.5"), "holds no release 2.5"),
        (
            an_index(*FULL, stable=(4,), special={4: {"release": "1.9"}}),
            Bounds("stable"),
            "and 2.0 that is here is newer",
        ),
    ],
)
def test_nothing_to_do(index: Index, bounds: Bounds, said: str) -> None:
    with pytest.raises(NothingToDo, match=said):
        way(index, bounds)


def test_what_failed_or_was_left_here_is_not_gone_to_again() -> None:
    with pytest.raises(NothingToDo, match=r"failed here before \(it leaks\)"):
        way(an_index(*FULL), failed=f"{tree(3)} it leaks")
    with pytest.raises(NothingToDo, match="was left here before") as nothing:
        way(an_index(*FULL, stable=(1, 2)), default=1, good=1)
    assert identity(2) in nothing.value.remedy


def test_the_newest_for_this_type_of_device() -> None:
    index = an_index(*FULL, special={3: {"device_types": ("x",)}, 4: {"device_types": ("y",)}}, stable=(1, 2, 3, 4))
    assert way(index, Bounds("stable", "x")) == [["None-3"]]
    assert way(index, Bounds("stable", "y")) == [["None-4"]]
    assert way(index, Bounds("stable", "y", exactly="4.0")) == [["None-4"]]
    assert way(an_index(*FULL, stable=(1, 2, 3, 4)), Bounds("stable", at_most="3.5")) == [["None-3"]]


def test_exactly_an_older_one_that_is_kept_is_gone_to_again() -> None:
    """Not so where it was left by a rollback, or is bad."""
    exactly = Bounds("stable", exactly="1.0")
    index = an_index(*FULL, image(2, 1, 5), special={1: {"epoch": 2}})
    assert way(index, exactly) == [["2-1"], ["None-1"]]
    with pytest.raises(NothingToDo, match="was left here before"):
        way(index, exactly, bad={identity(1): "it leaks"})
    with pytest.raises(NothingToDo, match="was left here before"):
        way(index, Bounds("stable", exactly="2.0"), default=1, good=1)


def test_a_large_index_takes_neither_time_nor_memory_of_the_square_of_it() -> None:
    """A chain of deltas from which, at each tree, another one leads on to the end."""
    last = 3000
    chain = (image(None, 1, 1), *(image(n, n + 1, 1) for n in range(1, last)))
    index = an_index(*chain, *(image(n, last + 1, last) for n in range(1, last)), stable=(last,) * 30000)
    tracemalloc.start()
    assert len(way(index, Bounds("stable"))[0]) == last - 2
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_a_channel_that_is_not_there_is_named() -> None:
    with pytest.raises(Rejected, match=r"no channel 'beta' there, only stable"):
        way(an_index(*FULL), Bounds("beta"))
    with pytest.raises(Rejected, match="nor any other"):
        way(an_index(*FULL, channels={}), Bounds("beta"))
    with pytest.raises(Rejected) as many:
        way(an_index(*FULL, channels={f"c{n:090}": () for n in range(1000)}), Bounds("beta"))
    assert len(str(many.value)) < 2000


def test_the_newest_of_several_sources_the_cheapest_first() -> None:
    system = a_system()
    offers = [
        choosing.choose(system, index, Bounds("stable"), ())
        for index in (
            an_index(image(None, 3, 50)),
            an_index(image(None, 4, 90), stable=(4,)),
            an_index(image(2, 4, 10), stable=(4,)),
        )
    ]
    best = choosing.best(offers, lambda one: one)
    assert [(one.release.release, one.routes[0].size) for one in best] == [("4.0", 10), ("4.0", 90)]


@pytest.mark.parametrize(
    ("seen", "now", "said"),
    [
        ({SOURCE.url: Seen(version=6, issued=THEN)}, NOW, r"older than the one that was seen last \(5, not 6\)"),
        ({}, "2026-03-01T00:00:00Z", "was good until 2026-02-01"),
        ({SOURCE.url: Seen(version=1, issued="2026-03-01T00:00:00Z")}, "1970-01-01T00:00:00Z", "was good until"),
    ],
)
def test_an_index_that_is_not_fresh_is_refused(seen: dict[str, Seen], now: str, said: str) -> None:
    with pytest.raises(Rejected, match=said):
        sources.check_fresh(SOURCE, an_index(), seen, now)


def test_a_source_that_is_wrong_about_the_time_keeps_us_from_no_other() -> None:
    sources.check_fresh(SOURCE, an_index(), {"elsewhere": Seen(version=1, issued="2100-01-01T00:00:00Z")}, NOW)


@pytest.mark.parametrize("now", [NOW, "1970-01-01T00:00:00Z"])
def test_a_fresh_index_is_taken_whatever_a_slow_clock_says(now: str) -> None:
    sources.check_fresh(SOURCE, an_index(), {SOURCE.url: Seen(version=5, issued=THEN)}, now)
