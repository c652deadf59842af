"""A device that fetches: mirrors that have it and mirrors that do not, full disks, and a kill at each system call."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tbdiff.connection import FAULT
from tests import faults
from tests.btrfs.devices import Scenario, delta, initialised
from tests.btrfs.test_kill import KILLED, LIMIT, check_after
from tests.btrfs.test_upgrade import Fleet
from tests.certificates import Authority
from tests.console import Device
from tests.ddi_server import Answer, Request, ranged, serving
from tests.rig import Rig
from tests.web import served


@pytest.fixture
def fleet(dev: Device) -> Fleet:
    made = Fleet(dev)
    made.publish((None, 1))
    dev("upgrade")
    dev("commit")
    made.publish((1, 2))
    return made


@contextmanager
def folders(fleet: Fleet, count: int) -> Iterator[tuple[list[Path], list[str]]]:
    """Copies of the folder on servers of their own, which the device follows: the first of them, and its mirrors."""
    with ExitStack() as stack:
        places = [fleet.dev.work / f"mirror{n}" for n in range(count)]
        for place in places:
            shutil.copytree(fleet.folder, place)
        urls = [stack.enter_context(served(place)) for place in places]
        follow(fleet, urls[0], f"mirrors = {urls[1:]}")
        yield places, urls


def follow(fleet: Fleet, url: str, *more: str) -> None:
    config = fleet.dev.work / "config.toml"
    fleet.follow(url)
    config.write_text("\n".join([config.read_text(), *more]))


def image_in(folder: Path) -> Path:
    """The delta that leads to 2: the one that was published last."""
    return max(folder.glob("*.tbdiff"), key=lambda path: path.stat().st_mtime_ns)


def test_what_one_place_has_not_another_has(fleet: Fleet) -> None:
    with folders(fleet, 3) as (places, _):
        (places[0] / "index.json").unlink()
        image_in(places[1]).unlink()
        image_in(places[0]).unlink()
        fleet.dev("upgrade")
    assert fleet.version == "2"


def test_what_one_place_sends_damaged_another_sends_whole(fleet: Fleet) -> None:
    with folders(fleet, 2) as (places, _):
        place = image_in(places[0])
        raw = bytearray(place.read_bytes())
        raw[-2] ^= 1
        place.write_bytes(raw)
        done = fleet.dev.run("upgrade")
    assert (done.returncode, fleet.version) == (0, "2"), done.stderr
    assert "trying the next mirror" in done.stderr


def test_a_mirror_that_lies_where_another_broke_off_stops_nothing(fleet: Fleet) -> None:
    def held(request: Request) -> bytes | None:
        path = fleet.folder / request.path.lstrip("/")
        return path.read_bytes() if path.is_file() else None

    def breaking_off(request: Request) -> Answer:
        data = held(request)
        said = ranged(data, request) if data is not None else Answer(404)
        if data is None or said.status == 206 or not request.path.endswith(".tbdiff"):
            return said
        half = data[: len(data) // 2]
        return Answer(200, b"", {**said.headers, "Content-Length": str(len(data))}, iter([half]))

    def lying(request: Request) -> Answer:
        data = held(request)
        return ranged(bytes(len(data)), request) if data is not None else Answer(404)

    with serving(breaking_off) as first, serving(lying) as second:
        follow(fleet, first, f'mirrors = ["{second}"]')
        done = fleet.dev.run("upgrade")
    assert (done.returncode, fleet.version) == (0, "2"), done.stderr
    assert done.stderr.count("trying the next mirror") == 1


@pytest.mark.parametrize("index", ["older", "nonsense", "unsigned"])
def test_an_index_that_is_no_good_gives_way_to_a_mirrors(index: str, fleet: Fleet) -> None:
    old = (fleet.folder / "index.json").read_bytes()
    fleet.publish((2, 3))
    bad = {"older": old, "nonsense": b"{", "unsigned": b'{"payload":"","payloadType":"","signatures":[]}'}[index]
    with folders(fleet, 2) as (places, _):
        fleet.dev("upgrade")
        fleet.dev("commit")
        fleet.publish((3, 4))
        for place in places:
            shutil.copytree(fleet.folder, place, dirs_exist_ok=True)
        (places[0] / "index.json").write_bytes(bad)
        fleet.dev("upgrade")
    assert fleet.version == "4"


def test_over_https_by_an_authority_of_ones_own(fleet: Fleet) -> None:
    authority = Authority(fleet.dev.work)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=fleet.folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = authority.server("localhost").wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"https://localhost:{server.server_address[1]}"
            follow(fleet, url)
            done = fleet.dev.run("upgrade")
            assert (done.returncode, fleet.version) == (1, "1")
            assert "its certificate is not good" in done.stderr
            assert FAULT not in done.stderr
            follow(fleet, url, f'certificates = "{authority.path}"')
            fleet.dev("upgrade")
        finally:
            server.shutdown()
            thread.join()
    assert fleet.version == "2"


# --- faults


def remote(url: str, image: Path) -> Scenario:
    return Scenario(initialised, lambda _rig: ["deploy", f"{url}/{image.name}"], 1, 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_a_system_call_of_a_fetch(rig: Rig) -> None:
    """Who dies is the one that applies or the one that fetches: whatever comes first to the call of that number."""
    image = delta(rig)
    with served(image.parent) as url:
        case = remote(url, image)
        golden, arguments = case.golden(rig), case.arguments(rig)
        with rig.copy(golden) as (top, _):
            ended, calls = faults.record(rig.command(top, *arguments), top / "tb-update/fetched", faults.TALKING)
            assert ended.code == 0, ended.err
        hit = 0
        for call in faults.some(calls, 2 * LIMIT):
            with rig.copy(golden) as (top, _):
                ended = faults.kill_at(call, rig.command(top, *arguments))
                assert ended.code in (KILLED, 0, 1), (call, ended)
                assert "Traceback" not in ended.err, (call, ended)
                hit += ended.code != 0
                check_after(rig, case, top, arguments)
        assert hit > LIMIT


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_what_cannot_be_kept_is_deployed_all_the_same(error: str, rig: Rig) -> None:
    image = delta(rig)
    with served(image.parent) as url:
        case = remote(url, image)
        golden, arguments = case.golden(rig), case.arguments(rig)
        with rig.copy(golden) as (top, _):
            ended, calls = faults.record(rig.command(top, *arguments), top / "tb-update/fetched")
            assert ended.code == 0, ended.err
        for call in faults.some(calls, 8):
            with rig.copy(golden) as (top, _):
                ended = faults.fail_at(call, rig.command(top, *arguments), error)
                assert "Traceback" not in ended.err, (call, ended)
                # A call of that number may be another one in the process that fetches.
                assert ended.code in (0, 1), (call, ended)
                check_after(rig, case, top, arguments)
                left = top / "tb-update/fetched"
                assert not left.exists() or os.listdir(left) == [], call
