"""What terminals show, as pictures in tests/golden/terminal: wide and narrow, with colour and without, without UTF-8.

`TB_GOLDEN=write` writes them anew; look at what has changed before they are committed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.console import REPOSITORY, Device, set_up
from tests.screens import on_terminal

PICTURES = REPOSITORY / "tests/golden/terminal"
TERMINALS: dict[str, tuple[int, dict[str, str]]] = {
    "wide": (120, {}),
    "narrow": (40, {}),
    "plain": (80, {"NO_COLOR": "1"}),
    "ascii": (80, {"PYTHONIOENCODING": "ascii"}),
}


def shown(command: list[str], columns: int, environment: dict[str, str]) -> str:
    """What a terminal of that many columns gets; what differs each time is the same here, and as wide."""
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "TERM")}
    text = on_terminal(
        command, columns, plain | {"TERM": "xterm-256color", "LANG": "C.UTF-8"} | environment, REPOSITORY
    )
    text = re.sub(r"-[0-9a-f]{6}\b", "-abc123", text)
    text = re.sub(r"\d{4}-\d\d-\d\d( |T)\d\d:\d\d", r"2026-01-01\g<1>00:00", text)
    return re.sub(r"[\d.]+ [MG]iB(\s+)(data|metadata)", r"1.0 GiB\1\2", text)


def compare(name: str, text: str) -> None:
    picture = PICTURES / f"{name}.txt"
    readable = text.replace("\r\n", "\n").replace("\x1b", "\\e")
    if os.environ.get("TB_GOLDEN") == "write":
        picture.parent.mkdir(exist_ok=True)
        picture.write_text(readable)
    assert readable == picture.read_text(), f"{picture}: see the head of this file"


@pytest.fixture(scope="module")
def console(btrfs_of_module: Path, tmp_path_factory: pytest.TempPathFactory) -> Device:
    """A device with a release that is staged, one that was committed, and one that somebody rolled back."""
    dev = set_up(btrfs_of_module, tmp_path_factory.mktemp("terminal"))
    trees = {release: dev.tree(f"tree-{release}") for release in ("1.0", "1.1", "1.2")}
    for release in ("1.0", "1.1"):
        dev("deploy", dev.image(None, trees[release], release))
        dev("commit")
    dev("rollback", "--bad", "--reason", "the screen stayed black after an hour of looking at it")
    dev("deploy", dev.image(None, trees["1.2"], "1.2"))
    (dev.work / "config.toml").write_text('keys = "/nowhere/keys"\n')
    return dev


@pytest.mark.parametrize("terminal", TERMINALS)
def test_what_is_shown(console: Device, terminal: str) -> None:
    columns, environment = TERMINALS[terminal]
    for command in ("status", "list", "doctor"):
        compare(f"{command}-{terminal}", shown(console.command(command), columns, environment))


# A frame of the bar; how fast it goes, and so how long it will take, nobody knows yet.
BAR = """
from tbdiff import progress
with progress.shown("auto") as report:
    report("read the base", 100, 100)
    report("apply", 50, 100)
"""


@pytest.mark.parametrize("terminal", TERMINALS)
def test_how_far_a_run_is(terminal: str) -> None:
    columns, environment = TERMINALS[terminal]
    text = shown([sys.executable, "-c", BAR], columns, environment)
    frames = re.findall(r"read the base.*100%.*\r\n.*apply.*50%.*", text)
    compare(f"progress-{terminal}", frames[-1].replace("\r", "") + "\n")


def test_nothing_is_broken_or_coloured_where_no_terminal_is(console: Device) -> None:
    for command in ("status", "list", "doctor"):
        text = subprocess.run(console.command(command), capture_output=True, text=True, cwd=REPOSITORY).stdout
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) > 80 or command == "status"
