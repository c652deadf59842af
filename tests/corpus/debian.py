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

MAKER = Path(__file__).parents[3] / "shared/corpus/make-corpus.sh"
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
    """Build and mount the corpus if need be; the last user unmounts what a test run mounted."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "users.lock").open("w") as users:
        with _alone():
            _provide()
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield Corpus(cache() / "mnt")
        finally:
            with _alone():
                _release(users.fileno())


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One at a time builds, mounts or unmounts."""
    with (cache() / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _provide() -> None:
    top, image = cache() / "mnt", cache() / "corpus.img"
    if not (cache() / "complete").exists() and not _whole(top):
        if image.exists() and not top.is_mount():
            _mount(image, top)
        if not _whole(top):
            print(f"building the corpus in {cache()}: some minutes, once", file=sys.stderr)
            subprocess.run(["bash", os.fspath(MAKER), os.fspath(cache())], check=True, stdout=sys.stderr)
    (cache() / "complete").touch()
    if not top.is_mount():
        _mount(image, top)
    if not _whole(top):
        raise RuntimeError(f"{cache()} holds no complete corpus: remove it, it is built again then")


def _whole(top: Path) -> bool:
    return top.is_mount() and all((top / name).is_dir() for name in SUBVOLUMES)


def _mount(image: Path, top: Path) -> None:
    top.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop,noatime", image, top], check=True)
    (cache() / "mounted-by-tests").touch()


def _release(users: int) -> None:
    fcntl.flock(users, fcntl.LOCK_UN)
    mark = cache() / "mounted-by-tests"
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # another test run uses it
        return
    if mark.exists():
        subprocess.run(["umount", cache() / "mnt"], check=True)
        mark.unlink()


if __name__ == "__main__":
    with corpus() as built:
        print(*sorted(os.fspath(path) for path in built.top.iterdir()), sep="\n")
