"""The tutorial and the README, as somebody would type them: all their commands, one after the other, in one shell."""

from __future__ import annotations

import re
import shlex

import pytest

from tests import device
from tests.pages import blocks, perform, workplace

pytestmark = pytest.mark.slow


def test_every_command_of_the_tutorial_does_what_it_says() -> None:
    script = blocks("docs/tutorial.md")
    assert len(script) > 8
    with workplace("tutorial") as place:
        done = perform(script, place)
        assert list(place.iterdir()) == []
    for said in ("hello from 1.1", "THE SWITCH", "rejected, with exit code 3", "exit code 4", "rollback"):
        assert said in done.stdout, done.stdout
    assert "nothing was changed" in done.stderr
    sizes = {
        name: int(size) for size, name in re.findall(r"^-\S+ \d+ \S+ \S+ +(\d+) .* (\S+)$", done.stdout, re.MULTILINE)
    }
    assert sizes["1.0.tbdiff"] > 10 << 20
    assert sizes["1.1.tbdiff"] < 3000


# What a machine that nobody may reboot, and whose packages stay as they are, cannot do; and who does it instead.
NOT_TYPED = {
    "git clone <this repository> && cd tb-update": "the tests run in a clone",
    "make demo": "tests/btrfs/test_demo.py",
    "apt install make python3-venv python3-btrfsutil btrfs-progs libarchive13": "tests/packages, in a bare Debian",
    "make install": "tests/packages, in a bare Debian",
    "reboot": "tests/boot, in QEMU",
    "systemctl enable --now tb-update-upgrade.timer": "tests/boot/test_unattended_boots.py",
    "tb-update run -- apt-get install nginx": "tests/btrfs/test_run_debian.py",
    "tb-update changes save": "needs a boot loader: tests/btrfs/test_volatile.py",
}
# What stands for what is elsewhere. An image of another system has no boot to wait for.
INSTEAD = {"https://example.org/": "./", " --reboot": "", "/dev/sdx2": "second.img"}


def typed(block: str) -> str:
    """What of a block is run."""
    lines = [line.partition("  #")[0].rstrip() for line in block.splitlines()]
    left = "\n".join("" if line in NOT_TYPED else line for line in lines)
    for named, stands in INSTEAD.items():
        left = left.replace(named, stands)
    return left


def test_every_command_of_the_readme_does_what_it_says() -> None:
    script = blocks("README.md")
    lines = {line.partition("  #")[0].rstrip() for block in script for line in block.splitlines()}
    assert set(NOT_TYPED) <= lines, "a line that is left out is there no more"
    assert all(named in "\n".join(script) for named in INSTEAD)
    with workplace("readme") as place:
        build = place / "build"
        for release in ("1.0", "1.1", "1.2"):
            device.make_root(build / release, release)
            for name in ("home", "root", "var/log", "usr/bin"):
                (build / release / name).mkdir(parents=True)
            (build / release / "usr/bin/program").write_text(release * 5000)
        done = perform([_prepare(str(place)), *map(typed, script)], place)
    for said in ("THE SWITCH", "is staged", "release 1.2", "1 local change", "as-I-like-it"):
        assert said in done.stdout, f"{said}: {done.stdout}"


def _prepare(place: str) -> str:
    """A device whose system is installed in @rootfs, and for which `tb-update` works without more ado."""
    here = shlex.quote(place)
    return f"""
    mount -t tmpfs tmpfs /media
    mkdir /media/upper /media/work
    mount -t overlay overlay -o lowerdir=/etc,upperdir=/media/upper,workdir=/media/work /etc
    mkdir -p /etc/tb-update
    printf '[[source]]\\nurl = "%s/www/demo"\\n' {here} >/etc/tb-update/config.toml
    tar -C build/1.0 -c . | zstd -q >system-1.0.tar.zst
    for name in first second; do truncate -s 1G $name.img; mkfs.btrfs -q $name.img; done
    mkdir top && mount first.img top
    btrfs -q subvolume create top/@rootfs
    cp -a build/1.1/. top/@rootfs
    for name in etc/system home/mine var/log/log; do echo installed >top/@rootfs/$name; done
    tb-update() {{
      case "$1" in --top) command tb-update --yes "$@" ;; *) command tb-update --top {here}/top --yes "$@" ;; esac
    }}
    """
