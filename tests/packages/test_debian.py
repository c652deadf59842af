"""The packages of Debian 12 and 13, in their whole life: built, judged, installed, upgraded, removed, purged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tbupdate.boot import initrd
from tests.boot.debian import base, online
from tests.packages.chroots import build, layered, repacked
from tests.pages import blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

Inside = Callable[..., subprocess.CompletedProcess[str]]
STATIC = ("carry.service", "commit.service", "fetch.socket", "health.service")
SWITCHED_ON_BY_PEOPLE = ("agent.service", "api.socket", "upgrade.timer", "watch.timer")


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def built(suite: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The packages, and what lintian says of them."""
    out = tmp_path_factory.mktemp(suite)
    return out, build(suite, out)


@pytest.fixture
def system(suite: str) -> Iterator[tuple[Path, Inside]]:
    """A Debian with a kernel and its initrd, without any of our packages; and a way to run programs in it."""
    with layered(base(suite)) as tree, online(tree, pypi=False):
        version = min(os.listdir(tree / "lib/modules"))
        settings = tree / "etc/initramfs-tools"
        (settings / "modules").write_text("virtio_blk\n")
        (settings / "conf.d/small").write_text("MODULES=list\nCOMPRESS=lz4\n")

        def inside(*command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
            path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(["chroot", tree, *command], env=path, capture_output=True, text=True)
            assert done.returncode == code, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
            assert "Traceback" not in done.stderr
            return done

        inside("apt-get", "update")
        inside("update-initramfs", "-c", "-k", version)
        yield tree, inside


def has_hook(tree: Path) -> bool:
    made = [path for path in (tree / "boot").iterdir() if path.name.startswith("initrd.img-")]
    assert len(made) == 1
    with made[0].open("rb") as file:
        return initrd.has_hook(file)


def ours(tree: Path) -> list[str]:
    """What is there of our packages, below /etc, /usr and /lib."""
    found = subprocess.run(
        [
            "find",
            "etc",
            "usr",
            "lib/systemd",
            "-name",
            "*tb-update*",
            "-o",
            "-name",
            "*tbdiff*",
            "-o",
            "-name",
            "*tb-server*",
        ],
        cwd=tree,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in found.stdout.splitlines() if not name.startswith("etc/ssl")]


def test_lintian_finds_nothing(built: tuple[Path, str]) -> None:
    assert built[1] == ""


def test_the_life_of_the_packages(built: tuple[Path, str], system: tuple[Path, Inside], tmp_path: Path) -> None:
    packages, (tree, inside) = sorted(built[0].glob("*.deb")), system
    assert [package.name.split("_")[0] for package in packages] == ["tb-server", "tb-update", "tbdiff"]
    assert not has_hook(tree)
    older, newer = tree / "older", tree / "newer"
    for folder in (older, newer):
        folder.mkdir()
    for package in packages:
        repacked(package, "0.9", older)
        shutil.copy(package, newer)

    inside("sh", "-c", "apt-get install --yes --no-install-recommends /older/*.deb")
    assert has_hook(tree)
    _work(tree, inside)
    _follow_the_tutorial(tree)
    for unit in STATIC:
        assert any(tree.glob(f"usr/lib/systemd/system/*.*/tb-update-{unit}")), unit
    for unit in (*(f"tb-update-{unit}" for unit in SWITCHED_ON_BY_PEOPLE), "tb-server.service"):
        assert inside("systemctl", "is-enabled", unit, code=1).stdout == "disabled\n"
    inside("systemctl", "enable", "tb-update-upgrade.timer")

    own = {
        "etc/init.d/tb-update": "#!/bin/sh\n",
        "etc/default/tb-server": "",
        "etc/tb-update/config.toml": "keep = 3\n",
    }
    for name, text in own.items():
        (tree / name).write_text(text)
    inside("sh", "-c", "apt-get install --yes --no-install-recommends /newer/*.deb")
    assert inside("dpkg-query", "-W", "-f", "${Version}", "tb-update").stdout.startswith("1")
    assert has_hook(tree)
    inside("systemctl", "is-enabled", "tb-update-upgrade.timer")

    inside("apt-get", "remove", "--yes", "tb-update", "tb-server", "tbdiff")
    assert not has_hook(tree)
    assert {name: (tree / name).read_text() for name in own} == own
    assert not (tree / "usr/lib/tb-update").exists()

    inside("apt-get", "purge", "--yes", "tb-update", "tb-server", "tbdiff")
    assert ours(tree) == []


# mmdebstrap itself is run where the tutorial is tested alone; here its system is made of packages that are there.
MMDEBSTRAP = """#!/bin/sh
set -e
for tree; do :; done
for name in bin lib lib64 sbin; do mkdir -p "$tree/usr/$name"; ln -s "usr/$name" "$tree/$name"; done
mkdir -p "$tree/dev" "$tree/usr/local/bin"
for package in base-files coreutils dash libacl1 libattr1 libc6 libgmp10 libpcre2-8-0 libselinux1; do
    dpkg-query -L "$package" || dpkg-query -L "${package}t64"
done | tar --create --no-recursion --files-from=- 2>/dev/null | tar --extract --directory "$tree"
"""


def _follow_the_tutorial(tree: Path) -> None:
    """Whoever has installed the packages goes on: a release is deployed, committed, and rolled back."""
    own = tree / "usr/local/bin/mmdebstrap"
    own.write_text(MMDEBSTRAP)
    own.chmod(0o755)
    script = "\n".join(["set -eu", "shopt -s expand_aliases", "cd /var/tmp", *blocks("docs/tutorial.md")])
    done = subprocess.run(
        ["unshare", "--mount", "chroot", tree, "bash", "-c", script],
        env={"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for said in ("hello from 1.1", "rejected, with exit code 3", "rollback"):
        assert said in done.stdout
    own.unlink()


def _work(tree: Path, inside: Inside) -> None:
    """The programs do what they are for, with what the packages and Debian brought."""
    for program in ("tbdiff", "tb-update", "tb-server"):
        assert inside(program, "--version").stdout.startswith(program)
    found = json.loads(inside("tb-update", "--json", "doctor", code=3).stdout)
    assert "Btrfs" in found["error"]["message"]
    inside("tbdiff", "create", "--full", "/etc/apt", "-o", "/full.tbdiff", "--effort", "fast")
    (tree / "there").mkdir()
    inside("tbdiff", "apply", "/full.tbdiff", "/there")
    inside("tbdiff", "create", "/etc/apt", "/etc/dpkg", "-o", "/delta.tbdiff")
    inside("tbdiff", "convert", "/full.tbdiff", "-o", "/full.tar.gz")
    inside("tbdiff", "show", "/full.tar.gz")
    inside("tb-server", "migrate", "--data", "/var/lib/tb-server")
    inside("/usr/lib/tb-update/bin/python", "-I", "-c", "import psycopg, tbserver.app, tbserver.serving")
    assert (
        "deploy\n"
        in inside(
            "env", "COMP_WORDS=tb-update de", "COMP_CWORD=1", "_TB_UPDATE_COMPLETE=bash_complete", "tb-update"
        ).stdout
    )
    assert not subprocess.run(
        ["find", "usr/lib/tb-update", "-newer", "full.tbdiff"], cwd=tree, capture_output=True
    ).stdout
