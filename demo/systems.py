"""Four releases of a small Debian-like system, made of the files of packages that are installed here."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

PACKAGES = (
    "base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils", "findutils", "grep", "gzip",
    "hostname", "libacl1", "libattr1", "libblkid1", "libbz2-1.0", "libc-bin", "libc6", "libcrypt1", "libgcc-s1",
    "libgmp10", "liblzma5", "libmount1", "libpcre2-8-0", "libselinux1", "libsmartcols1", "libtinfo6", "libuuid1",
    "libzstd1", "mount", "ncurses-base", "perl-base", "sed", "tar", "tzdata", "util-linux", "zlib1g",
)  # fmt: skip
MERGED = ("bin", "sbin", "lib", "lib64")
EMPTY = ("dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "var/log", "var/tmp")
# One moment for all that the releases do not take from Debian: the same every time.
RELEASED = 1_700_000_000

INIT = """#!/bin/bash
set -e
. /etc/os-release
set -- /usr/bin/*
echo "$PRETTY_NAME is up, with $# programs. $(cat /etc/motd)"
"""


def build(release: str, place: Path) -> None:
    """Make the tree of a release."""
    if release == "1.0":
        _first(place)
    else:
        before = {"1.1": "1.0", "1.2": "1.1", "1.3": "1.2"}[release]
        subprocess.run(["cp", "-a", "--reflink=auto", os.fspath(place.parent / before), os.fspath(place)], check=True)
    {"1.0": _nothing, "1.1": _maintenance, "1.2": _features, "1.3": _mistake}[release](place)
    _name(place, release)


def _first(place: Path) -> None:
    place.mkdir()
    for name in MERGED:
        (place / "usr" / name).mkdir(parents=True)
        (place / name).symlink_to(f"usr/{name}")
    for name in EMPTY:
        (place / name).mkdir(parents=True)
    (place / "tmp").chmod(0o1777)
    (place / "etc/fstab").write_text("LABEL=system / btrfs defaults 0 0\nLABEL=system /home btrfs subvol=@home 0 0\n")
    (place / "etc/motd").write_text("Welcome.\n")
    for source in _files(PACKAGES):
        _copy(source, place)
    (place / "usr/sbin/init").write_text(INIT)
    (place / "usr/sbin/init").chmod(0o755)


def _files(packages: Iterable[str]) -> list[Path]:
    # What is not installed here (names change from one Debian to the next) is complained of, and left out.
    told = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}${binary:Package}\n", *packages],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    installed = sorted(line.removeprefix("ii ") for line in told.stdout.splitlines() if line.startswith("ii "))
    listed = subprocess.run(["dpkg-query", "-L", *installed], check=True, capture_output=True, text=True).stdout
    found = set()
    for line in listed.splitlines():
        path = Path(line)
        if line.startswith("/") and line != "/." and os.path.lexists(path):
            found.add(Path(os.path.realpath(path.parent)) / path.name)
    return sorted(found)


def _copy(source: Path, place: Path) -> None:
    target = place / source.relative_to("/")
    status = source.lstat()
    if os.path.lexists(target):
        return
    if stat.S_ISDIR(status.st_mode):
        target.mkdir(parents=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    os.lchown(target, status.st_uid, status.st_gid)
    if not target.is_symlink():
        target.chmod(stat.S_IMODE(status.st_mode))


def _nothing(place: Path) -> None:
    """The first release is what it is."""


def _maintenance(place: Path) -> None:
    """A fixed library, a configuration file, a time zone database that moved; the manuals are no longer shipped."""
    _rebuild(next((place / "usr/lib").glob("*/libc.so.6")))
    (place / "etc/motd").write_text("Welcome. Security fixes are in.\n")
    (place / "usr/share/zoneinfo/Europe").rename(place / "usr/share/zoneinfo/Europa")
    shutil.rmtree(place / "usr/share/man")
    (place / "usr/bin/mount").chmod(0o755)


def _features(place: Path) -> None:
    """New programs, among them one with a capability, and a large file with a hole in it."""
    for name in ("report", "backup", "restore"):
        program = place / "usr/bin" / name
        program.write_text(f"#!/bin/sh\necho {name}\n")
        program.chmod(0o755)
    os.setxattr(place / "usr/bin/backup", "user.since", b"1.2")
    with (place / "usr/share/models.bin").open("wb") as file:
        # Nothing in it compresses, as in any real payload of this size.
        file.write(os.urandom(24 << 20))
        file.truncate(64 << 20)
    (place / "etc/motd").write_text("Welcome. Try: report, backup, restore.\n")


def _mistake(place: Path) -> None:
    """The mistake of the day: somebody left out a library that the shell needs."""
    for library in (place / "usr/lib").glob("*/libtinfo.so.6*"):
        library.unlink()


def _rebuild(program: Path) -> None:
    """A binary as it comes out of another run of the compiler: a few notes of it differ."""
    content = program.read_bytes()
    program.write_bytes(content.replace(b"Debian GLIBC", b"Demo21 GLIBC"))


def _name(place: Path, release: str) -> None:
    os_release = f'PRETTY_NAME="Demo {release}"\nNAME="Demo"\nID=demo\nVERSION_ID="{release}"\n'
    target = place / "usr/lib/os-release"
    target.write_text(os_release)
    link = place / "etc/os-release"
    link.unlink(missing_ok=True)
    link.symlink_to("../usr/lib/os-release")
    for path in (place, *place.rglob("*")):
        if path.lstat().st_mtime > RELEASED:
            os.utime(path, (RELEASED, RELEASED), follow_symlinks=False)
