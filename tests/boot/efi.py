"""An EFI partition as the firmware and systemd-boot read it, in every state that a power cut can leave it in.

The guest writes it, with the real FAT of its kernel; here mtools read it, so this computer needs none.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tbupdate.boot import kernelsets
from tests.boot.disk import BOOT_AT, BOOT_SIZE, MIB
from tests.boot.machine import Recording
from tests.crash import recording
from tests.crash.recording import Act, Cut

END = BOOT_AT + BOOT_SIZE


@dataclass(frozen=True)
class Reading:
    """What boots, and what boots when its tries are used up: whole pairs of kernel and initrd, by their deployment."""

    first: str
    otherwise: str


def states(recorded: Recording, first: int, last: int, every: bool) -> Iterator[tuple[Cut, Path]]:
    """The partition (in an image that begins as the disk does) after cuts between two moments: all, or some of them."""
    folder = recorded.log.parent
    base, state = folder / "base.esp", folder / "state.esp"
    command = (
        "dd",
        f"if={recorded.before}",
        f"of={base}",
        "bs=1M",
        f"count={END // MIB}",
        "conv=sparse",
        "status=none",
    )
    subprocess.run(command, check=True)
    acts = recording.read_log(recorded.log)
    ours = [n for n in range(first, last) if acts[n].length and acts[n].at < END]
    points = sorted({n + 1 for n in ours} | {first, last})
    chosen = points if every else points[:: -(-len(points) // 8)] + points[-20:]
    elsewhere = Act(0, 0, 0, 0)
    acts = [act if act.at < END or not act.length else elsewhere_of(act, elsewhere) for act in acts]
    for cut in recording.cuts(acts, sorted(set(chosen))):
        recording.build(base, recorded.log, acts, cut, state)
        yield cut, state


def elsewhere_of(act: Act, nothing: Act) -> Act:
    """An act on another partition matters here only if it flushed the disk."""
    return Act(nothing.at, nothing.length, act.flags & recording.FLUSH, nothing.data)


def read(image: Path) -> Reading:
    """What systemd-boot makes of it."""
    names = mtools("mdir", "-b", image, "::/loader/entries").decode().split()
    ours = [name.rpartition("/")[2] for name in names if re.search(r"/tb-update-\d+-.*\.conf$", name)]
    # One that names no kernel it passes over: in the middle of Linux's rename, the new name is that of an empty file.
    entries = [name for name in ours if b"linux " in mtools("mtype", image, f"::/loader/entries/{name}")]
    # As it sorts: what has no tries left comes last, then the highest number first.
    order = sorted(entries, key=lambda name: ("+0" not in name, name), reverse=True)
    assert order, f"no entry is left: {names}"
    plain = [name for name in order if "+" not in name]
    assert plain, f"nothing boots when the tries are used up: {names}"
    return Reading(deployment_of(image, order[0]), deployment_of(image, plain[0]))


def deployment_of(image: Path, entry: str) -> str:
    """The deployment of an entry whose kernel set is whole."""
    text = mtools("mtype", image, f"::/loader/entries/{entry}").decode()
    named = re.search(r"^options .*tb\.id=(\S+)", text, re.MULTILINE)
    kernels = re.search(r"^linux /tb-update/(k-[0-9a-f]+)/vmlinuz$", text, re.MULTILINE)
    assert named, f"{entry} says nothing of a deployment: {text!r}"
    assert kernels, f"{entry} says nothing of a kernel: {text!r}"
    folder = Path(tempfile.mkdtemp(dir=image.parent))
    try:
        mtools("mcopy", "-n", image, f"::/tb-update/{kernels[1]}/vmlinuz", f"::/tb-update/{kernels[1]}/initrd", folder)
        found, _ = kernelsets.digest({name: (os.fspath(folder), name) for name in os.listdir(folder)})
    finally:
        shutil.rmtree(folder)
    assert found == kernels[1], f"the kernel set of {entry} is not whole"
    return named[1]


def mtools(program: str, *arguments: str | Path) -> bytes:
    """Run one of them on the partition that the first argument that is a path holds."""
    words = [*arguments]
    at = next(n for n, word in enumerate(words) if isinstance(word, Path))
    words[at : at + 1] = ["-i", f"{words[at]}@@{BOOT_AT}"]
    done = subprocess.run([program, *words], capture_output=True)
    assert done.returncode == 0, f"{program} {arguments}: {done.stderr.decode()}"
    return done.stdout
