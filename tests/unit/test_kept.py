"""Downloads that go on in another run: each byte once, and nothing of what was used, or damaged, stays."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tbdiff import download, kept
from tbdiff.create import create_image
from tbdiff.errors import Failed, Rejected
from tbdiff.image import open_image
from tbdiff.kept import KeptDownload
from tbdiff.line import DIRECT, Line
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


def begun(url: str, place: Path, size: int = 30_000, line: Line = DIRECT) -> None:
    """A run that is killed after `size` bytes; what its process held is written, its file system had no cut."""
    stream = KeptDownload(url, place, line)
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


HEADS = {
    "nothing": b"",
    "no JSON": b"x" * 5000,
    "a list": b"[]",
    "too little": b'{"size":1}',
    "other kinds": b'{"size":"x","tag":[],"modified":{}}',
    "a tag that is no header": b'{"size":102400,"tag":"a\\r\\nb","modified":null}',
    "a tag beyond ASCII": '{"size":102400,"tag":"\u20ac","modified":null}'.encode(),
    "half a character": b'{"size":102400,"tag":"\\ud800","modified":null}',
    "deep": b"[" * 4096,
    "a huge size": b'{"size":' + b"9" * 4000 + b',"tag":"1","modified":null}',
    "smaller than what is kept": b'{"size":5,"tag":"\\"one\\"","modified":null}',
}


@pytest.mark.parametrize("head", HEADS)
def test_a_spoiled_memory_is_no_harm(head: str, place: Path) -> None:
    with served(Site()) as url:
        begun(url, place)
        (path,) = place.iterdir()
        path.write_bytes(HEADS[head].ljust(kept.HEAD, b"\0") + path.read_bytes()[kept.HEAD :])
        stream = KeptDownload(url, place)
        assert rest(stream) == BODY
        stream.close()


def _swap_for_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent.parent / "victim")


def _swap_for_hard_link(path: Path) -> None:
    path.unlink()
    path.hardlink_to(path.parent.parent / "victim")


def _swap_for_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _swap_for_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _swap_for_zeros(path: Path) -> None:
    path.unlink()
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))


def _stretch(path: Path) -> None:
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize(
    "swap", [_swap_for_link, _swap_for_hard_link, _swap_for_fifo, _swap_for_directory, _swap_for_zeros, _stretch]
)
def test_what_somebody_put_there_is_neither_used_nor_harmed(
    swap: Callable[[Path], None], place: Path, tmp_path: Path
) -> None:
    (tmp_path / "victim").write_text("mine")
    with served(Site()) as url:
        begun(url, place)
        (path,) = place.iterdir()
        swap(path)
        stream = KeptDownload(url, place)
        assert rest(stream) == BODY
        stream.forget()
        stream.close()
    assert (tmp_path / "victim").read_text() == "mine"


def test_another_place_goes_on_in_another_run(place: Path) -> None:
    first, second = Site(), Site(tag='"its own"')
    with served(second) as other:
        with served(first) as url:
            line = Line(folders=(url.removesuffix("/image"), other.removesuffix("/image")))
            begun(url, place)
        begun(url, place, 60_000, line)
        assert second.asked == [("bytes=29999-", None)]
        # Who began it is asked for it first, and whether it is still the same.
        stream = KeptDownload(url, place, line)
        assert rest(stream) == BODY
        stream.close()


def test_only_own_files_are_ever_removed(place: Path) -> None:
    with served(Site()) as url:
        begun(url, place)
        (old,) = place.iterdir()
        for name in ("film.mkv.part", "film.mkv.json", "0" * 31 + ".part"):
            (place / name).write_text("mine")
            os.utime(place / name, (0, 0))
        os.mkfifo(place / "pipe.part")
        begun(url + "?2", place)
        assert old.exists()
        os.utime(old, (0, 0))
        begun(url + "?2", place, 60_000)
        assert not old.exists()
    assert len(list(place.iterdir())) == 5


def test_a_server_that_has_less_now_is_asked_anew(place: Path) -> None:
    site = Site()
    with served(site) as url:
        begun(url, place, 60_000)
        site.body, site.unsatisfiable = BODY[:50_000], True
        stream = KeptDownload(url, place)
        assert rest(stream) == BODY[:50_000]
        stream.close()


def test_several_downloads_go_on_side_by_side(place: Path) -> None:
    site = Site()
    with served(site) as url:
        begun(url, place)
        begun(url + "?2", place)
        site.asked.clear()
        for one in (url, url + "?2"):
            stream = KeptDownload(one, place)
            assert rest(stream) == BODY
            stream.close()
    assert [wanted for wanted, _ in site.asked] == ["bytes=29999-"] * 2


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


def test_a_second_run_at_the_same_time_keeps_nothing(place: Path) -> None:
    with served(Site()) as url:
        first, second = KeptDownload(url, place), KeptDownload(url, place)
        assert first.read(1000) == BODY[:1000]
        assert rest(second) == BODY
        second.close()
        assert rest(first) == BODY[1000:]
        first.close()
    (part,) = place.iterdir()
    assert part.read_bytes()[kept.HEAD :] == BODY


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
            file.seek(kept.HEAD + 400_000)
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
