"""The command behind the local socket: programs ask by it how the device stands, and answer for a person."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from tbdiff.errors import Failed, Rejected
from tbupdate import api as protocol
from tbupdate import consent, lastrun, outlook, status
from tbupdate.api import Request
from tbupdate.cli.conduct import glance
from tbupdate.cli.options import Settings, everywhere, settings
from tbupdate.cli.sites import readable, working
from tbupdate.cli.telling import refresh
from tbupdate.config import Config
from tbupdate.layout import STATE
from tbupdate.unattended import Act

SAID = {"approve": consent.APPROVED, "postpone": consent.POSTPONED, "decline": consent.DECLINED}
TOLD = ("booted", "default", "staged", "trial", "ready", "reboot_needed", "busy")
# At a time; and of one user, who must not hold up all others.
CONNECTIONS, OF_ONE = 16, 4
# Seconds of a connection, however slowly somebody writes.
LONGEST = 3600
ELSE = "systemd starts this; else: tb-update api --listen PATH"
UPGRADE = "tb-update-upgrade.service"


@click.command()
@click.option("--listen", metavar="PATH", type=click.Path(path_type=Path), help="Where no systemd does: listen there.")
@everywhere
def api(listen: Path | None) -> None:
    """Serve the connection that is standard input, as systemd hands it over."""
    said = settings()
    if listen is not None:
        with suppress(KeyboardInterrupt):
            _listen(listen, said)
        return
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        raise Rejected("standard input is no socket; nothing was changed", ELSE)
    rules = readable(said)
    with socket.socket(fileno=os.dup(0)) as connection:
        if connection.family != socket.AF_UNIX:
            raise Rejected("standard input is no local socket; nothing was changed", ELSE)
        signal.alarm(LONGEST)
        protocol.serve(connection, rules.consent.group, lambda request: _act(request, said, rules))


def _act(request: Request, said: Settings, rules: Config) -> dict[str, Any]:
    with working(said, rules) as site:
        system, state = glance(site), os.path.join(site.top, STATE)
        if request.do != "status":
            until = time.time() + request.hours * 3600 if request.do == "postpone" else 0
            consent.answer(state, system, SAID[request.do], until, request.tree)
        last = lastrun.read(state)
        shown = outlook.find(site, system, rules)
        every = status.fields(system)
        told = {name: every[name] for name in TOLD}
        runs = system.booted or system.default
        release = runs.record.release if runs is not None and runs.record is not None else None
    if request.do != "status":
        refresh(said, rules)
    if request.do == "approve":
        told["started"] = shown.next.act in (Act.FETCH, Act.DEPLOY) and _start(said)
    return told | {"release": release, "last_run": last.model_dump() if last else None} | shown.fields()


def _start(said: Settings) -> bool:
    """Let an unattended run begin that goes on when this process ends; whether it did."""
    if said.top is None and os.path.isdir("/run/systemd/system"):
        return subprocess.run(["systemctl", "start", "--no-block", UPGRADE], check=False).returncode == 0
    null = subprocess.DEVNULL
    subprocess.Popen(said.command("upgrade", "--unattended"), stdin=null, stdout=null, start_new_session=True)
    return True


def _listen(place: Path, said: Settings) -> None:
    """Accept connections, and give each to a process of its own."""
    command = said.command("api")
    # One of a run that was killed gives way; anything else may be what somebody still needs.
    if place.is_symlink() or (place.exists() and not place.is_socket()):
        raise Rejected(f"{place} is there and is no socket; nothing was changed", "Name another place with --listen.")
    running: list[tuple[int, subprocess.Popen[bytes]]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        try:
            place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            listening.bind(str(place))
            place.chmod(0o666)
        except OSError as error:
            raise Failed(
                f"{place} cannot be listened at: {error.strerror}",
                "Run it as root, or name another place with --listen.",
            ) from None
        listening.listen()
        try:
            while True:
                connection, _ = listening.accept()
                running = [(user, one) for user, one in running if one.poll() is None]
                with connection:
                    whose = protocol.peer_of(connection).user
                    if len(running) < CONNECTIONS and [user for user, _ in running].count(whose) < OF_ONE:
                        null = subprocess.DEVNULL
                        running.append((whose, subprocess.Popen(command, stdin=connection.fileno(), stdout=null)))
        finally:
            place.unlink(missing_ok=True)
            for _, one in running:
                one.terminate()
                one.wait()
