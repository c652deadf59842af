"""A device as a person at its console has it: tb-update is run on it, with real images and keys."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbdiff.create import Label, create_image
from tbdiff.signature import create_key
from tests import device

REPOSITORY = Path(__file__).parents[1]


@dataclass
class Device:
    """A device that is not running: its mounted top level, a builder's key, and a way to run tb-update on it."""

    top: Path
    work: Path

    def __call__(self, *arguments: str, code: int = 0, **how: Any) -> str:
        done = self.run(*arguments, **how)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def run(self, *arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, cwd=REPOSITORY, **how)

    def command(self, *arguments: str) -> list[str]:
        config = ("--config", str(self.work / "config.toml"))
        # Before the command's name: behind that of `run` they would be the command's that it runs.
        return [sys.executable, "-m", "tbupdate", "--top", str(self.top), *config, *arguments]

    def json(self, *arguments: str, code: int = 0, **how: Any) -> dict[str, Any]:
        shown = json.loads(self("--json", *arguments, code=code, **how))
        assert shown["format_version"] == 1
        return dict(shown)

    def status(self) -> dict[str, Any]:
        return self.json("status")

    def tree(self, name: str, **files: str) -> Path:
        tree = self.work / name
        device.make_root(tree, name)
        for file, content in files.items():
            (tree / "etc" / file).write_text(content)
        return tree

    def image(self, base: Path | None, target: Path, release: str, signed: bool = True, **more: Any) -> str:
        out = self.work / f"{release}.tbdiff"
        label = Label(name="demo", release=release, **more)
        create_image(base, target, out, label=label, key=self.work / "builder" if signed else None)
        return str(out)


def set_up(top: Path, work: Path) -> Device:
    """The layout on the file system at `top`, and a key that is trusted."""
    (work / "keys").mkdir()
    create_key(work / "builder")
    (work / "keys/builder.pub").write_bytes((work / "builder.pub").read_bytes())
    (work / "config.toml").write_text(f'keys = "{work}/keys"\ndevice_type = "test"\n')
    device.make_root(top)
    made = Device(top, work)
    made("init", "--yes")
    return made
