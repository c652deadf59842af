"""`python -m tests.boot.hook_time [BOOTS]`: what the hook adds to a boot of an emulated machine, by its kernel's clock.

Each boot is cut where the initramfs hands over. Emulation takes several times what a real machine does.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests import loops
from tests.boot import debian, disk
from tests.boot.disk import Golden
from tests.boot.machine import Machine

MARK = "echo '<5>hook-time: {}' >/dev/kmsg"
HOOK = "usr/share/tb-update/boot"
BOTTOM = "usr/share/initramfs-tools/scripts/init-bottom/zz-time"


def instrument(golden: Golden, image: Path) -> None:
    """Let the initrd say when the hook begins and ends, and when the root is handed over."""
    with disk.partitions(image, image.parent) as (boot, top):
        tree = top / "work/timed"
        debian.run("btrfs", "subvolume", "snapshot", top / "snapshots/current", tree)
        head, _, rest = (tree / HOOK).read_text().partition("\n")
        trap = f'trap "{MARK.format("end")}" EXIT'
        (tree / HOOK).write_text(f"{head}\n{MARK.format('begin')}\n{trap}\n{rest}")
        (tree / BOTTOM).write_text(f'#!/bin/sh\n[ "$1" != prereqs ] || exit 0\n{MARK.format("root")}\n')
        (tree / BOTTOM).chmod(0o755)
        with debian.chroot(tree) as inside:
            inside("mkinitramfs", "-o", "/initrd", golden.kernels[0])
        (kernels,) = (boot / "tb-update").glob("k-*")
        (kernels / "initrd").write_bytes((tree / "initrd").read_bytes())
        debian.run("btrfs", "subvolume", "delete", tree)


def as_it_is(boot: Path, top: Path) -> None:
    """A boot of what was committed."""


def on_trial(boot: Path, top: Path) -> None:
    """A boot that spends a try."""
    (name,) = {path.stem for path in (boot / "tb-update/entries").iterdir()}
    tries = top / "tb-update/tries" / name
    tries.mkdir(parents=True, exist_ok=True)
    for token in ("trial", "1", "2", "3"):
        (tries / token).touch()


def without(boot: Path, top: Path) -> None:
    """No deployment is named, and the default subvolume is the root already."""
    for entry in (boot / "tb-update/entries").iterdir():
        entry.write_text(entry.read_text().replace(" tb.id=", " tb.no="))


def boot_once(golden: Golden, image: Path, prepare: Callable[[Path, Path], None]) -> tuple[float, float]:
    """Seconds of the hook itself, and from its begin until the root is handed over."""
    copy = image.with_name("copy.img")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, copy], check=True)
    with disk.partitions(copy, copy.parent) as (boot, top):
        prepare(boot, top)
    with tempfile.TemporaryDirectory() as folder, Machine(Path(folder), copy) as machine:
        machine.start()
        machine.expect("hook-time: root")
        lines = re.findall(r"\[ *([\d.]+)\] hook-time: (\w+)", machine.text())
    said = {what: float(when) for when, what in lines}
    return said["end"] - said["begin"], said["root"] - said["begin"]


def main() -> None:
    loops.leave_mount_namespace()
    boots = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        golden = disk.make(Path(folder), disk.grub, "grub")
        instrument(golden, golden.image)
        print(f"{boots} boots of each, seconds: least and median")
        print(f"{'':12}{'hook':>14}{'from its begin until the root is there':>42}")
        for prepare in (without, as_it_is, on_trial):
            times = [boot_once(golden, golden.image, prepare) for _ in range(boots)]
            hook, whole = (f"{min(all_):.2f} {statistics.median(all_):.2f}" for all_ in zip(*times, strict=True))
            print(f"{prepare.__name__:12}{hook:>14}{whole:>42}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TB_TEST_SESSION", "benchmark")
    main()
