"""Fixtures for all tests: real Btrfs file systems on loop devices, and proof that none of them is left over."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import loops, memory
from tests.corpus.debian import Corpus
from tests.corpus.debian import corpus as mounted_corpus

hypothesis.settings.register_profile("tests", deadline=None, print_blob=True, max_examples=60)
hypothesis.settings.register_profile("thorough", deadline=None, print_blob=True, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("TB_HYPOTHESIS", "tests"))

# The mark of all that a run makes. Workers of pytest-xdist are children of the process that sets it, and add their own.
SESSION = "TB_TEST_SESSION"
FIXTURES_THAT_MOUNT = {"btrfs", "make_btrfs", "btrfs_of_module"}

LONGEST = (
    *(
        "test_boots.py",
        "test_cuts.py",
        "test_trixie.py",
        "test_mishaps.py",
        "test_sysvinit.py",
        "test_volatile_boots.py",
    ),
    *(
        "test_uboot_boots.py",
        "test_debian.py",
        "test_last_words.py",
        "test_unattended_boots.py",
        "test_corpus.py",
        "test_power_cuts.py",
    ),
)

# Programs start as where they are installed: from compiled modules, whose making costs time and memory.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

LEFT_BY_WORKERS = pytest.StashKey[list[str]]()

MakeBtrfs = Callable[..., Path]


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        os.environ[SESSION] += f"-{config.workerinput['workerid']}"
    else:
        os.environ[SESSION] = uuid.uuid4().hex[:12]
    if os.geteuid() == 0:
        loops.leave_mount_namespace()
        if not hasattr(config, "workerinput"):
            memory.lay_out()


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
    # What takes longest begins first, so that no worker is left alone with it at the end.
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Of several workers one takes all tests of a file: what a module's fixtures prepare is prepared once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run when a test left a mount or a loop device behind; clear it all the same."""
    config = session.config
    left = loops.leftovers(os.environ[SESSION])
    loops.sweep(os.environ[SESSION])
    if hasattr(config, "workerinput"):
        config.workeroutput["left"] = left
        return
    for line in left + config.stash.get(LEFT_BY_WORKERS, []):
        print(f"\nLEFT OVER BY TESTS: {line}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    if os.geteuid() == 0 and not hasattr(config, "workerinput"):
        memory.clear_away()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of pytest-xdist found at its end."""
    node.config.stash.setdefault(LEFT_BY_WORKERS, []).extend(getattr(node, "workeroutput", {}).get("left", []))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was counted: how many cuts a test made, and by which seed."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, said in report.user_properties:
                if name == "counted" and report.when == "call":
                    terminalreporter.write_line(f"{report.location[2].partition('[')[0]}: {said}")


@contextlib.contextmanager
def btrfs_maker() -> Iterator[MakeBtrfs]:
    if os.geteuid() != 0:
        pytest.fail("this test mounts a Btrfs image and needs root; `make test-fast` runs what does not")
    ground = memory.directory("")
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


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    place = memory.directory("own-")
    try:
        yield place
    finally:
        shutil.rmtree(place)


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
