"""A real U-Boot, in QEMU, reads what was written for it: the trial by its own way, the way back by altbootcmd."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tbupdate.boot.chooser import Choice, Entry
from tbupdate.boot.uboot import UBoot
from tests import bootpart

pytestmark = pytest.mark.slow

FIRMWARE = "/usr/lib/u-boot/qemu-x86/u-boot.rom"
PROMPT = b"\n=> "
ONE, TWO = "1.0-000001", "2.0-000002"


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A disk with two entries, the second on trial, and what is the altbootcmd then."""
    with make_disk(tmp_path, getattr(request, "param", "u-boot")) as made:
        yield made


@contextmanager
def make_disk(tmp_path: Path, loader: str) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / f"tb-test-{os.environ['TB_TEST_SESSION']}-uboot"
    folder.mkdir()
    with bootpart.partition(folder, loader) as (directory, image):
        if loader == "flash-kernel":
            bootpart.make_environment(directory, *bootpart.ENVIRONMENTS)
        chooser = bootpart.chooser(directory)
        assert isinstance(chooser, UBoot)
        for number, deployment in enumerate((ONE, TWO), 1):
            kernels = directory / f"tb-update/k-{number}"
            (kernels / "dtbs").mkdir(parents=True)
            (kernels / "vmlinuz").write_bytes(b"no kernel" * 100)
            (kernels / "initrd").write_bytes(b"no initrd" * 100)
            options = f"root=UUID=x quiet tb.id={deployment}"
            chooser.add(Entry(deployment, f"Demo {deployment}", kernels.name, True, "dtbs", options))
        chooser.set_up(Choice(ONE))
        chooser.choose(Choice(ONE, TWO, 3, ONE))
        said = chooser.environment.read() or {}
    whole = folder / "disk"
    with whole.open("wb") as file:
        file.truncate(66 << 20)
    parts = ["mklabel", "msdos", "mkpart", "primary", "1MiB", "65MiB", "set", "1", "boot", "on"]
    subprocess.run(["parted", "-s", whole, *parts], check=True, capture_output=True)
    dd = ["dd", f"if={image}", f"of={whole}", "bs=1M", "seek=1", "conv=notrunc,sparse"]
    subprocess.run(dd, check=True, capture_output=True)
    yield whole, f"setenv tb_good {said['tb_good']}; {said['altbootcmd']}"


class Console:
    """The serial line of a machine."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.said = process, b""

    def wait(self, words: bytes, limit: float = 300) -> bytes:
        assert self.process.stdout
        end = time.monotonic() + limit
        while words not in self.said:
            assert time.monotonic() < end, self.said.decode("ascii", "replace")
            if select.select([self.process.stdout], [], [], 1)[0]:
                self.said += os.read(self.process.stdout.fileno(), 1 << 16)
        before, _, self.said = self.said.partition(words)
        return before

    def type(self, text: str) -> None:
        assert self.process.stdin
        # Its serial line has no room for more than a few characters at once.
        for letter in text.encode():
            self.process.stdin.write(bytes([letter]))
            self.process.stdin.flush()
            self.wait(bytes([letter]))
        self.process.stdin.write(b"\r")
        self.process.stdin.flush()


@contextmanager
def uboot(disk: Path) -> Iterator[Console]:
    machine = ["qemu-system-x86_64", "-m", "256", "-nographic", "-net", "none", "-bios", FIRMWARE]
    drive = ["-drive", f"file={disk},if=none,id=d,format=raw,snapshot=on", "-device", "virtio-blk-pci,drive=d"]
    process = subprocess.Popen(
        [*machine, *drive], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        console = Console(process)
        console.wait(b"Hit any key")
        assert process.stdin
        process.stdin.write(b" ")
        process.stdin.flush()
        console.wait(PROMPT)
        yield console
    finally:
        process.kill()
        process.communicate()


def booted(console: Console, command: str) -> str:
    """The entry that comes first: its kernel is none, so all others follow."""
    console.type(f"setenv boot_targets virtio0; {command}")
    said = (console.wait(b"append: ") + b"append: " + console.wait(b"\n")).decode("ascii", "replace")
    found = re.search(r"Retrieving file: /tb-update/(k-\d)/(?:vmlinuz|initrd)\s+append: (.*?)\s*$", said, re.MULTILINE)
    assert found is not None, said
    return f"{found[1]} {found[2]}"


def told(console: Console, command: str) -> str:
    console.type(f"setenv boot_targets virtio0; {command}")
    return console.wait(PROMPT).decode("ascii", "replace")


def test_uboot_boots_the_trial_and_goes_back(disk: tuple[Path, str]) -> None:
    whole, otherwise = disk
    with uboot(whole) as console:
        assert booted(console, "run bootcmd") == f"k-2 root=UUID=x quiet tb.id={TWO} panic=10"
    with uboot(whole) as console:
        assert booted(console, otherwise) == f"k-1 root=UUID=x quiet tb.id={ONE}"


def test_uboot_goes_back_also_where_it_knows_labels_only(disk: tuple[Path, str]) -> None:
    """As one does that looks for extlinux.conf by itself, and is not asked for another name."""
    whole, otherwise = disk
    only_label = otherwise.replace("setenv boot_syslinux_conf tb-update/back; ", "")
    assert only_label != otherwise
    with uboot(whole) as console:
        assert booted(console, only_label) == f"k-1 root=UUID=x quiet tb.id={ONE}"


@pytest.mark.parametrize("disk", ["flash-kernel"], indirect=True)
def test_the_boot_script_boots_the_trial_and_goes_back(disk: tuple[Path, str]) -> None:
    """The part of ours in the script of flash-kernel; the kernels are none, so it says what it would start, in turn."""
    whole, otherwise = disk
    # A board has an address for device trees, this machine has none.
    board = "setenv fdt_addr_r 5000000; "
    for command, ids in (("run bootcmd", [TWO, ONE]), (otherwise, [ONE, ONE])):
        with uboot(whole) as console:
            said = told(console, board + command)
            starts = re.findall(r"^tb-update: .*quiet root=UUID=x quiet tb\.id=(\S+)(.*)", said, re.MULTILINE)
            assert [start[0] for start in starts] == ids, said
            assert [start[1].strip() for start in starts] == ["panic=10" if TWO in ids else ""] * 2
            assert "the kernel of flash-kernel" in said
