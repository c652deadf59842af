"""`python -m benchmarks.agents`: the memory of what waits on a device for an update, and of what fetches and applies.

Peers are those of Debian that wait without a server; what is not installed, or does not start here, is left out.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tbdiff.create import Label, create_image
from tbdiff.signature import create_key
from tests.web import served

SETTLED = 8.0
PYTHON = [sys.executable, "-m"]
SIZE = 64 << 20


@dataclass(frozen=True)
class Memory:
    """Bytes: resident, of these not shared with anybody, and the most that was ever resident."""

    resident: int
    own: int
    peak: int


def memory(pid: int) -> Memory:
    """What a process holds now, and has held."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    own = sum(int(size) for size in re.findall(r"^Private_\w+: +(\d+)", rollup, re.MULTILINE))
    resident, peak = (
        int(re.findall(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0])
        for name in ("VmRSS", "VmHWM")
    )
    return Memory(resident << 10, own << 10, peak << 10)


@contextmanager
def running(command: Sequence[str], environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program, until the block is left."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=quiet, stdout=quiet, stderr=quiet, env=os.environ | (environment or {})
    ) as started:
        try:
            yield started
        finally:
            started.terminate()


def idle(command: Sequence[str], environment: dict[str, str] | None = None) -> Memory:
    """A daemon that has come to rest; RuntimeError if it has ended instead."""
    with running(command, environment) as started:
        time.sleep(SETTLED)
        if started.poll() is not None:
            raise RuntimeError(f"{command[0]} ended with {started.returncode}")
        return memory(started.pid)


def rauc(work: Path, stack: ExitStack) -> Memory:
    """RAUC's service, on a bus of its own."""
    bus = f"unix:path={work}/bus"
    stack.enter_context(running(["dbus-daemon", "--system", "--nofork", "--nopidfile", f"--address={bus}"]))
    (work / "slot").write_bytes(bytes(1 << 20))
    (work / "rauc.conf").write_text(
        "[system]\ncompatible=bench\nbootloader=noop\n[keyring]\npath=/dev/null\n"
        f"[slot.rootfs.0]\ndevice={work}/slot\ntype=raw\n"
    )
    time.sleep(1)
    return idle(["rauc", "-c", f"{work}/rauc.conf", "service"], {"DBUS_SYSTEM_BUS_ADDRESS": bus})


def swupdate(work: Path, _stack: ExitStack) -> Memory:
    """SWUpdate, with its web server and nothing else to wait for."""
    (work / "www").mkdir()
    # It does not start without a key.
    subprocess.run(["openssl", "genrsa", "-out", f"{work}/key"], check=True, capture_output=True)
    key = ["openssl", "rsa", "-in", f"{work}/key", "-pubout", "-out", f"{work}/key.pub"]
    subprocess.run(key, check=True, capture_output=True)
    return idle(["swupdate", "-k", f"{work}/key.pub", "-w", f"-r {work}/www -p 18080"], {"TMPDIR": os.fspath(work)})


def agent(_work: Path, _stack: ExitStack) -> Memory:
    """Ours; the first time that it asks comes later."""
    return idle([*PYTHON, "tbupdate", "agent", "--every", "600"])


def applying(work: Path) -> Iterator[tuple[str, Memory]]:
    """What deploys an image of 64 MiB from a web server, and what fetches it: at their highest."""
    image, top = work / "device.btrfs", work / "top"
    top.mkdir()
    subprocess.run(["truncate", "-s", "2G", image], check=True)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mount", "-o", "loop,noatime", image, top], check=True)
    try:
        _fill(top)
        (work / "keys").mkdir()
        create_key(work / "builder")
        shutil.copy(work / "builder.pub", work / "keys")
        (work / "config.toml").write_text(f'keys = "{work}/keys"\n')
        there = ["--top", str(top), "--config", str(work / "config.toml")]
        subprocess.run([*PYTHON, "tbupdate", "init", "--yes", *there], check=True, stdout=subprocess.DEVNULL)
        _fill(work / "tree")
        (work / "tree/big").write_bytes(random.Random(1).randbytes(SIZE))
        (work / "www").mkdir()
        create_image(None, work / "tree", work / "www/image", label=Label(release="2"), key=work / "builder")
        with served(work / "www") as url, running([*PYTHON, "tbupdate", "deploy", f"{url}/image", *there]) as started:
            highest = {"applier": 0, "fetcher": 0}
            watch(started, highest)
        for name, peak in highest.items():
            yield name, Memory(0, 0, peak)
    finally:
        subprocess.run(["umount", top], check=True)


def _fill(tree: Path) -> None:
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/fstab").write_text("LABEL=bench / btrfs defaults 0 0\n")


def watch(started: subprocess.Popen[bytes], highest: dict[str, int]) -> None:
    """Until it has ended: the most that the process, and all that it has started together, held."""
    while started.poll() is None:
        try:
            highest["applier"] = max(highest["applier"], memory(started.pid).peak)
            highest["fetcher"] = max(highest["fetcher"], sum(memory(pid).own for pid in fetchers(started.pid)))
        except (OSError, IndexError):
            # It ended while we looked.
            pass
        time.sleep(0.05)
    if started.returncode:
        raise RuntimeError(f"the deploy ended with {started.returncode}")


def fetchers(pid: int) -> list[int]:
    """The processes below it that are root no more: until then they still are what started them."""
    children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    own = [child for child in children if _user(child)]
    return own + [further for child in children for further in fetchers(child)]


def _user(pid: int) -> int:
    return int(re.findall(r"^Uid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0])


PEERS = {
    "tb-update agent": (agent, sys.executable),
    "rauc service": (rauc, "rauc"),
    "swupdate -w": (swupdate, "swupdate"),
}


def main() -> None:
    """Measure all that is here."""
    with tempfile.TemporaryDirectory(prefix="tb-bench-", dir="/var/tmp") as place, ExitStack() as stack:
        print(f"{'idle':20} resident MiB  own MiB")
        for name, (measure, program) in PEERS.items():
            if shutil.which(program) is None:
                print(f"{name}: not installed", file=sys.stderr)
                continue
            work = Path(place, name.split()[0])
            work.mkdir()
            try:
                found = measure(work, stack)
            except RuntimeError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            print(f"{name:20} {found.resident / 2**20:12.1f} {found.own / 2**20:8.1f}", flush=True)
        work = Path(place, "apply")
        work.mkdir()
        print(f"\n{'applying, highest':20} MiB")
        for name, found in applying(work):
            print(f"{name:20} {found.peak / 2**20:.1f}", flush=True)


if __name__ == "__main__":
    main()
