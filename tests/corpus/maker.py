"""Build two releases of a Debian system, and a third that hardly differs, as subvolumes of one Btrfs image.

`point-v1` is Debian 12 as its last point release left it; `point-v2` has what was published since, and is built from
the packages afresh, as build hosts do. `tiny-v2` is `point-v2` after what an administrator does in an afternoon.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SUITE = "bookworm"
ARCHIVE, SECURITY = "http://deb.debian.org/debian/", "http://deb.debian.org/debian-security/"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# What a server or a gateway has: programs, libraries, a kernel with its initrd, scripts, texts, locales.
PACKAGES = (
    "apparmor", "btrfs-progs", "ca-certificates", "chrony", "curl", "dbus", "e2fsprogs", "git", "initramfs-tools",
    "iproute2", "less", "linux-image-cloud-amd64", "locales", "man-db", "network-manager", "nftables", "nginx",
    "openssh-server", "perl", "podman", "procps", "python3", "python3-cryptography", "python3-yaml", "rsyslog", "sudo",
    "systemd", "systemd-sysv", "udev", "vim", "zstd",
)  # fmt: skip
IMAGE_SIZE = 16 << 30
# One moment for all that the build itself makes: the same every time.
BUILT = 1_767_225_600
# What builders take out: caches, logs, the identity of one machine.
LEAVINGS = (
    "var/lib/apt/lists/*", "var/cache/apt/*.bin", "var/cache/ldconfig/aux-cache", "var/cache/debconf/*-old",
    "var/lib/dpkg/*-old", "var/log/*", "etc/ssh/ssh_host_*", "etc/resolv.conf", "etc/hostname",
)  # fmt: skip


def build(image: Path, top: Path) -> None:
    """Make the Btrfs file system `image`, mount it at `top` and build the systems in it."""
    with image.open("wb") as new:
        new.truncate(IMAGE_SIZE)
    run("mkfs.btrfs", "--quiet", image)
    run("mount", "-o", "loop,noatime,nobarrier", image, top)
    packages = dict(suites())
    releases = {"point-v1": [SUITE], "point-v2": list(packages)}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda each: system(top / each[0], [packages[suite] for suite in each[1]]), releases.items()))
    run("btrfs", "--quiet", "subvolume", "snapshot", top / "point-v2", top / "tiny-v2")
    administer(top / "tiny-v2")
    for name in (*releases, "tiny-v2"):
        run("btrfs", "property", "set", top / name, "ro", "true")
    run("sync", "--file-system", top)


def suites() -> Iterator[tuple[str, str]]:
    """The suites with the line of sources.list that says where they are: as on this machine, if it says so."""
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    here = {suite: place for suite, component, place in map(str.split, told.stdout.splitlines()) if component == "main"}
    for suite, usual in ((SUITE, ARCHIVE), (f"{SUITE}-updates", ARCHIVE), (f"{SUITE}-security", SECURITY)):
        yield suite, f"deb [signed-by={KEYRING}] {here.get(suite, usual)} {suite} main"


def system(tree: Path, sources: list[str]) -> None:
    """Build one system into a new subvolume."""
    run("btrfs", "--quiet", "subvolume", "create", tree)
    with tempfile.TemporaryFile("w+") as log:
        ended = subprocess.run(
            [
                "mmdebstrap", "--mode=root", "--variant=important", f"--include={','.join(PACKAGES)}",
                "--skip=check/empty", '--aptopt=APT::Install-Recommends "false"',
                '--aptopt=Acquire::Languages "none"',
                "--customize-hook=echo 'en_US.UTF-8 UTF-8' > \"$1/etc/locale.gen\"; chroot \"$1\" locale-gen",
                "", tree, "-",
            ],
            input="\n".join(sources),
            text=True,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"SOURCE_DATE_EPOCH": str(BUILT), "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        log.seek(0)
        if ended.returncode != 0:
            raise RuntimeError(f"mmdebstrap could not build {tree.name}:\n{log.read()[-3000:]}")
    for pattern in LEAVINGS:
        for path in tree.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (tree / "etc/machine-id").write_text("")
    (tree / "etc/apt/sources.list").write_text("")


def administer(tree: Path) -> None:
    """Settings, a patched program, moved directories, hard links, and metadata of many files."""
    with (tree / "etc/ssh/sshd_config").open("a") as settings:
        settings.write("\n# site\nPermitRootLogin no\nMaxSessions 20\n")
    programs = (path for path in (tree / "usr/bin").iterdir() if path.is_file() and not path.is_symlink())
    patch(max(programs, key=lambda path: (path.stat().st_size, path)))
    (tree / "usr/share/locale").rename(tree / "usr/share/locale-moved")
    (tree / "usr/share/zoneinfo/Europe").rename(tree / "usr/share/zoneinfo/Europa")
    (tree / "opt/links").mkdir()
    for number, path in enumerate(sorted((tree / "usr/lib/python3").rglob("*.py"))[:200]):
        (tree / f"opt/links/{number}.py").hardlink_to(path)
    for path in (tree / "usr/share/doc").rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode ^ 0o020)
    ordinary = sorted(path for path in (tree / "usr").rglob("*") if path.is_file() and not path.is_symlink())
    for number, path in enumerate(ordinary[:15_000]):
        os.utime(path, ns=(BUILT * 10**9, BUILT * 10**9 + number))


def patch(program: Path) -> None:
    """Change a few bytes here and there, as a rebuild with a one-line fix does."""
    dice, size = random.Random(7), program.stat().st_size
    with program.open("r+b") as file:
        for _ in range(12):
            file.seek(dice.randrange(size - 16))
            file.write(dice.randbytes(16))


def run(*command: str | Path) -> None:
    """Run a program that must succeed."""
    subprocess.run(command, check=True)
