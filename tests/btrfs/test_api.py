"""The local socket: who may ask and who may answer, and what is refused of what comes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tbupdate import api
from tbupdate.api import Peer
from tests import schemas
from tests.btrfs.test_upgrade import Fleet
from tests.console import Device

# As nobody, with the groups that are named: ask on a socket, and print what is said.
ASK = """
import os, socket, sys
path, user, groups, request = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
os.setgroups([int(one) for one in groups.split(",") if one]); os.setgid(65534); os.setuid(user)
with socket.socket(socket.AF_UNIX) as asking:
    asking.connect(path)
    asking.sendall(request.encode() + b"\\n")
    print(asking.makefile().readline())
"""


# The same, with as many connections as there may be at most, on which nothing is said until its own input ends.
FLOOD = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
made = [socket.socket(socket.AF_UNIX) for _ in range(16)]
for one in made:
    one.connect(sys.argv[1])
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(dev: Device) -> Iterator[Path]:
    """A device with a release on offer, and where it listens."""
    fleet = Fleet(dev)
    fleet.publish((None, 1))
    fleet.follow(str(fleet.folder), more='[upgrade]\npolicy = "ask"\n[consent]\ngroup = "adm"')
    dev("upgrade", "--unattended", code=4)
    # pytest's own directory is for root alone.
    path = Path("/run") / f"tb-test-{os.getpid()}/api"
    with subprocess.Popen(dev.command("api", "--listen", str(path))) as running:
        end = time.monotonic() + 60
        while not path.exists() or path.stat().st_mode & 0o777 != 0o666:
            assert running.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        yield path
        running.terminate()
    assert not path.exists()
    path.parent.rmdir()


def ask(place: Path, *, user: int = 0, groups: str = "", **request: Any) -> dict[str, Any]:
    assert not list(schemas.faults_of("tb-update-api-request.json", request))
    command = [sys.executable, "-c", ASK, str(place), str(user), groups, json.dumps(request)]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert not list(schemas.faults_of("tb-update-api.json", said))
    return dict(said)


def test_anybody_may_ask_and_some_may_answer(place: Path, dev: Device) -> None:
    told = ask(place, user=65534, api=1, do="status")
    assert told["ok"] is True
    assert told["offered"]["called"] == "demo 1.0"
    # The same words as everywhere.
    assert told["next"] == dev.status()["next"]
    refused = ask(place, user=65534, do="approve")
    assert (refused["ok"], refused["error"]["kind"]) == (False, "rejected")
    assert "only root and the group adm may answer" in refused["error"]["message"]
    assert dev.status()["offered"]["said"] == ""
    # Who takes all connections for himself is in nobody else's way.
    flood = [sys.executable, "-c", FLOOD, str(place)]
    with subprocess.Popen(flood, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as many:
        assert many.stdout is not None
        assert many.stdout.readline()
        assert ask(place, do="status")["ok"] is True
    adm = next(line.split(":")[2] for line in Path("/etc/group").read_text().splitlines() if line.startswith("adm:"))
    # What he had is let go of soon; then he is answered as well.
    limit = time.monotonic() + 60
    other = None
    while other is None:
        with contextlib.suppress(subprocess.CalledProcessError):
            other = ask(place, user=65534, groups=adm, do="decline", tree="0" * 64)
        assert time.monotonic() < limit
    assert "another release is offered by now" in other["error"]["message"]
    assert ask(place, user=65534, groups=adm, do="postpone", hours=2)["next"]["reason"] == "postponed"
    approved = ask(place, do="approve", tree=told["offered"]["tree"])
    assert (approved["next"]["act"], approved["started"]) == ("deploy", True)
    # A run begins at once, and goes on by itself.
    limit = time.monotonic() + 60
    while dev.status()["offered"] is not None or dev.status()["busy"]:
        assert time.monotonic() < limit
        time.sleep(0.2)
    assert (dev.top / "snapshots/root/etc/version").read_text() == "1"
    nothing = ask(place, do="approve")
    assert nothing["error"]["kind"] == "nothing-to-do"


def test_what_is_no_socket_is_not_listened_at(dev: Device) -> None:
    kept = dev.work / "kept"
    kept.write_text("mine")
    refused = subprocess.run(dev.command("api", "--listen", str(kept)), capture_output=True, text=True)
    assert (refused.returncode, "is no socket" in refused.stderr) == (3, True)
    assert kept.read_text() == "mine"


def test_standard_input_must_be_a_local_socket(dev: Device) -> None:
    refused = subprocess.run(dev.command("api"), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (refused.returncode, "is no socket" in refused.stderr) == (3, True)


def said_to(raw: bytes) -> list[dict[str, Any]]:
    here, there = socket.socketpair()
    with here, there:
        here.sendall(raw)
        here.shutdown(socket.SHUT_WR)
        api.serve(there, "", lambda request: {"did": request.do})
        there.shutdown(socket.SHUT_WR)
        return [json.loads(line) for line in here.makefile()]


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b"\xff",
        b"null",
        b'{"do": "reboot"}',
        b'{"do": "status", "api": 2}',
        b'{"do": "status", "more": 1}',
        b'{"do": "postpone", "hours": 0}',
        b'{"do": "postpone", "hours": 1e9}',
        b'{"do": "approve", "tree": "x"}',
        b"[" * 4000,
    ],
)
def test_what_is_no_request(line: bytes) -> None:
    (refused,) = said_to(line + b"\n")
    assert (refused["ok"], refused["error"]["kind"]) == (False, "rejected")


def test_several_lines_and_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one["did"] for one in said_to(b'{"do": "status"}\n{"do": "decline"}\n')] == ["status", "decline"]
    assert said_to(b"") == said_to(b'{"do": "status"}') == []
    (refused,) = said_to(b"x" * 5000 + b"\n")
    assert "at most 4096 bytes" in refused["error"]["message"]
    monkeypatch.setattr(api, "REQUESTS_MAX", 3)
    assert len(said_to(b'{"do": "status"}\n' * 9)) == 3


def test_who_may_answer() -> None:
    assert Peer(0).may_answer("")
    assert not Peer(65534, {65534}).may_answer("")
    assert not Peer(65534, {0}).may_answer("no such group")
    assert Peer(65534, {0}).may_answer("root")
