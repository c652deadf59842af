"""Journals for tests, written by systemd's own program for that."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

REMOTE = "/lib/systemd/systemd-journal-remote"
MACHINE = "a" * 32
T0 = 1_700_000_000


def write_journal(root: Path, boots: dict[str, list[str]]) -> None:
    """A journal as journald writes it: for each boot (a hexadecimal digit) its lines, the kernel's first."""
    parts = []
    for number, (boot, lines) in enumerate(boots.items()):
        for second, line in enumerate(lines):
            fields = {
                "__REALTIME_TIMESTAMP": str((T0 + 1000 * number + second) * 1_000_000),
                "__MONOTONIC_TIMESTAMP": str(second * 1_000_000),
                "_BOOT_ID": boot * 32,
                "_MACHINE_ID": MACHINE,
                "MESSAGE": line,
                "_TRANSPORT": "journal" if second else "kernel",
            }
            parts.append("".join(f"{key}={value}\n" for key, value in fields.items()))
    place = root / "var/log/journal" / MACHINE
    place.mkdir(parents=True)
    made = subprocess.run(
        [REMOTE, "-o", place / "system.journal", "-"], input="\n".join([*parts, ""]).encode(), capture_output=True
    )
    assert made.returncode == 0, made.stderr


def read_back(place: Path, datagrams: list[bytes]) -> list[dict[str, str]]:
    """What journalctl says of datagrams in the journal's native protocol."""
    times = f"__REALTIME_TIMESTAMP={T0}000000\n__MONOTONIC_TIMESTAMP=1\n"
    head = f"{times}_BOOT_ID={'b' * 32}\n_MACHINE_ID={MACHINE}\n".encode()
    journal = place / "told.journal"
    export = b"".join(head + datagram + b"\n" for datagram in datagrams)
    made = subprocess.run([REMOTE, "-o", journal, "-"], input=export, capture_output=True)
    assert made.returncode == 0, made.stderr
    read = subprocess.run(["journalctl", "--file", journal, "-o", "json"], capture_output=True, check=True)
    return [json.loads(line) for line in read.stdout.splitlines()]


def started(deployment: str) -> str:
    return f"Kernel command line: root=UUID=x ro tb.id={deployment} quiet panic=10"
