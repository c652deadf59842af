"""The installed programs, as `make install` leaves them: isolated from the environment they are started in."""

from __future__ import annotations

import os
import subprocess
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
