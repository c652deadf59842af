"""Images fetched over connections that break: each byte once, never two halves of different files."""

from __future__ import annotations

import http.server
import re
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tbdiff import connection, download, opener, source
from tbdiff.create import create_image
from tbdiff.download import Download
from tbdiff.errors import Failed
from tbdiff.image import open_image
from tbdiff.line import Bucket, Line, origin
from tests.honest import differences
from tests.trees import Noise, build, sparse

BODY = bytes(range(256)) * 400


@dataclass
class Site:
    """How a server behaves: cuts the first `cuts` answers after `cut` bytes, is `busy` so many times, and so on."""

    body: bytes = BODY
    cut: int | None = None
    cuts: int = 1 << 30
    busy: int = 0
    tag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    length: bool = True
    # From the second answer on.
    next_body: bytes | None = None
    next_tag: str | None = None
    shift: int = 0
    unsatisfiable: bool = False
    status: int = 503
    # Seconds after each 400 bytes.
    pause: float = 0
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    sent: int = 0


@contextmanager
def served(site: Site) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted, condition = self.headers["Range"], self.headers["If-Range"]
            site.asked.append((wanted, condition))
            if site.busy:
                site.busy -= 1
                self.send_error(site.status)
                return
            first = len([one for one in site.asked if one[0]]) == 0
            body = site.body if first or site.next_body is None else site.next_body
            tag = site.tag if first or site.next_tag is None else site.next_tag
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges else 0
            if condition and condition not in (tag, site.modified):
                start = 0
            if start >= len(body) and site.unsatisfiable:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start + site.shift}-{len(body) - 1}/{len(body)}")
            if site.length:
                self.send_header("Content-Length", str(len(body) - start))
            if tag:
                self.send_header("ETag", tag)
            if site.modified:
                self.send_header("Last-Modified", site.modified)
            self.send_header("Connection", "close")
            self.end_headers()
            part = body[start:][: site.cut if len(site.asked) <= site.cuts else None]
            self.close_connection = True
            step = 400 if site.pause else max(1, len(part))
            for begin in range(0, len(part), step):
                piece = part[begin : begin + step]
                try:
                    self.wfile.write(piece)
                except OSError:
                    return
                site.sent += len(piece)
                time.sleep(site.pause)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/image"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0)


def fetched(site: Site) -> bytes:
    with served(site) as url:
        stream = Download(url)
        try:
            return b"".join(iter(lambda: stream.read(1000), b""))
        finally:
            stream.close()


def test_every_byte_is_sent_once() -> None:
    site = Site(cut=7001)
    assert fetched(site) == BODY
    assert site.sent == len(BODY)
    assert site.asked[0] == (None, None)
    assert site.asked[1] == ("bytes=7001-", '"one"')
    assert len(site.asked) == -(-len(BODY) // 7001)


def test_a_busy_server_is_asked_again() -> None:
    for status in (503, 429, 500):
        site = Site(busy=3, status=status)
        assert fetched(site) == BODY
        assert len(site.asked) == 4


def test_one_that_stays_busy_is_given_up() -> None:
    site = Site(busy=100)
    with pytest.raises(Failed, match="the server says 503"):
        fetched(site)
    assert len(site.asked) == download.TRIES


def test_one_that_refuses_is_not_asked_again() -> None:
    site = Site(busy=1, status=403)
    with pytest.raises(Failed, match="403"):
        fetched(site)
    site = Site(busy=1, status=404)
    with pytest.raises(FileNotFoundError):
        fetched(site)
    assert len(site.asked) == 1


def test_nobody_there() -> None:
    with served(Site()) as url:
        pass
    with pytest.raises(Failed, match="refused"):
        Download(url)


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that says this, whatever it is asked."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/image"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"\x1b[31mno HTTP at all\0\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 404 \x1b[31mno\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 403 \x1b[31mno\r\nContent-Length: 0\r\n\r\n", r"403 \\x1b\[31mno"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/x\r\n\r\n", "sends us where we do not go"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "the server says 302"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[bad\r\n\r\n", "no address"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://" + b"a" * 70 + b"/\r\n\r\n", "no address"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://\xff\xe9/\r\n\r\n", "no address"),
    ],
)
def test_whatever_a_server_says(answer: bytes, said: str | None) -> None:
    with answering(answer) as url, pytest.raises(Failed if said else FileNotFoundError, match=said) as raised:
        Download(url)
    assert "\x1b" not in str(raised.value)


def test_a_server_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TIMEOUT", 0.5)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            with suppress(OSError):
                for _ in range(400):
                    self.request.sendall(b"x")
                    time.sleep(0.05)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            stream = Download(f"http://127.0.0.1:{server.server_address[1]}/image")
            with pytest.raises(Failed, match="it comes too slowly"):
                while stream.read(1000):
                    pass
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("size", [b"-1", b"-5", b"-" + b"f" * 30, b"x", b""])
def test_parts_without_a_size_are_no_parts(size: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\n" + bytes(1 << 20)
    with answering(answer) as url, pytest.raises(Failed, match=r"does not speak HTTP|cut"):
        stream = Download(url)
        while stream.read(1000):
            pass


@pytest.mark.parametrize("length", ["²".encode("latin-1"), b"9" * 5000, b"-3", b"1_0"])
def test_a_length_that_is_none_is_not_believed(length: bytes) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n" + b"image") as url:
        stream = Download(url)
        assert stream.known is not None
        assert stream.known.size is None
        stream.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://[",
        "http://a..b/",
        "http://" + "a" * 70 + "/",
        "http://",
        "http://h:x/",
        "http://h:99999/",
        "http://h/\u20ac",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(Failed, match="it is no address"):
        Download(url)


def test_nothing_comes_any_more() -> None:
    site = Site(cut=0)
    with pytest.raises(Failed, match="cut"):
        fetched(site)


@pytest.mark.parametrize(
    "site",
    [
        Site(cut=5000, next_body=BODY[::-1], next_tag='"two"'),
        Site(cut=5000, next_body=BODY[::-1], next_tag='W/"two"', tag='W/"one"'),
        Site(cut=5000, next_body=BODY + b"more", tag=None),
        Site(cut=5000, next_body=BODY[::-1], next_tag='"two"', ranges=False),
        Site(cut=5000, tag=None, ranges=False),
        Site(cut=5000, shift=1),
    ],
    ids=["another tag", "another weak tag", "another length", "all of another", "no telling", "another part"],
)
def test_two_halves_of_different_files_are_never_joined(site: Site) -> None:
    with pytest.raises(Failed, match="changed while it was fetched"):
        fetched(site)


def test_a_weak_tag_is_no_condition() -> None:
    site = Site(cut=50_000, tag='W/"one"', modified="Sat, 01 Jan 2022 00:00:00 GMT")
    assert fetched(site) == BODY
    assert site.asked[1] == ("bytes=50000-", site.modified)
    site = Site(cut=50_000, tag='W/"one"')
    assert fetched(site) == BODY
    assert site.asked[1] == ("bytes=50000-", None)


def test_a_server_without_ranges_sends_the_rest_again() -> None:
    site = Site(cut=60_000, cuts=1, ranges=False)
    assert fetched(site) == BODY
    assert len(site.asked) == 2


def test_an_image_is_applied_over_a_bad_line(tmp_path: Path) -> None:
    build({b"a": sparse(300_000, Noise(0, 300_000, 1)), b"b": sparse(90_000, Noise(0, 90_000, 2))}, tmp_path / "target")
    create_image(None, tmp_path / "target", tmp_path / "image", effort="fast")
    image = (tmp_path / "image").read_bytes()
    site = Site(body=image, cut=65_000)
    (tmp_path / "new").mkdir()
    with served(site) as url, open_image(url) as opened:
        opened.apply(tmp_path / "new")
    assert differences(tmp_path / "target", tmp_path / "new") == []
    assert site.sent == len(image)
    assert len(site.asked) == 7


# --- several places


@contextmanager
def mirrors(*sites: Site) -> Iterator[tuple[str, Line]]:
    with ExitStack() as stack:
        urls = [stack.enter_context(served(site)) for site in sites]
        yield urls[0], Line(folders=tuple(url.removesuffix("/image") for url in urls))


def by_line(url: str, line: Line) -> bytes:
    stream = Download(url, line=line)
    try:
        return b"".join(iter(lambda: stream.read(1000), b""))
    finally:
        stream.close()


def test_another_place_goes_on_at_the_same_byte() -> None:
    first, second = Site(cut=60_000), Site(tag='"its own"', modified="Sat, 01 Jan 2022 00:00:00 GMT")
    with mirrors(first, second) as (url, line):
        assert by_line(url, line) == BODY
    assert first.asked == [(None, None)]
    # Validators are no other server's business.
    assert second.asked == [("bytes=60000-", None)]
    assert first.sent + second.sent == len(BODY)


def test_a_place_that_is_slow_gives_way_and_the_last_one_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TIMEOUT", 0.5)
    slow, other = Site(pause=0.05), Site()
    with mirrors(slow, other) as (url, line):
        assert by_line(url, line) == BODY
    ((wanted, _),) = other.asked
    assert wanted is not None
    for pace, is_given_up in ((connection.BRISK, True), (connection.PACE, False)):
        patience = connection.Patience("http://x/", pace=pace)
        with pytest.raises(Failed, match="too slowly") if is_given_up else nullcontext():
            for _ in range(100):
                patience.came(400, 0.05)


@pytest.mark.parametrize(
    "broken",
    [
        Site(busy=100, status=404),
        Site(busy=100, status=403),
        Site(busy=100),
        Site(cut=0),
        Site(cut=5000, cuts=1, next_body=BODY[::-1], next_tag='"two"'),
    ],
    ids=["not there", "forbidden", "busy", "silent", "changed"],
)
def test_a_place_that_has_it_not_gives_way(broken: Site) -> None:
    with mirrors(broken, Site()) as (url, line):
        assert by_line(url, line) == BODY


def test_a_place_without_ranges_goes_on_if_it_has_as_much() -> None:
    with mirrors(Site(cut=60_000), Site(ranges=False, tag=None)) as (url, line):
        assert by_line(url, line) == BODY


@pytest.mark.parametrize("ranges", [True, False])
def test_a_place_that_has_another_size_has_another_file(ranges: bool) -> None:
    with mirrors(Site(cut=60_000), Site(body=BODY + b"x", ranges=ranges), Site()) as (url, line):
        assert by_line(url, line) == BODY
    with mirrors(Site(cut=60_000, cuts=1), Site(body=BODY + b"x", ranges=ranges)) as (url, line):
        assert by_line(url, line) == BODY


def test_when_no_place_has_it_the_reason_is_told() -> None:
    with mirrors(Site(busy=100), Site(busy=100, status=404)) as (url, line), pytest.raises(Failed, match="503"):
        by_line(url, line)
    both = (Site(busy=100, status=404), Site(busy=100, status=404))
    with mirrors(*both) as (url, line), pytest.raises(FileNotFoundError):
        by_line(url, line)


# --- where a line may lead, and how long it may take


def test_a_redirect_leads_only_where_the_line_may() -> None:
    with served(Site()) as there:
        answer = f"HTTP/1.1 302 Found\r\nLocation: {there}\r\n\r\n".encode()
        with answering(answer) as url:
            assert by_line(url, Line()) == BODY
            assert by_line(url, Line(origins=frozenset(map(origin, (url, there))))) == BODY
            with pytest.raises(Failed, match="the server sends us to") as raised:
                by_line(url, Line(origins=frozenset((origin(url),))))
            assert "redirects" in raised.value.remedy
            with pytest.raises(Failed, match="may not lead there"):
                by_line(url, Line(origins=frozenset((origin(there),))))


def test_secrets_do_not_follow_to_another_origin() -> None:
    heard: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            heard.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            there = f"http://127.0.0.1:{server.server_port}/"
            with answering(f"HTTP/1.1 302 Found\r\nLocation: {there}\r\n\r\n".encode()) as url:
                opener.open_url(url, headers={"Authorization": "mine"}).close()
                opener.open_url(there, headers={"Authorization": "mine"}).close()
        finally:
            server.shutdown()
            thread.join()
    assert heard == [None, "mine"]


@contextmanager
def drips(answer: bytes, drop: bytes) -> Iterator[str]:
    """A server that says this, and then so much again and again without an end."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            with suppress(OSError):
                self.request.sendall(answer)
                while True:
                    self.request.sendall(drop)
                    time.sleep(0.01)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/image"
        finally:
            server.shutdown()
            thread.join()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "drop"),
    [
        (b"", b"H"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK, b"X"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        (OK + b"Content-Length: 1000000000\r\n\r\n", b"x" * 99),
    ],
    ids=["a line", "not yet", "a header", "a size", "a body"],
)
def test_small_things_come_in_time_or_not_at_all(answer: bytes, drop: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "SMALL_TIME", 0.5)
    with drips(answer, drop) as url, pytest.raises(Failed, match="it takes too long"):
        source.read_small(url, 1 << 30)


def test_the_head_of_a_large_thing_comes_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIME", 0.5)
    with drips(OK, b"X") as url, pytest.raises(Failed, match="timed out"):
        Download(url)


@pytest.mark.parametrize("drop", [b"X: y\r\n", b"x" * (1 << 16)])
def test_what_follows_a_body_has_an_end(drop: bytes) -> None:
    with drips(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", drop) as url:
        stream = Download(url)
        with pytest.raises(Failed, match="changed"):
            while stream.read(1000):
                pass


def test_an_endless_body_is_read_as_far_as_it_is_wanted() -> None:
    with drips(OK + b"\r\n", b"x" * 5000) as url:
        assert source.read_small(url, 100_000) == b"x" * 100_000


def test_no_more_than_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    bucket = Bucket(10_000)
    for _ in range(100):
        bucket.take(2000)
    assert 19 < clock[0] <= 20
    # What was not used is not saved up.
    clock[0] += 1000
    for _ in range(10):
        bucket.take(2000)
    assert 1021 < clock[0] <= 1022
