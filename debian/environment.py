"""Which package gets which libraries of the environment in debian/tmp, and what each takes from Debian instead.

`tbdiff` has what both programs need, `tb-server` what only it needs. A library that is required, but is not in the
environment, is one that Debian has in a version that fits: a dependency of the package. What that needs in its turn is
told by its own package. What nothing requires (pip, optional parts of libraries) is left out.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path("debian/tmp").resolve()
SITE = next((ROOT / "usr/lib/tb-update/lib").glob("python3*/site-packages"))
# What pip noted about the build.
NOTES = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


def find(name: str, *path: str) -> Distribution | None:
    """A distribution by its name, in one of these directories."""
    return next(iter(Distribution.discover(name=name, path=list(path))), None)


def required(extra: str) -> tuple[dict[str, Distribution], set[str]]:
    """What is needed, with one of our extras: what is in the environment, and the names of what is not."""
    inside: dict[str, Distribution] = {}
    outside: set[str] = set()
    left = [("tb-update", extra)]
    while left:
        name, extra = left.pop()
        one = find(name, str(SITE))
        if one is None:
            outside.add(name)
        elif name not in inside:
            inside[name] = one
            lines = map(Requirement, one.requires or [])
            left += [(line.name, "") for line in lines if not line.marker or line.marker.evaluate({"extra": extra})]
    return inside, outside


def files(of: Distribution) -> list[Path]:
    """The files of a distribution that belong into a package."""
    named = [Path(str(of.locate_file(path))).resolve() for path in of.files or []]
    return [path for path in named if SITE in path.parents and path.suffix != ".pyc" and path.name not in NOTES]


def package(name: str) -> str:
    """The package of Debian that a distribution is from."""
    installed = find(name, *sys.path)
    if installed is None:
        raise SystemExit(f"{name} is neither in the environment nor installed")
    # Only its directory has a name that tells it from others.
    place = f"*/{installed._path.name}*"  # type: ignore[attr-defined]
    told = subprocess.run(["dpkg-query", "--search", place], capture_output=True, text=True, check=True)
    return told.stdout.partition(":")[0]


def fill(name: str, paths: set[Path], names: set[str]) -> None:
    """Put files into a package, and say what it depends on."""
    for path in sorted(paths):
        place = Path("debian", name, path.relative_to(ROOT))
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    major, minor = sys.version_info[:2]
    needed = [f"python3 (>= {major}.{minor})", f"python3 (<< {major}.{minor + 1}~)", *sorted(map(package, names))]
    with Path("debian", f"{name}.substvars").open("a") as file:
        file.write(f"python:Depends={', '.join(needed)}\n")


def main() -> None:
    """Share it out."""
    common, both = required("")
    whole, server = required("server")
    everything = {path for one in whole.values() for path in files(one)}
    tbdiff = {path for one in common.values() for path in files(one) if SITE / "tbserver" not in path.parents}
    fill("tbdiff", tbdiff, both)
    fill("tb-server", everything - tbdiff, server - both)


main()
