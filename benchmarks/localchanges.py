"""`python -m benchmarks.localchanges`: what it costs to find, ship and read 100 changed files among 100,000."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.metered import run

FILES, CHANGED = 100_000, 100
PYTHON = shlex.quote(sys.executable)
PROGRAM = f"{PYTHON} -m tbupdate"


@contextmanager
def device() -> Iterator[Path]:
    """A device with as many files, of which some were changed since it was set up."""
    with tempfile.TemporaryDirectory(prefix="tb-bench-", dir="/var/tmp") as place:
        image, top = Path(place, "device.btrfs"), Path(place, "top")
        top.mkdir()
        run(f"truncate -s 4G {image}; mkfs.btrfs -q {image}; mount -o loop,noatime {image} {top}")
        try:
            _fill(top)
            yield top
        finally:
            run(f"umount {top}")


def _fill(top: Path) -> None:
    for number in range(FILES):
        path = top / f"etc/{number % 300}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d\n" % number * (number % 500))
    (top / "etc/fstab").write_text("LABEL=bench / btrfs defaults 0 0\n")
    run(f"{PROGRAM} init --yes --top {top}")
    for number in range(0, FILES, FILES // CHANGED):
        (top / f"snapshots/root/etc/{number % 300}/{number}").write_bytes(b"changed\n")


def main() -> None:
    """Measure both ways, one after the other."""
    with device() as top:
        out = shlex.quote(f"{top}/image")
        kept = f"$(ls -d {top}/snapshots/*-?????? | tail -n 1)"
        # `verify` fails where it finds something, which is what it is asked for.
        _measure("changes", f"{PROGRAM} changes --top {top}", again=True)
        _measure("reading all (verify root)", f"{PROGRAM} verify root --top {top} || test $? = 1", again=True)
        _measure("of it, to start (status)", f"{PROGRAM} status --top {top}")
        _measure("snapshot", f"{PROGRAM} snapshot --name zz --top {top}")
        _measure("export", f"{PROGRAM} export --top {top} -o {out}")
        _measure("reading all (tbdiff create)", f"{PYTHON} -m tbdiff create {top}/snapshots/current {kept} -o {out}")


def _measure(name: str, command: str, *, again: bool = False) -> None:
    if again:
        run(command)
    cost = run(command)
    print(f"{name:28} {cost.cpu:6.2f} CPU s  {cost.wall:6.2f} s  {cost.memory >> 20:4} MiB", flush=True)


if __name__ == "__main__":
    main()
