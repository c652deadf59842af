"""The options of the units that deploy, kept by a real systemd: they can do what they have to, and no more."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.boot.debian import GUEST, REPOSITORY, base, here

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


def probe() -> str:
    """A script that ends with the number of the first line that is not as it should be."""
    wanted = [*MAY, *(f"! {{ {line}; }}" for line in MAY_NOT)]
    return "".join(f"{{ {line}; }} || exit {number}\n" for number, line in enumerate(wanted, 1))


def lay_out(place: Path) -> None:
    """The units with probes in place of the program, and a target that wants them."""
    system = place / "system"
    (place / "probe.sh").write_text(probe())
    options = (SYSTEMD / "applier.conf").read_text().partition("[Service]\n")[2]
    for name in NAMES:
        drop = system / f"tb-update-{name}.service.d"
        drop.mkdir(parents=True)
        (drop / "applier.conf").write_text(f"[Service]\n{options}")
        said = f"ExecStopPost=+/bin/sh -c 'echo $EXIT_STATUS >/results/{name}.ended'"
        (system / f"tb-update-{name}.service").write_text(
            f"[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/sh /results/probe.sh\n{said}\n"
        )
    wants = " ".join(f"tb-update-{name}.service" for name in NAMES)
    (system / "probes.target").write_text(f"[Unit]\nDefaultDependencies=no\nWants={wants}\n")


def test_who_deploys_can_do_what_it_has_to_and_no_more(tmp_path: Path) -> None:
    results, place = tmp_path / "results", tmp_path / "place"
    for made in (results, place):
        made.mkdir()
    tmp_path.chmod(0o755)
    results.chmod(0o755)
    lay_out(results)
    command = ["unshare", "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--fork", "--kill-child"]
    command += ["sh", str(GUEST / "units.sh"), str(base(here())), str(place), str(results)]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as running:
        try:
            limit = time.monotonic() + 300
            ended = [results / f"{name}.ended" for name in NAMES]
            while not all(one.exists() and one.read_text() for one in ended):
                assert running.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < limit, (tmp_path / "log").read_text()
                time.sleep(0.1)
        finally:
            running.kill()
    said = {one.stem: one.read_text().strip() for one in ended}
    assert said == dict.fromkeys(NAMES, "0"), (tmp_path / "log").read_text()
