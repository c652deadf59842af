"""A device whose root is made anew at each boot: the hook itself boots it, and it looks like one that runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tbupdate import saving
from tbupdate.steps import Plan
from tbupdate.system import System
from tbupdate.volatility import Made
from tests import bootable, bootpart, device
from tests.bootable import Device
from tests.btrfs.test_boot_hook import KERNEL, Booting, initramfs
from tests.conftest import MakeBtrfs
from tests.device import NOW, TinyImage

VOLATILE = "[local]\nvolatile = true\n"
CONFIG = "etc/tb-update/config.toml"


def wanting(tree: Path, text: str = VOLATILE) -> None:
    """Write the configuration of a system."""
    (tree / CONFIG).parent.mkdir(parents=True, exist_ok=True)
    (tree / CONFIG).write_text(text)


def image(content: str, release: str, *, volatile: bool = False) -> TinyImage:
    """The image of a system for the kernel that runs here."""

    def dress(tree: Path) -> None:
        bootable.bootable(KERNEL)(tree)
        (tree / "etc/motd").write_text("of the image\n")
        if volatile:
            wanting(tree)

    return TinyImage(content, release, failure=dress)


@dataclass
class Machine(Device):
    """`running` is the subvolume that the last boot made /; None before the first."""

    hook: Booting | None = None
    running: int | None = None
    said: list[str] = field(default_factory=list)

    def survey(self) -> System:
        system = super().survey()
        if self.running is None:
            return system
        damaged = {line.split(" saved as ")[1].split()[0] for line in self.said if "is damaged" in line}
        return replace(system, booted_id=self.running, made=Made("something", frozenset(damaged)))

    def start(self, *, up: bool = True) -> str:
        """Boot what is chosen; with `up` the system comes up and its first command runs. What the hook said."""
        assert self.hook is not None
        self.running = None
        chosen = super().survey().default
        assert chosen is not None
        said = self.hook.run(chosen.id)
        self.said = said.splitlines()
        self.running = super().survey().default_id
        if up:
            self.repair()
        return said

    @property
    def root(self) -> Path:
        """What runs."""
        held = self.survey().by_number(self.survey().default_id if self.running is None else self.running)
        assert held is not None
        return self.top / "snapshots" / held.name

    def plan_save(self, *, wanted: bool = True) -> Plan:
        return saving.plan_save(self.survey(), NOW, wanted=wanted)

    def save(self, *, wanted: bool = True) -> None:
        self.run(self.plan_save(wanted=wanted))

    def set(self, **files: str) -> None:
        """Change files in /etc of what runs."""
        for name, content in files.items():
            (self.root / "etc" / name).write_text(content)

    def has(self, name: str) -> str | None:
        """A file in /etc of what runs."""
        path = self.root / "etc" / name
        return path.read_text() if path.exists() else None

    def roots(self) -> list[str]:
        return [name for name in device.names(self.top) if name == "root" or name.endswith(".root")]


@contextmanager
def machine(make_btrfs: MakeBtrfs, tmp_path: Path, shell: str = "dash", size: int = 512 << 20) -> Iterator[Machine]:
    """One that was installed and booted once; nothing is volatile yet."""
    folder = tmp_path / f"tb-test-{os.environ['TB_TEST_SESSION']}-throwaway-{device.fresh_id()}"
    folder.mkdir()
    with bootpart.partition(folder, "grub", 32 << 20) as (boot, file):
        top = make_btrfs(size)
        device.make_root(top)
        image("first", "1.0").failure(top)  # type: ignore[misc]
        chooser = bootpart.chooser(boot)
        made = Machine(top, boot, file, chooser)
        made.run(bootable.plan_init(made))
        programs, words = initramfs(folder / "bin", shell)
        made.hook = Booting(top, boot, chooser, "", "", words, programs)
        made.start()
        yield made


def damage(copy: Path, name: str = "etc/motd") -> None:
    """Change a file of a read-only copy, as no command would."""
    for value in ("false", "true"):
        subprocess.run(["btrfs", "property", "set", "-ts", copy, "ro", value], check=True)
        if value == "false":
            (copy / name).write_text("rotten")
