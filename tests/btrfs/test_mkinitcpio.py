"""The hook in an initramfs of mkinitcpio.

mkinitcpio is not packaged for Debian. What stands in for it here does what its manual says of each function that an
install hook may call, with real programs and their libraries; the runtime hook runs in what came of that.
"""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest

from tbupdate.boot import generator, initrd
from tests.btrfs.test_boot_hook import PROGRAMS
from tests.console import REPOSITORY

HOOKS = REPOSITORY / "boot-hooks/initcpio"

# add_binary: a program, found by PATH, with its libraries, to /usr/bin. add_file: source, destination, mode.
# add_runscript: the runtime hook of the same name. The base hook has put busybox and its links there before.
DOUBLE = r"""
BUILDROOT=$1 KERNELVERSION=0 HOOKS=($2)
place() { mkdir -p "$BUILDROOT$(dirname "$2")"; cp -fL "$1" "$BUILDROOT$2"; chmod "${3:-644}" "$BUILDROOT$2"; }
add_binary() {
    local program library
    program=$(type -P "$1") || { error "$1 not found"; return 1; }
    place "$program" "/usr/bin/$1" 755
    for library in $(ldd "$program" | grep -o '/[^ ]*'); do place "$library" "$library" 755; done
}
add_module() { echo "module $1"; }
add_file() { place "${1/#\/usr\/share\/tb-update/$SOURCES}" "$2" "$3"; }
add_runscript() { place "$SOURCES/initcpio/hooks/tb-update" /hooks/tb-update 755; }
error() { echo "ERROR: $*"; }
modinfo() { [ "$3" = btrfs ] || [ "$3" = ext4 ]; }
SOURCES=$3
mkdir -p "$BUILDROOT"/usr/bin "$BUILDROOT"/bin
add_binary busybox
for name in sh ash cat mount umount sed; do ln -s busybox "$BUILDROOT/usr/bin/$name"; done
. "$SOURCES/initcpio/install/tb-update"
build
"""


def build(root: Path, hooks: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", DOUBLE, "mkinitcpio", str(root), hooks, str(REPOSITORY / "boot-hooks")]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_hook_and_all_that_it_needs_are_in(tmp_path: Path) -> None:
    done = build(tmp_path, "base udev block filesystems tb-update")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.split() == ["module", "btrfs", "module", "ext4"]
    for program in (*PROGRAMS, "btrfs", "sh", "reboot", "sleep"):
        assert os.access(tmp_path / "usr/bin" / program, os.X_OK), program
    assert (tmp_path / "usr/bin/sed").is_symlink()
    names = "\n".join(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) + "\n"
    packed = subprocess.run(
        ["busybox", "cpio", "-o", "-H", "newc"], input=names.encode(), cwd=tmp_path, capture_output=True, check=True
    )
    assert initrd.has_hook(io.BytesIO(packed.stdout))


def test_it_is_run_with_the_device_of_the_root(tmp_path: Path) -> None:
    assert build(tmp_path, "base udev tb-update").returncode == 0
    (tmp_path / "usr/lib/tb-update/boot").write_text('echo "boot of $1"\n')
    for answer, said in (("echo /dev/sdx2", "boot of /dev/sdx2\n"), ("return 1", "")):
        init = f"resolve_device() {{ [ $1 = UUID=5 ] && {answer}; }}; root=UUID=5; . /hooks/tb-update; run_hook"
        ran = subprocess.run(
            ["chroot", tmp_path, "/usr/bin/ash", "-c", init],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/sbin:/usr/bin"},
        )
        assert (ran.stdout, ran.stderr) == (said, "")


def test_an_initramfs_that_would_not_run_it_is_refused(tmp_path: Path) -> None:
    done = build(tmp_path, "base systemd tb-update")
    assert done.returncode != 0
    assert "not systemd" in done.stdout


def test_a_system_with_mkinitcpio_has_a_tool(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/mkinitcpio").write_text("#!/bin/sh\n")
    assert generator.find_tool(str(tmp_path)) is None
    (tmp_path / "usr/bin/mkinitcpio").chmod(0o755)
    command = generator.find_tool(str(tmp_path))
    assert command is not None
    assert command.startswith("mkinitcpio ")


@pytest.mark.parametrize("shell", ["dash", "busybox ash"])
def test_shells_can_read_the_runtime_hook(shell: str) -> None:
    subprocess.run([*shell.split(), "-n", HOOKS / "hooks/tb-update"], check=True)
