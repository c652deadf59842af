"""Fixtures for all tests: real Btrfs file systems on loop devices, and proof that none of them is left over."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import loops
from tests.corpus.debian import Corpus
from tests.corpus.debian import corpus as mounted_corpus

hypothesis.settings.register_profile("tests", deadline=None, print_blob=True, max_examples=60)
hypothesis.settings.register_profile("thorough", deadline=None, print_blob=True, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("TB_HYPOTHESIS", "tests"))

# Workers of pytest-xdist are children of the process that sets this: one run, one mark.
SESSION = "TB_TEST_SESSION"
FIXTURES_THAT_MOUNT = {"btrfs", "make_btrfs", "btrfs_of_module"}

MakeBtrfs = Callable[..., Path]


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        os.environ[SESSION] = uuid.uuid4().hex[:12]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by what a test uses, so that no marker can be forgotten."""
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        if used & FIXTURES_THAT_MOUNT:
            item.add_marker(pytest.mark.btrfs)
        if "corpus" in used:
            item.add_marker(pytest.mark.btrfs)
            item.add_marker(pytest.mark.corpus)
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run when a test left a loop device or a mount behind; clear it all the same."""
    if hasattr(session.config, "workerinput"):
        return
    left = loops.leftovers(os.environ[SESSION])
    for line in left:
        print(f"\nLEFT OVER BY TESTS: {line}")
    if left:
        loops.sweep(os.environ[SESSION])
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@contextlib.contextmanager
def btrfs_maker() -> Iterator[MakeBtrfs]:
    if os.geteuid() != 0:
        pytest.fail("this test mounts a Btrfs image and needs root; `make test-fast` runs what does not")
    ground = Path(tempfile.mkdtemp(prefix=f"tb-test-{os.environ[SESSION]}-"))
    made: list[Path] = []

    def make(size: int = 1 << 30, mkfs: tuple[str, ...] = (), options: str = "") -> Path:
        image, mount = ground / f"{len(made)}.btrfs", ground / f"mnt{len(made)}"
        made.append(image)
        with image.open("wb") as file:
            file.truncate(size)
        mount.mkdir()
        subprocess.run(["mkfs.btrfs", "-q", *mkfs, os.fspath(image)], check=True, stdout=subprocess.DEVNULL)
        wanted = ",".join(filter(None, ("loop", "noatime", options)))
        subprocess.run(["mount", "-o", wanted, os.fspath(image), os.fspath(mount)], check=True)
        return mount

    try:
        yield make
    finally:
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, ground)
            for image in made:
                undo.callback(loops.release, image)


@pytest.fixture
def make_btrfs() -> Iterator[MakeBtrfs]:
    """A maker of fresh, mounted Btrfs file systems: `make_btrfs(size=1 << 30, mkfs=(), options="")` -> mount point."""
    with btrfs_maker() as make:
        yield make


@pytest.fixture
def btrfs(make_btrfs: MakeBtrfs) -> Path:
    """A fresh Btrfs file system of 2 GiB (sparse), mounted; its top level is the path."""
    return make_btrfs(2 << 30)


@pytest.fixture(scope="module")
def btrfs_of_module() -> Iterator[Path]:
    """One Btrfs file system for all tests of a module: for tests that only need a directory of their own on it."""
    with btrfs_maker() as make:
        yield make(4 << 30)


@pytest.fixture(scope="session")
def corpus() -> Iterator[Corpus]:
    """Two pairs of real Debian systems, mounted; built on first use."""
    if os.geteuid() != 0:
        pytest.fail("the corpus is a Btrfs image and needs root; `make test-fast` runs what does not")
    with mounted_corpus() as held:
        yield held
