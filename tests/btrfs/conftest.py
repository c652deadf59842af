"""Fixtures of the tests that hurt devices."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.console import Device, set_up
from tests.rig import Rig


@pytest.fixture(scope="module")
def rig(btrfs_of_module: Path) -> Iterator[Rig]:
    """Prepared devices to be hurt."""
    folder = Path(tempfile.mkdtemp(prefix=f"tb-test-{os.environ['TB_TEST_SESSION']}-rig-"))
    yield Rig(folder, btrfs_of_module)
    shutil.rmtree(folder)


@pytest.fixture
def dev(btrfs: Path, tmp_path: Path) -> Device:
    """A device that `init` was run on."""
    return set_up(btrfs, tmp_path)
