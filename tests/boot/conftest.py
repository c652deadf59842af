"""Fixtures of the tests that boot: a disk with v1 for each boot loader, and a machine with a copy of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot import disk
from tests.boot.disk import Golden
from tests.boot.machine import Machine


@pytest.fixture(scope="package")
def grub_disk() -> Iterator[Golden]:
    """A disk that boots by GRUB."""
    folder = Path(tempfile.mkdtemp(prefix=f"tb-test-{os.environ['TB_TEST_SESSION']}-boot-", dir="/var/tmp"))
    try:
        yield disk.make(folder, disk.grub, "grub")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def machine(grub_disk: Golden, tmp_path: Path) -> Iterator[Machine]:
    """A machine that is off, with a disk of its own."""
    image = grub_disk.image.with_name("disk.img")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", grub_disk.image, image], check=True)
    with Machine(tmp_path, image) as made:
        yield made
    image.unlink()
