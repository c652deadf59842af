"""The process that goes to the network for one that has none: what it serves, what it may, and what it cannot do."""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tbdiff import connection, download, opener
from tbdiff.create import create_image
from tbdiff.download import Download
from tbdiff.errors import Failed, Rejected
from tbdiff.image import open_image
from tbdiff.kept import KeptDownload
from tbdiff.line import Identity, Line
from tbdiff.source import read_small
from tbupdate import fetcher, reach
from tbupdate.config import Fetch, Source
from tbupdate.exchange import exchange
from tbupdate.fetcher import RefusedError, read_request
from tbupdate.reach import Reach
from tests.certificates import Authority
from tests.trees import Noise, build, sparse
from tests.unit.test_download import BODY, Site, answering, served

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0)
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    reach._proxies.cache_clear()


@pytest.fixture
def far() -> Iterator[Reach]:
    with Reach(Fetch()) as made:
        yield made


def all_of(stream: Download | KeptDownload) -> bytes:
    try:
        return b"".join(iter(lambda: stream.read(1000), b""))
    finally:
        stream.close()


def processes(far: Reach) -> list[int]:
    """The fetcher, and what it has started."""
    assert far._running is not None
    first = far._running.pid
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return [first, *map(int, children)]


# --- bytes


@pytest.mark.parametrize("length", [True, False], ids=["a length", "no length"])
def test_it_is_as_if_there_was_no_fetcher(length: bool, far: Reach) -> None:
    site = Site(length=length, cut=7001 if length else None)
    with served(site) as url:
        assert all_of(Download(url, line=far.line())) == BODY
    assert site.sent == len(BODY)
    if length:
        assert site.asked[:2] == [(None, None), ("bytes=7001-", '"one"')]


def test_parts_come_in_parts(far: Reach) -> None:
    parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:5000], BODY[5000:], b""))
    with answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + parts) as url:
        assert all_of(Download(url, line=far.line())) == BODY
    cut = b"HTTP/1.1 200 OK\r\nETag: x\r\nTransfer-Encoding: chunked\r\n\r\n" + parts[:9000]
    # It is not taken for the end.
    with answering(cut) as url, pytest.raises(Failed):
        all_of(Download(url, line=far.line()))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"\x1b[31mno HTTP at all\0\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 404 no\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 403 \x1b[31mno\r\nContent-Length: 0\r\n\r\n", r"403 \[31mno"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/x\r\n\r\n", "sends us where we do not go"),
        (b"HTTP/1.1 502 no\r\nTb-Fault: believe me\r\nContent-Length: 0\r\n\r\n", "the server says 502"),
        (b"", "without response"),
    ],
)
def test_whatever_a_server_says(answer: bytes, said: str | None, far: Reach) -> None:
    with answering(answer) as url, pytest.raises(Failed if said else FileNotFoundError, match=said):
        Download(url, line=far.line())


def test_nobody_there(far: Reach) -> None:
    with served(Site()) as url:
        pass
    with pytest.raises(Failed, match="refused"):
        Download(url, line=far.line())
    with pytest.raises(Failed, match=r"cannot be fetched: .*(resolution|known)"):
        Download("http://nobody.invalid/image", line=far.line())


def test_redirects_are_judged_by_who_asked(far: Reach) -> None:
    with served(Site()) as there, answering(f"HTTP/1.1 302 Found\r\nLocation: {there}\r\n\r\n".encode()) as url:
        assert all_of(Download(url, line=far.line())) == BODY
        assert read_small(url, 1 << 20, far.line(Source(url=url, redirects=(there,)))) == BODY
        with pytest.raises(Failed, match="the server sends us to"):
            read_small(url, 1 << 20, far.line(Source(url=url)))


def test_several_at_a_time(far: Reach) -> None:
    with served(Site()) as url:
        streams = [Download(url, line=far.line()) for _ in range(8)]
        assert {stream.read(10) for stream in streams} == {BODY[:10]}
        for stream in reversed(streams):
            assert stream.read(10) == BODY[10:20]
            stream.close()


def test_no_faster_than_it_may_be() -> None:
    with served(Site()) as url, Reach(Fetch(bytes_per_second=100_000)) as far:
        before = time.monotonic()
        assert all_of(Download(url, line=far.line())) == BODY
        # A second's worth, but for what may come at once.
        assert time.monotonic() - before > 0.7


# --- what it may


SYSTEM = {"usr", "lib", "lib32", "lib64", "libx32", "bin", "etc", "run"}


def test_who_applies_has_no_network_and_who_fetches_no_rights(far: Reach) -> None:
    def reached(url: str) -> bool:
        try:
            opener.open_url(url).close()
        except OSError:
            return False
        return True

    # More than fits on the way.
    with served(Site(body=BODY * 200)) as url:
        assert reached(url)
        stream = Download(url, line=far.line())
        assert len(processes(far)) == 2
        assert not reached(url)
        for pid in processes(far):
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            nobody = str(pwd.getpwnam("nobody").pw_uid)
            assert status["Uid"].split() == [nobody] * 4
            assert status["Groups"].strip() == ""
            assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}
            assert status["NoNewPrivs"] == "1"
            root = Path(f"/proc/{pid}/root")
            assert {path.name for path in root.iterdir()} <= SYSTEM
            assert not (root / "etc/shadow").exists()
            assert not (root / "etc/tb-update").exists()
            mounts = Path(f"/proc/{pid}/mounts").read_text().splitlines()
            assert {line.split()[3].split(",")[0] for line in mounts} == {"ro"}
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.search(r"Max file size +0 +0", limits)
            assert re.search(r"Max core file size +0 +0", limits)
            opened = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
            assert all(name.startswith(("socket:", "/dev/null")) for name in opened), opened
        stream.close()
        running = far._running
        far.__exit__(None, None, None)
        assert running is not None
        assert running.returncode == 0
        assert reached(url)


@pytest.mark.parametrize("user", ["root", "nobody-at-all"])
def test_it_does_not_fetch_as_anybody_else(user: str) -> None:
    with Reach(Fetch(user=user)) as far, pytest.raises(Failed, match="could not be started"):
        Download("http://127.0.0.1:1/", line=far.line())


def test_it_ends_with_who_started_it() -> None:
    script = "from tbupdate.reach import Reach; from tbupdate.config import Fetch; import os, signal\n"
    script += "far = Reach(Fetch()); far.connect(); print(far._running.pid, flush=True)\n"
    script += "os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    pid = int(done.stdout)
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.02)
    raise AssertionError("it still runs")


# --- TLS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@contextmanager
def encrypted(context: ssl.SSLContext, heard: list[bytes] | None = None) -> Iterator[int]:
    """A server that shows a certificate; its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), context.wrap_socket(self.request, server_side=True) as wrapped:
                asked = wrapped.recv(65536)
                if heard is not None:
                    heard.append(asked)
                wrapped.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_an_authority_that_is_named_and_no_other(authority: Authority, far: Reach, tmp_path: Path) -> None:
    with encrypted(authority.server("localhost")) as port:
        url = f"https://localhost:{port}"
        assert read_small(url, 1 << 20, far.line(Source(url=url, certificates=authority.path))) == BODY
        (tmp_path / "other").mkdir()
        other = Authority(tmp_path / "other").path
        for line in (far.line(), far.line(Source(url=url)), far.line(Source(url=url, certificates=other))):
            with pytest.raises(Failed, match="its certificate is not good"):
                read_small(url, 1 << 20, line)
    with pytest.raises(Failed, match="cannot be read"):
        far.line(Source(url=url, certificates=tmp_path / "none"))
    (tmp_path / "none").write_text("nonsense")
    with pytest.raises(Failed, match="cannot be fetched"):
        read_small(url, 1 << 20, far.line(Source(url=url, certificates=tmp_path / "none")))


@pytest.mark.parametrize(("host", "days"), [("elsewhere", 30), ("localhost", -1)], ids=["another name", "expired"])
def test_a_certificate_that_is_not_good(host: str, days: int, authority: Authority, far: Reach) -> None:
    with encrypted(authority.server(host, days)) as port:
        url = f"https://localhost:{port}"
        with pytest.raises(Failed, match="its certificate is not good"):
            read_small(url, 1 << 20, far.line(Source(url=url, certificates=authority.path)))


def test_a_certificate_of_ours_is_shown_by_who_has_its_key_and_no_network(authority: Authority, tmp_path: Path) -> None:
    key = authority.issue("kiosk-7")
    key.chmod(0o600)
    wanting = authority.server("localhost")
    wanting.verify_mode = ssl.CERT_REQUIRED
    wanting.load_verify_locations(authority.path)
    heard: list[bytes] = []
    passing: list[bytes] = []
    with encrypted(wanting, heard) as port, proxy(passing) as between:
        home, elsewhere = f"https://localhost:{port}", f"https://127.0.0.1:{port}"
        who = Identity(home, {"Authorization": "TargetToken secret"}, str(authority.path), str(key), str(key))
        with Reach(Fetch(proxy=f"http://{between}")) as far:
            assert exchange(f"{home}/x", far.line_to(who), limit=len(BODY)).body == BODY
        assert passing[0].startswith(f"CONNECT localhost:{port} ".encode())
        (tmp_path / "other").mkdir()
        other = Authority(tmp_path / "other")
        before = os.stat("/proc/self/ns/net").st_ino
        with Reach(Fetch()) as far:
            assert exchange(f"{home}/x", far.line_to(who), limit=len(BODY)).body == BODY
            # No network any more: so it went through the fetcher.
            assert os.stat("/proc/self/ns/net").st_ino != before
            assert b"Authorization: TargetToken secret" in heard[-1]
            heard.clear()
            for url, wrong in (
                (home, replace(who, ca=str(other.path))),
                (home, replace(who, certificate=str(other.issue("kiosk-7")), key="")),
                (home, replace(who, certificate="", key="")),
                (elsewhere, replace(who, origin=elsewhere)),
            ):
                with pytest.raises(Failed, match=r"certificate|does not answer"):
                    exchange(f"{url}/x", far.line_to(wrong))
            # Nothing was told to anybody.
            assert not any(heard)
    with Reach(Fetch()) as far, pytest.raises(Failed, match="refused"):
        exchange(f"{home}/x", far.line_to(who))


def test_without_encryption_nothing_is_asked_instead(far: Reach) -> None:
    site = Site()
    with served(site) as url, pytest.raises(Failed):
        read_small(url.replace("http:", "https:"), 1 << 20, far.line())
    assert site.asked == []


# --- proxies


@contextmanager
def proxy(heard: list[bytes]) -> Iterator[str]:
    """A proxy that knows where everything is."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            first = self.rfile.readline()
            lines = list(iter(self.rfile.readline, b"\r\n"))
            heard.extend((first, *lines))
            target = re.search(rb"[^ /]*:([0-9]+)", first.split()[1].removeprefix(b"http://"))
            assert target
            with socket.create_connection(("127.0.0.1", int(target[1]))) as server:
                if first.startswith(b"CONNECT"):
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                else:
                    server.sendall(b"GET /image HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                threading.Thread(target=self.pump, args=(self.connection, server), daemon=True).start()
                self.pump(server, self.connection)

        def pump(self, one: socket.socket, other: socket.socket) -> None:
            with suppress(OSError):
                while data := one.recv(65536):
                    other.sendall(data)
                other.shutdown(socket.SHUT_WR)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_by_a_proxy(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []
    with proxy(heard) as place, served(Site()) as url, encrypted(authority.server("there.invalid")) as port:
        far_url = f"http://there.invalid:{url.split(':')[2]}"
        with Reach(Fetch(proxy=f"http://me:p%40ss@{place}")) as far:
            assert read_small(far_url, 1 << 20, far.line()) == BODY
            assert heard[0] == f"GET {far_url} HTTP/1.1\r\n".encode()
            assert b"Proxy-Authorization: Basic bWU6cEBzcw==\r\n" in heard
            heard.clear()
            there = Source(url=f"https://there.invalid:{port}/x", certificates=authority.path)
            assert read_small(there.url, 1 << 20, far.line(there)) == BODY
            assert heard[0].startswith(f"CONNECT there.invalid:{port} ".encode())
            assert b"Proxy-Authorization: Basic bWU6cEBzcw==\r\n" in heard
        heard.clear()
        monkeypatch.setenv("http_proxy", f"http://{place}")
        with Reach(Fetch()) as far:
            assert read_small(far_url, 1 << 20, far.line()) == BODY
            assert len(heard) > 0
        heard.clear()
        with Reach(Fetch(proxy="none")) as far:
            assert read_small(url, 1 << 20, far.line()) == BODY
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with Reach(Fetch()) as far:
            assert read_small(url, 1 << 20, far.line()) == BODY
        assert heard == []


# --- what goes wrong between the two


def test_a_fetcher_that_is_killed_is_told_of_and_the_next_run_goes_on(tmp_path: Path) -> None:
    # More than fits on the way from it to us.
    site = Site(body=BODY * 50)
    with served(site) as url:
        with Reach(Fetch()) as far:
            stream = KeptDownload(url, tmp_path / "kept", far.line())
            while stream._download._position < 30_000:
                stream.read(1000)
            for pid in reversed(processes(far)):
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(Failed, match="the process that fetches has ended"):
                all_of(stream)
        sent = site.asked.copy()
        with Reach(Fetch()) as far:
            assert all_of(KeptDownload(url, tmp_path / "kept", far.line())) == BODY * 50
    assert len(sent) == 1
    assert int(re.fullmatch(r"bytes=(\d+)-", str(site.asked[1][0]))[1]) >= 29_000  # type: ignore[index]


class Liar:
    """A fetcher that was taken over, and answers this way."""

    def __init__(self, *answers: Callable[[socket.socket], None]) -> None:
        self._answers = iter(answers)

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        answer = next(self._answers)

        def act() -> None:
            with theirs, suppress(OSError):
                theirs.recv(65536)
                answer(theirs)

        threading.Thread(target=act, daemon=True).start()
        return ours

    def headers(self, _url: str) -> dict[str, str]:
        return {}


def says(*parts: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(b"".join(parts))


def endless(start: bytes, part: bytes) -> Callable[[socket.socket], None]:
    def act(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(part)

    return act


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        endless(OK, b"X: y\r\n"),
        endless(OK, b"x" * 65536),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        endless(b"", b"x"),
        says(OK, b"Transfer-Encoding: chunked\r\n\r\n-5\r\n", bytes(1 << 20)),
        says(b"HTTP/1.1 502 x\r\nTb-Fault: ", b"\x1b" * 300, b"\r\n\r\n"),
        says(b""),
    ],
    ids=["headers", "a header", "never", "a line", "a size below zero", "an odd fault", "nothing"],
)
def test_a_fetcher_that_lies_in_its_head(
    answer: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TRIES", 2)
    monkeypatch.setattr(connection, "HEAD_TIME", 0.5)
    line = Line(Liar(*[answer] * 4))
    with pytest.raises(Failed) as raised:
        all_of(Download("http://there/image", line=line))
    assert "\x1b" not in str(raised.value)


def test_a_fetcher_that_lies_about_ranges() -> None:
    cut = says(OK, b"Content-Length: 100\r\nETag: x\r\n\r\n", b"x" * 40)
    for part in (b"bytes 0-99/100", b"bytes 41-99/100", b"bytes 40-99/1000", b"nonsense"):
        wrong = says(b"HTTP/1.1 206 OK\r\nETag: x\r\nContent-Range: ", part, b"\r\n\r\n", b"x" * 60)
        with pytest.raises(Failed, match="changed while it was fetched"):
            all_of(Download("http://there/image", line=Line(Liar(cut, wrong))))


@pytest.mark.parametrize("at", [20, 5000, 200_000])
def test_a_fetcher_that_sends_other_bytes_is_found_out(at: int, tmp_path: Path) -> None:
    build({b"a": sparse(300_000, Noise(0, 300_000, 1))}, tmp_path / "target")
    create_image(None, tmp_path / "target", tmp_path / "image", effort="fast")
    image = bytearray((tmp_path / "image").read_bytes())
    image[at] ^= 1
    (tmp_path / "new").mkdir()
    head = b"HTTP/1.1 200 OK\r\nETag: x\r\nContent-Length: %d\r\n\r\n" % len(image)
    line = Line(Liar(says(head, bytes(image))))
    with pytest.raises(Rejected), open_image("http://there/image", line=line) as opened:
        opened.apply(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


# --- requests


def asked(text: bytes) -> fetcher.Request:
    """As it comes byte by byte."""
    parts = iter([bytes([byte]) for byte in text])
    return read_request(lambda _size: next(parts, b""))


def test_a_request_is_what_it_says() -> None:
    got = asked(
        b"POST https://there:44/a?b HTTP/1.1\r\nHost: elsewhere\r\nAuthorization: mine\r\nConnection: close\r\n"
        b"Content-Length: 5\r\nTb-Proxy: http://p:1\r\n\r\n12345"
    )
    assert (got.method, got.url.geturl(), got.body) == ("POST", "https://there:44/a?b", b"12345")
    assert got.headers == {"Authorization": "mine"}
    assert got.proxy is not None
    assert got.proxy.port == 1


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"GET http://h/ HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET ftp://h/ HTTP/1.1\r\n\r\n",
        b"GET file:///etc/passwd HTTP/1.1\r\n\r\n",
        b"GET http:///x HTTP/1.1\r\n\r\n",
        b"GET http://h:99999/ HTTP/1.1\r\n\r\n",
        b"GET http://" + b"a" * 70 + b"/ HTTP/1.1\r\n\r\n",
        b"CONNECT h:443 HTTP/1.1\r\n\r\n",
        b"CONNECT http://h HTTP/1.1\r\n\r\n",
        b"CONNECT https://h HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
        b"TRACE http://h/ HTTP/1.1\r\n\r\n",
        b"GET http://h/ HTTP/1.1\r\nX\r\n\r\n",
        b"GET http://h/ HTTP/1.1\r\nX: y\r\nX: z\r\n\r\n",
        b"GET http://h/ HTTP/1.1\r\nX: \x01\r\n\r\n",
        b"GET http://h/ HTTP/1.1\r\nX: y\n\r\n\r\n",
        b"GET http://h/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET http://h/ HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n",
        b"GET http://h/ HTTP/1.1\r\nContent-Length: 3\r\n\r\nab",
        b"GET http://h/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET http://h/ HTTP/1.1\r\nTb-Proxy: ftp://p\r\n\r\n",
        b"GET http://h/ HTTP/1.1\r\nTb-Proxy: https://p\r\n\r\n",
        b"GET http://h/ HTTP/1.1\r\nTb-Certificates: !\r\n\r\n",
    ],
)
def test_what_is_not_understood_is_not_asked(text: bytes) -> None:
    with pytest.raises(RefusedError):
        asked(text)


def test_a_request_has_an_end() -> None:
    with pytest.raises(RefusedError, match="no end"):
        read_request(lambda size: b"x" * size)


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it waits for: a name, a connection, a handshake."""
    monkeypatch.setattr(fetcher, "HEAD_TIME", 0.3)
    before = signal.getsignal(signal.SIGALRM)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(b"GET https://127.0.0.1:%d/ HTTP/1.1\r\n\r\n" % silent.getsockname()[1])
            try:
                fetcher.answer(theirs)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
            assert b"Tb-Fault: timed out" in ours.recv(1000)


# --- as systemd starts it


def is_listened_to(place: Path) -> bool:
    """Whether a Unix socket accepts connections: the flag of <linux/net.h>, __SO_ACCEPTCON, in hex."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return any(line[-1] == os.fspath(place) and line[3] == "00010000" for line in lines)


@contextmanager
def activated(folder: Path, monkeypatch: pytest.MonkeyPatch, mode: int = 0o666) -> Iterator[Path]:
    place = folder / "fetch"
    command = ["systemd-socket-activate", "-l", place, sys.executable, "-m", "tbupdate.fetcher"]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL) as running:
        try:
            # It is there before anybody listens to it.
            while not is_listened_to(place):
                assert running.poll() is None
                time.sleep(0.02)
            place.chmod(mode)
            monkeypatch.setattr(reach, "SOCKET", os.fspath(place))
            yield place
        finally:
            running.kill()


def test_the_one_that_systemd_starts_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Site()) as url, activated(tmp_path, monkeypatch), Reach(Fetch()) as far:
        assert read_small(url, 1 << 20, far.line()) == BODY
        assert read_small(url, 1 << 20, far.line()) == BODY
        assert far._running is None


def test_it_serves_root_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        with served(Site()) as url, activated(Path(folder), monkeypatch) as place:
            script = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(place)!r})\n"
            script += f"s.sendall(b'GET {url} HTTP/1.1\\r\\n\\r\\n'); print(s.recv(12))"
            for user, got in (("root", "b'HTTP/1.1 200'"), ("nobody", "")):
                command = ["setpriv", f"--reuid={user}", "--clear-groups", "/usr/bin/python3", "-c", script]
                done = subprocess.run(command, capture_output=True, text=True)
                # It is closed on whoever else asks: before, or after he has asked.
                assert done.stdout.strip().replace("b''", "") == got, done.stderr
