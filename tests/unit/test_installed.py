"""The installed programs, as `make install` leaves them: isolated from the environment they are started in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.console import REPOSITORY

HOSTILE = "open({!r}, 'w').close()\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["short", "long-" + "x" * 120])
def test_installed_programs_take_no_modules_from_elsewhere(tmp_path: Path, name: str) -> None:
    """With the long name pip starts the program by a shell, as a kernel takes no line that long."""
    prefix, elsewhere = tmp_path / name, tmp_path / "elsewhere"
    places = [f"PREFIX={prefix}", f"SHARE={prefix}/share", f"UNITS={prefix}/units", f"INITCPIO={prefix}/initcpio"]
    subprocess.run(["make", "--silent", "install", *places], cwd=REPOSITORY, check=True, capture_output=True)
    for place in (
        "share/initramfs-tools/hooks",
        "initcpio/install",
        "initcpio/hooks",
        "share/flash-kernel/preboot.d",
    ):
        assert (prefix / place / "tb-update").is_file()
    for place in ("units/tb-update-upgrade.service", "share/tb-update/cron"):
        assert f"{prefix}/bin/tb-update upgrade" in (prefix / place).read_text()
    assert f"ExecStart={prefix}/bin/tb-update-fetcher\n" in (prefix / "units/tb-update-fetch.service").read_text()
    for place in ("man/man8/tb-update.8", "man/man5/tb-update.toml.5", "man/man5/tbdiff.5", "man/man1/tbdiff.1"):
        assert (prefix / "share" / place).is_file()
    for place in ("bash-completion/completions/tbdiff", "zsh/vendor-completions/_tbdiff"):
        assert "_TBDIFF_COMPLETE" in (prefix / "share" / place).read_text()
    for place in ("sockets.target.wants/tb-update-fetch.socket", "tb-update-agent.service.d/applier.conf"):
        assert (prefix / "units" / place).is_file()
    elsewhere.mkdir()
    for module in ("sitecustomize.py", "click.py"):
        (elsewhere / module).write_text(HOSTILE.format(str(tmp_path / "ran")))
    for program, arguments in (
        ("tb-update", ["--version"]),
        ("tbdiff", ["--version"]),
        ("tbdiff-deploy", ["--help"]),
        ("tb-update-fetcher", []),
    ):
        done = subprocess.run(
            [prefix / "bin" / program, *arguments],
            cwd=elsewhere,
            env=os.environ | {"PYTHONPATH": str(elsewhere)},
            capture_output=True,
        )
        assert b"Traceback" not in done.stderr
        assert program in ("tbdiff-deploy", "tb-update-fetcher") or done.returncode == 0
    assert not (tmp_path / "ran").exists()
    subprocess.run(["make", "--silent", "uninstall", *places], cwd=REPOSITORY, check=True, capture_output=True)
    assert [path for path in prefix.rglob("*") if not path.is_dir()] == []
    assert not Path("/etc/init.d/tb-update").exists()


def test_bindings_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    """As they are when they were compiled for a newer libbtrfsutil; what does not need them works."""
    (tmp_path / "btrfsutil.py").write_text("raise ImportError('undefined symbol: btrfs_util_new')\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def ends(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", *command], env=environment, capture_output=True, text=True)

    assert ends("tbupdate", "--version").returncode == 0
    assert ends("tbdiff", "digest", str(tmp_path)).returncode == 0
    failed = ends("tbupdate", "--top", str(tmp_path), "--json", "status")
    assert failed.returncode == 1
    error = json.loads(failed.stdout)["error"]
    assert "undefined symbol: btrfs_util_new" in error["message"]
    assert "python3-btrfsutil" in error["remedy"]
    assert "Traceback" not in failed.stderr


@pytest.mark.slow
def test_sdist_and_wheel_hold_all_that_is_needed(tmp_path: Path) -> None:
    """The wheel is built of the sdist, which brings what `make install` and `make deb` take as well."""
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "__pycache__", ".*_cache", "*.egg-info")
    shutil.copytree(REPOSITORY, tmp_path / "source", ignore=ignored, symlinks=True)

    def make(what: str, where: Path) -> Path:
        code = f"from setuptools import build_meta; print(build_meta.build_{what}({str(tmp_path)!r}))"
        done = subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True, check=True)
        return tmp_path / done.stdout.splitlines()[-1]

    with tarfile.open(make("sdist", tmp_path / "source")) as sdist:
        sdist.extractall(tmp_path)
    (unpacked,) = tmp_path.glob("tb*update-*/")
    for name in ("Makefile", "boot-hooks/boot", "debian/rules", "docs/commands.md", "manual/pages.py", "LICENSE"):
        assert (unpacked / name).is_file(), name
    assert os.access(unpacked / "boot-hooks/initramfs-tools/hooks/tb-update", os.X_OK)
    with zipfile.ZipFile(make("wheel", unpacked)) as wheel:
        held = set(wheel.namelist())
        metadata = wheel.read(next(name for name in held if name.endswith("/METADATA"))).decode()
    ours = [path for package in ("tbdiff", "tbupdate", "tbserver") for path in (REPOSITORY / package).rglob("*")]
    files = {str(path.relative_to(REPOSITORY)) for path in ours if path.is_file() and path.suffix != ".pyc"}
    assert files == {name for name in held if ".dist-info/" not in name}
    _works_alone(tmp_path, next(tmp_path.glob("*.whl")))
    for line in ("License: Apache-2.0", "Requires-Python: >=3.11", "Description-Content-Type: text/markdown"):
        assert line in metadata


def _works_alone(place: Path, wheel: Path) -> None:
    """With what pip brings and nothing else, images are made; what only a device has is named where it is missing."""
    subprocess.run([sys.executable, "-m", "venv", place / "clean"], check=True, capture_output=True)
    programs = place / "clean/bin"
    subprocess.run([programs / "pip", "install", "--quiet", wheel], check=True, capture_output=True)
    for name in ("tree", "copy"):
        (place / name).mkdir()
    image = place / "image.tbdiff"
    for command in (["create", "--full", place / "tree", "-o", image], ["apply", image, place / "copy"]):
        subprocess.run([programs / "tbdiff", *command], check=True, capture_output=True)
    ended = subprocess.run([programs / "tb-update", "--top", place, "status"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "python3-btrfsutil" in ended.stderr
    assert "Traceback" not in ended.stderr
