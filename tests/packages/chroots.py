"""Debian 12 and 13 to build packages in and to install them in: layers over the trees of tests.boot.debian."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.boot.debian import REPOSITORY, base, cache, online, run
from tests.conftest import SESSION

BUILD = ("debhelper", "dpkg-dev", "lintian", "make")
NOT_SOURCES = (".git", ".venv", "build", "dist", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info")


@contextlib.contextmanager
def layered(*lower: Path, upper: Path | None = None) -> Iterator[Path]:
    """A tree over others, the first of them nearest; what is written goes to `upper`, or is gone at the end."""
    place = Path(tempfile.mkdtemp(prefix=f"tb-test-{os.environ[SESSION]}-", dir=cache()))
    with contextlib.ExitStack() as held:
        held.callback(shutil.rmtree, place)
        for name in ("tree", "work", "upper"):
            (place / name).mkdir()
        layers = ":".join(map(os.fspath, lower))
        options = f"lowerdir={layers},upperdir={upper or place / 'upper'},workdir={place / 'work'}"
        run("mount", "-t", "overlay", "overlay", "-o", options, place / "tree")
        held.callback(run, "umount", place / "tree")
        yield place / "tree"


def builder(suite: str) -> Path:
    """What a Debian has more that builds our packages: a layer, made once."""
    wanted = (REPOSITORY / "debian/control").read_text().partition("Build-Depends:")[2].partition("\n\n")[0]
    key = hashlib.sha256(f"2 {BUILD} {wanted}".encode()).hexdigest()[:12]
    lower = base(suite)
    made = cache() / f"{lower.name}-builder-{key}"
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            partial = made.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            with layered(lower, upper=partial) as tree, online(tree, pypi=False) as inside:
                inside("apt-get", "update")
                needs = " ".join(wanted.split()).rstrip(",")
                inside("apt-get", "satisfy", "--yes", "--no-install-recommends", f"{needs}, {', '.join(BUILD)}")
                inside("apt-get", "clean")
            partial.rename(made)
    return made


def build(suite: str, out: Path) -> str:
    """Build the packages by `make deb`, into `out`; what the lintian of that release says of them."""
    with layered(builder(suite), base(suite)) as tree:
        shutil.copytree(REPOSITORY, tree / "src", ignore=shutil.ignore_patterns(*NOT_SOURCES), symlinks=True)
        fetched = cache() / "pip"
        fetched.mkdir(exist_ok=True)
        with online(tree, (fetched, "root/.cache/pip")) as inside:
            # Nothing is compiled: the compiler that every build of Debian may rely on stays away.
            quick = "DPKG_DEB_COMPRESSOR_LEVEL=1"
            inside("env", quick, "make", "--silent", "-C", "/src", "deb", "BUILD_OPTIONS=--no-check-builddeps")
            inside(
                "sh", "-c", "cd /src/dist && lintian --allow-root --tag-display-limit 0 *.deb >lintian.txt 2>&1 || true"
            )
        said = (tree / "src/dist/lintian.txt").read_text()
        for package in (tree / "src/dist").glob("*.deb"):
            shutil.copy(package, out)
    return said


def repacked(package: Path, version: str, out: Path) -> None:
    """The same package as another version."""
    with tempfile.TemporaryDirectory() as place:
        run("dpkg-deb", "--raw-extract", package, place)
        control = Path(place, "DEBIAN/control")
        lines = control.read_text()
        now = next(line.split()[1] for line in lines.splitlines() if line.startswith("Version:"))
        control.write_text(lines.replace(now, version))
        run("dpkg-deb", "--root-owner-group", "-Znone", "--build", place, out / package.name.replace(now, version))
