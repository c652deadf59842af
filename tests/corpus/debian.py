"""Two pairs of real Debian systems on a Btrfs image, built once into a cache directory and mounted when needed.

`python -m tests.corpus.debian` builds them beforehand. TB_CORPUS names the cache directory, if not /var/tmp/tb-corpus.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.corpus import maker

# Made when the image is whole.
COMPLETE = "corpus.txt"
SUBVOLUMES = ("point-v1", "point-v2", "tiny-v2")


@dataclass(frozen=True)
class Corpus:
    """The mounted systems (read-only subvolumes); `top` has room for snapshots of them."""

    top: Path

    @property
    def point_v1(self) -> Path:
        return self.top / "point-v1"

    @property
    def point_v2(self) -> Path:
        return self.top / "point-v2"

    @property
    def tiny_v2(self) -> Path:
        return self.top / "tiny-v2"


def cache() -> Path:
    return Path(os.environ.get("TB_CORPUS", "/var/tmp/tb-corpus"))


@contextlib.contextmanager
def corpus() -> Iterator[Corpus]:
    """Build the corpus if it is not there yet, and mount it if it is not mounted; then unmount it afterwards."""
    cache().mkdir(parents=True, exist_ok=True)
    top = cache() / "mnt"
    with (cache() / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = top.is_mount()
        if not (cache() / COMPLETE).exists():
            print(f"building the corpus in {cache()}: some minutes, once", file=sys.stderr)
            _build(top)
        elif not found:
            top.mkdir(exist_ok=True)
            # What is waited for is not the disk: nobody cuts the power here.
            subprocess.run(["mount", "-o", "loop,noatime,nobarrier", cache() / "corpus.img", top], check=True)
    try:
        if not all((top / name).is_dir() for name in SUBVOLUMES):
            raise RuntimeError(f"{cache()} holds no complete corpus: remove it, it is built again then")
        yield Corpus(top)
    finally:
        if not found:
            subprocess.run(["umount", top], check=True)


def _build(top: Path) -> None:
    if top.is_mount():
        subprocess.run(["umount", top], check=True)
    top.mkdir(exist_ok=True)
    maker.build(cache() / "corpus.img", top)
    (cache() / COMPLETE).touch()


if __name__ == "__main__":
    with corpus() as built:
        print(*sorted(os.fspath(path) for path in built.top.iterdir()), sep="\n")
