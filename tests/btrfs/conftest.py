"""Fixtures of the tests that hurt devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import in_memory
from tests.console import Device, set_up
from tests.rig import Rig


@pytest.fixture(scope="module")
def rig(btrfs_of_module: Path) -> Iterator[Rig]:
    """Prepared devices to be hurt."""
    with in_memory() as folder:
        yield Rig(folder, btrfs_of_module)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Here file systems are made in it."""
    with in_memory() as place:
        yield place


@pytest.fixture
def dev(btrfs: Path, tmp_path: Path) -> Device:
    """A device that `init` was run on."""
    return set_up(btrfs, tmp_path)
