"""The options of the units that deploy and fetch, kept by a real systemd: they can do what they must, and no more."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.boot.debian import GUEST, REPOSITORY, base, here
from tests.web import served

pytestmark = pytest.mark.slow

SYSTEMD = REPOSITORY / "boot-hooks/systemd"
NAMES = ("upgrade", "agent")
# What must succeed, and what must fail, in place of our program.
MAY = (
    "touch /boot/kernel",
    "t=$(mktemp -d /run/XXXX) && mount -t tmpfs tmpfs $t && chown 1:2 $t && mknod $t/null c 1 3",
    "unshare --mount --net --pid --fork chroot / true",
)
MAY_NOT = (
    "touch /usr/x",
    "touch /etc/x",
    "touch /etc/tb-update/x",
    "grep -qv -e lo: -e '|' /proc/net/dev",
    "python3 -c 'import socket; socket.socket(socket.AF_INET)'",
    "date --set=@0",
)


FETCHES_MAY = (
    "python3 -c 'import socket; socket.getaddrinfo(\"localhost\", 80)'",
    "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}))'",
    "ls /usr/lib",
)
FETCHES_MAY_NOT = (
    "test $(id -u) = 0",
    "ls /boot",
    "ls /etc/tb-update",
    "test -e /proc/1",
    "touch /usr/x",
    "touch /run/x",
    "touch /results/x",
    "sh -c 'echo x >/tmp/x'",
    "mount -t tmpfs tmpfs /tmp",
    "unshare --user true",
    "unshare --net true",
    "python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'",
    "python3 -c 'import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)'",
    "python3 -c 'import os; os.setuid(0)'",
    "sh -c 'ulimit -n 4096'",
)
# Who asks the fetcher itself: root gets what is far, and nobody else is answered.
ASK = """
import os, socket
def asked():
    made = socket.socket(socket.AF_UNIX)
    made.connect("/run/tb-update/fetch")
    made.sendall(b"GET {url} HTTP/1.1\\r\\n\\r\\n")
    return b"".join(iter(lambda: made.recv(1 << 16), b""))
said = asked()
assert said.startswith(b"HTTP/1.1 200 ") and said.endswith(b"far away"), said
os.setuid(1)
try:
    asked()
except PermissionError:
    raise SystemExit(0)
raise SystemExit("everybody is served")
"""
FETCHER = "import sys; sys.path.insert(0, '/results/code'); from tbupdate.fetcher import main; main()"


def probe(may: tuple[str, ...], may_not: tuple[str, ...]) -> str:
    """A script that ends with the number of the first line that is not as it should be."""
    wanted = [*may, *(f"! {{ {line}; }}" for line in may_not)]
    return "".join(f"{{ {line}; }} || exit {number}\n" for number, line in enumerate(wanted, 1))


def unit(name: str, command: str, options: str = "") -> str:
    """A unit that leaves behind how its command ended."""
    said = f"ExecStopPost=+/bin/sh -c 'echo $EXIT_STATUS >/results/{name}.ended'"
    started = f"Type=oneshot\nExecStart={command}\n{said}\n"
    return f"[Unit]\nDefaultDependencies=no\n{options}[Service]\n{started}"


@contextmanager
def fetching(place: Path, far: Path) -> Iterator[None]:
    """The fetcher in its own unit, who asks it, what is far, and a probe in another unit with the same options."""
    far.mkdir()
    (far / "x").write_text("far away")
    with served(far) as url:
        lay_out_fetcher(place, url)
        yield


def lay_out_fetcher(place: Path, url: str) -> None:
    """All that is in files of it."""
    system, port = place / "system", url.rpartition(":")[2]
    for package in ("tbdiff", "tbupdate"):
        shutil.copytree(REPOSITORY / package, place / "code" / package)
    may = tuple(line.replace("{port}", port) for line in FETCHES_MAY)
    (place / "fetch.sh").write_text(probe(may, FETCHES_MAY_NOT))
    (place / "ask.py").write_text(ASK.replace("{url}", f"{url}/x"))
    (place / "fetcher.py").write_text(FETCHER)
    text = (SYSTEMD / "tb-update-fetch.service").read_text()
    options = text.partition("[Service]\n")[2].replace("ExecStart=@PROGRAM@-fetcher\n", "")
    socket = (SYSTEMD / "tb-update-fetch.socket").read_text()
    service = text.replace("@PROGRAM@-fetcher", "/usr/bin/python3 -I /results/fetcher.py")
    for kind, said in (("socket", socket), ("service", service)):
        early = said.replace("[Unit]\n", "[Unit]\nDefaultDependencies=no\n")
        (system / f"tb-update-fetch.{kind}").write_text(early)
    (system / "fetch.service").write_text(unit("fetch", "/bin/sh /results/fetch.sh") + options)
    needs = "Requires=tb-update-fetch.socket\nAfter=tb-update-fetch.socket\n"
    (system / "ask.service").write_text(unit("ask", "/usr/bin/python3 /results/ask.py", needs))


def lay_out(place: Path) -> None:
    """The units with probes in place of the program, and a target that wants them."""
    system = place / "system"
    (place / "probe.sh").write_text(probe(MAY, MAY_NOT))
    options = (SYSTEMD / "applier.conf").read_text().partition("[Service]\n")[2]
    for name in NAMES:
        drop = system / f"tb-update-{name}.service.d"
        drop.mkdir(parents=True)
        (drop / "applier.conf").write_text(f"[Service]\n{options}")
        (system / f"tb-update-{name}.service").write_text(unit(name, "/bin/sh /results/probe.sh"))
    wants = " ".join((*(f"tb-update-{name}.service" for name in NAMES), "fetch.service", "ask.service"))
    (system / "probes.target").write_text(f"[Unit]\nDefaultDependencies=no\nWants={wants}\n")


def test_who_deploys_and_who_fetches_can_do_what_they_have_to_and_no_more(tmp_path: Path) -> None:
    results, place = tmp_path / "results", tmp_path / "place"
    for made in (results, place):
        made.mkdir()
    tmp_path.chmod(0o755)
    results.chmod(0o755)
    lay_out(results)
    names = (*NAMES, "fetch", "ask")
    command = ["unshare", "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--fork", "--kill-child"]
    command += ["sh", str(GUEST / "units.sh"), str(base(here())), str(place), str(results)]
    with (
        fetching(results, tmp_path / "far"),
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as running,
    ):
        try:
            limit = time.monotonic() + 300
            ended = [results / f"{name}.ended" for name in names]
            while not all(one.exists() and one.read_text() for one in ended):
                assert running.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < limit, (tmp_path / "log").read_text()
                time.sleep(0.1)
        finally:
            running.kill()
    said = {one.stem: one.read_text().strip() for one in ended}
    assert said == dict.fromkeys(names, "0"), (tmp_path / "log").read_text()
