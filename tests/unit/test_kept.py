"""Downloads that go on in another run: each byte once, and nothing of what was used, or damaged, stays."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tbdiff import download, kept
from tbdiff.create import create_image
from tbdiff.errors import Failed, Rejected
from tbdiff.image import open_image
from tbdiff.kept import KeptDownload
from tbdiff.source import open_source
from tests.honest import differences
from tests.trees import Noise, build, sparse
from tests.unit.test_download import BODY, Site, served


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


def rest(stream: KeptDownload) -> bytes:
    return b"".join(iter(lambda: stream.read(1000), b""))


def begun(url: str, place: Path, size: int = 30_000) -> None:
    """A run that is killed after `size` bytes; what its process held is written, its file system had no cut."""
    stream = KeptDownload(url, place)
    found = b""
    while len(found) < size:
        found += stream.read(min(1000, size - len(found)))
    assert found == BODY[:size]
    stream.close()


def test_another_run_fetches_only_the_rest(place: Path) -> None:
    site = Site()
    with served(site) as url:
        begun(url, place)
        site.asked.clear()
        stream = KeptDownload(url, place)
        assert rest(stream) == BODY
        stream.forget()
        stream.close()
    # Of what was there it asks for the last byte only: is it still the same file?
    assert site.asked == [("bytes=29999-", '"one"')]
    assert list(place.iterdir()) == []


def test_a_third_run_goes_on_from_the_second(place: Path) -> None:
    site = Site()
    with served(site) as url:
        begun(url, place)
        begun(url, place, 60_000)
        site.asked.clear()
        stream = KeptDownload(url, place)
        assert rest(stream) == BODY
        stream.close()
        assert site.asked[0][0] == "bytes=59999-"
        again = KeptDownload(url, place)
        assert rest(again) == BODY
        again.close()
    assert site.asked[-1][0] == f"bytes={len(BODY) - 1}-"


@pytest.mark.parametrize(
    "then",
    [
        {"body": BODY[::-1], "tag": '"two"'},
        {"body": BODY + b"more", "tag": '"two"'},
        {"body": b"short", "tag": '"two"'},
    ],
    ids=["as long", "longer", "shorter"],
)
def test_another_file_is_fetched_whole(then: dict[str, object], place: Path) -> None:
    site = Site()
    with served(site) as url:
        begun(url, place)
        for name, value in then.items():
            setattr(site, name, value)
        stream = KeptDownload(url, place)
        assert rest(stream) == site.body
        stream.close()


@pytest.mark.parametrize("facts", [b"", b"[]", b'{"size": 1}', b'{"size":"x","tag":[],"modified":{}}', None])
def test_a_spoiled_memory_is_no_harm(facts: bytes | None, place: Path) -> None:
    with served(Site()) as url:
        begun(url, place)
        (path,) = place.glob("*.json")
        path.unlink()
        if facts is not None:
            path.write_bytes(facts)
        stream = KeptDownload(url, place)
        assert rest(stream) == BODY
        stream.close()


@pytest.mark.parametrize("site", [Site(tag=None), Site(length=False)], ids=["no validator", "no length"])
def test_what_cannot_be_told_apart_later_is_not_kept(site: Site, place: Path) -> None:
    with served(site) as url:
        begun(url, place)
    assert list(place.iterdir()) == []


def test_nothing_is_kept_where_room_is_short(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "ROOM", 1 << 60)
    with served(Site()) as url:
        begun(url, place)
    assert list(place.iterdir()) == []


def test_another_url_takes_the_place(place: Path) -> None:
    with served(Site()) as url:
        begun(url, place)
        begun(url + "?2", place)
    assert len(list(place.iterdir())) == 2


def test_a_second_run_at_the_same_time_keeps_nothing(place: Path) -> None:
    with served(Site()) as url:
        first, second = KeptDownload(url, place), KeptDownload(url, place)
        assert first.read(1000) == BODY[:1000]
        assert rest(second) == BODY
        second.close()
        assert rest(first) == BODY[1000:]
        first.close()
    (part,) = place.glob("*.part")
    assert part.read_bytes() == BODY


def test_where_nothing_can_be_written_it_is_fetched_all_the_same(tmp_path: Path) -> None:
    with served(Site()) as url:
        begun(url, tmp_path / "not" / "there")


@pytest.fixture
def image(tmp_path: Path) -> Iterator[bytes]:
    build({b"a": sparse(900_000, Noise(0, 900_000, 1))}, tmp_path / "target")
    create_image(None, tmp_path / "target", tmp_path / "image", effort="fast")
    yield (tmp_path / "image").read_bytes()


def test_an_image_is_applied_by_the_second_run(image: bytes, place: Path, tmp_path: Path) -> None:
    site = Site(body=image, cut=500_000, cuts=1, busy=0)
    (tmp_path / "new").mkdir()
    with served(site) as url:
        with pytest.raises(Failed), open_source(url, place) as source:
            while source.position < 400_000:
                source.read(1000)
            raise Failed("the machine is switched off")
        with open_image(url, kept=place) as opened:
            opened.apply(tmp_path / "new")
    assert differences(tmp_path / "target", tmp_path / "new") == []
    assert list(place.iterdir()) == []
    assert site.sent <= len(image) + 100_001


def test_what_is_damaged_is_not_kept(image: bytes, place: Path, tmp_path: Path) -> None:
    with served(Site(body=image)) as url:
        with pytest.raises(Failed), open_source(url, place) as source:
            while source.position < 600_000:
                source.read(1000)
            raise Failed("the machine is switched off")
        (part,) = place.glob("*.part")
        with part.open("r+b") as file:
            file.seek(400_000)
            file.write(b"what a disk may do after a cut")
        (tmp_path / "new").mkdir()
        with pytest.raises(Rejected, match="damaged"), open_image(url, kept=place) as opened:
            opened.apply(tmp_path / "new")
        assert list(place.iterdir()) == []
        shutil.rmtree(tmp_path / "new")
        (tmp_path / "new").mkdir()
        with open_image(url, kept=place) as opened:
            opened.apply(tmp_path / "new")
    assert differences(tmp_path / "target", tmp_path / "new") == []
