"""Fixtures of the tests that boot: a disk with v1 for each boot loader, and a machine with a copy of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot import disk, uboot
from tests.boot.disk import Golden
from tests.boot.machine import EmulatorFault, Machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the emulator did wrong, and nothing else, is tried once more."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=[EmulatorFault.__name__]))


@pytest.fixture(scope="package")
def grub_disk() -> Iterator[Golden]:
    """A disk that boots by GRUB."""
    with _folder() as folder:
        yield disk.make(folder, disk.grub, "grub")


@pytest.fixture(scope="package")
def extlinux_disk(grub_disk: Golden) -> Iterator[Golden]:
    """A disk that boots by extlinux."""
    with _folder() as folder:
        yield disk.with_extlinux(grub_disk, folder)


@pytest.fixture
def machine(grub_disk: Golden, tmp_path: Path) -> Iterator[Machine]:
    """A machine that is off, with a copy of that disk."""
    with _machine(grub_disk, tmp_path) as made:
        yield made


@pytest.fixture
def extlinux_machine(extlinux_disk: Golden, tmp_path: Path) -> Iterator[Machine]:
    """The same with extlinux."""
    with _machine(extlinux_disk, tmp_path) as made:
        yield made


@pytest.fixture(scope="package")
def efi_disk(grub_disk: Golden) -> Iterator[Golden]:
    """A disk that boots by systemd-boot."""
    with _folder() as folder:
        yield disk.with_systemd_boot(grub_disk, folder)


@pytest.fixture
def efi_machine(efi_disk: Golden, tmp_path: Path) -> Iterator[Machine]:
    """The same with UEFI and systemd-boot."""
    variables = tmp_path / "variables"
    shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", variables)
    flash = "if=pflash,format=raw,unit"
    with _machine(
        efi_disk,
        tmp_path,
        *("-M", "q35"),
        *("-drive", f"{flash}=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"),
        *("-drive", f"{flash}=1,file={variables}"),
    ) as made:
        yield made


@pytest.fixture(scope="package")
def uboot_disk(grub_disk: Golden) -> Iterator[Golden]:
    """A disk that boots by a U-Boot that counts; `init` has yet to be run."""
    with _folder() as folder:
        yield disk.with_uboot(grub_disk, folder)


@pytest.fixture
def uboot_machine(uboot_disk: Golden, tmp_path: Path) -> Iterator[Machine]:
    """A machine with that."""
    rom = uboot.built() / uboot.ROM
    with _machine(uboot_disk, tmp_path, "-bios", os.fspath(rom)) as made:
        yield made


@pytest.fixture(scope="package")
def trixie_disk() -> Iterator[Golden]:
    """A disk with Debian 13 that boots by GRUB."""
    with _folder() as folder:
        yield disk.make(folder, disk.grub, "grub", "trixie")


@pytest.fixture
def trixie_machine(trixie_disk: Golden, tmp_path: Path) -> Iterator[Machine]:
    """A machine with that."""
    with _machine(trixie_disk, tmp_path) as made:
        yield made


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    # Disks are sparse files of gigabytes: not on a /tmp that is memory.
    folder = Path(tempfile.mkdtemp(prefix=f"tb-test-{os.environ['TB_TEST_SESSION']}-boot-", dir="/var/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _machine(golden: Golden, folder: Path, *more: str) -> Iterator[Machine]:
    image = golden.image.with_name("disk.img")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", golden.image, image], check=True)
    with Machine(folder, image, *more) as made:
        yield made
    image.unlink()
