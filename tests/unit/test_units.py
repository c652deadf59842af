"""The units of systemd: what they may, as systemd itself judges it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system that has nothing but our units, and a program that they start."""
    made = tmp_path_factory.mktemp("units")
    units = made / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for source in (REPOSITORY / "boot-hooks/systemd").glob("tb-update-*"):
        (units / source.name).write_text(
            source.read_text().replace("@PROGRAM@-fetcher", "/bin/p").replace("@PROGRAM@", "/bin/p")
        )
    for name in ("upgrade", "agent"):
        (units / f"tb-update-{name}.service.d").mkdir()
        shutil.copy(REPOSITORY / "boot-hooks/systemd/applier.conf", units / f"tb-update-{name}.service.d")
    (made / "bin").mkdir()
    shutil.copy("/bin/true", made / "bin/p")
    return made


def judged(root: Path, name: str) -> tuple[float, dict[str, bool | None]]:
    """The exposure of a unit (10 is all), and what it is made of."""
    command = ["systemd-analyze", "security", "--offline=true", f"--root={root}", "--no-pager"]
    told = subprocess.run([*command, "--json=short", f"{name}.service"], capture_output=True, text=True, check=True)
    said = subprocess.run([*command, f"{name}.service"], capture_output=True, text=True, check=True)
    level = re.search(r"exposure level for \S+: ([0-9.]+)", said.stdout)
    assert level
    return float(level[1]), {one["json_field"]: one["set"] for one in json.loads(told.stdout)}


def test_who_fetches_may_hardly_anything(root: Path) -> None:
    level, found = judged(root, "tb-update-fetch")
    assert level <= 1.5
    open_ = {name for name, good in found.items() if good is False}
    assert not {name for name in open_ if name.startswith(("CapabilityBoundingSet", "SystemCallFilter", "Protect"))}


@pytest.mark.parametrize("name", ["tb-update-upgrade", "tb-update-agent"])
def test_who_deploys_has_no_network(root: Path, name: str) -> None:
    level, found = judged(root, name)
    assert level <= 3.5
    for wanted in ("PrivateNetwork", "IPAddressDeny", "ProtectKernelModules", "NoNewPrivileges"):
        assert found[wanted], wanted


def test_a_commit_waits_for_who_else_renames_the_entry(root: Path) -> None:
    """Else the name may be gone between the look at it and the rename: a commit that fails is a rollback."""
    text = (root / "usr/lib/systemd/system/tb-update-commit.service").read_text()
    assert "After=systemd-bless-boot.service\n" in text


def test_what_triggers_a_rollback_later_is_sound(root: Path, tmp_path: Path) -> None:
    for name in ("watch.timer", "watch.service", "rollback@.service"):
        text = (root / f"usr/lib/systemd/system/tb-update-{name}").read_text()
        (tmp_path / f"tb-update-{name}").write_text(text.replace("/bin/p", "/bin/true"))
    (tmp_path / "app.service").write_text(
        "[Unit]\nOnFailure=tb-update-rollback@%n.service\n[Service]\nExecStart=/bin/true\n"
    )
    units = ["app.service", "tb-update-watch.timer", "tb-update-rollback@app.service.service"]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(tmp_path / name for name in units)], capture_output=True, text=True
    )
    about_ours = [line for line in done.stderr.splitlines() if "tb-update" in line or "app.service" in line]
    assert about_ours == []
    for name in ("watch.service", "rollback@.service"):
        assert "SuccessExitStatus=3 4\n" in (tmp_path / f"tb-update-{name}").read_text()
