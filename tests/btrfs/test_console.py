"""Output that cannot be printed: what was done stays done, the exit code tells, and nothing reaches a terminal raw."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tbdiff.create import Label, create_image
from tbdiff.signature import create_key
from tests.console import REPOSITORY, Device


def shell(script: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", script, "bash", *arguments], capture_output=True, cwd=REPOSITORY, env=os.environ | {"LANG": "C"}
    )


LOST = b"result could not be printed"


@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        (">/dev/full", 1, LOST),
        (">&-", 1, LOST),
        ("<&-", 0, b""),
        ("2>&-", 0, b""),
        ("2>/dev/full", 0, b""),
        ("<&- >&- 2>&-", 1, b""),
        ("> >(exec 0<&-; sleep 0)", 0, b""),
    ],
)
def test_what_was_done_stays_done_and_the_exit_code_says_so(dev: Device, streams: str, code: int, said: bytes) -> None:
    image = dev.image(None, dev.tree("one"), "1.0")
    for arguments, role in ((["deploy", image], "staged"), (["rollback"], "committed")):
        done = shell(f'"$@" {streams}', *dev.command(*arguments))
        assert (done.returncode, said in done.stderr) == (code, True), done
        assert b"Traceback" not in done.stderr
        assert b"Exception" not in done.stderr
        assert dev.status()["default"] == dev.status()[role]
    assert dev.json("history")["events"][-1]["event"] == "rollback"


def test_a_pipe_that_is_closed_ends_quietly(dev: Device) -> None:
    for script in ('"$@" history | true; exit ${PIPESTATUS[0]}', '"$@" rollback nothing | true; exit ${PIPESTATUS[0]}'):
        done = shell(script, *dev.command())
        assert done.returncode == (3 if "nothing" in script else 0)
        assert (done.stderr == b"") == ("nothing" not in script)
        assert b"Traceback" not in done.stderr


def test_the_result_of_tbdiff_that_cannot_be_printed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tbdiff", "digest", str(tmp_path)]
    for streams, code, said in ((">/dev/full", 1, LOST), (">&-", 1, LOST), ("| true; exit ${PIPESTATUS[0]}", 0, b"")):
        done = shell(f'"$@" {streams}', *command)
        assert done.returncode == code
        assert said in done.stderr
        assert b"Traceback" not in done.stderr


def test_what_comes_from_outside_does_nothing_to_a_terminal(dev: Device) -> None:
    odd = b"bad\xff\x1b[31mRED\x07\nline"
    dev("deploy", dev.image(None, dev.tree("one"), "1.0"))
    assert subprocess.run([*dev.command("rollback"), "--reason", odd], cwd=REPOSITORY).returncode == 0
    with (dev.top / "tb-update/history.jsonl").open("a") as file:
        file.write('{"time": "t", "event": "x", "reason": "\\udcff\\ud800 \\u001b[1m", "signers": ["a\\nb"]}\n')
    record = dev.top / "tb-update" / str(dev.status()["default"]) / "record.json"
    record.write_text(record.read_text().replace('"release":null', '"release":"1\\n\\u001b[2J"'))
    for arguments in ([b"history"], [b"list"], [b"status"], [b"deploy", odd], [b"remove", odd], [odd], [b"init", odd]):
        for environment in ({}, {"PYTHONIOENCODING": "ascii"}) if arguments == [b"history"] else ({},):
            command = [*dev.command(), *arguments]
            done = subprocess.run(command, capture_output=True, cwd=REPOSITORY, env=os.environ | environment)
            assert b"Traceback" not in done.stderr
            assert not set(done.stdout + done.stderr) & {0x1B, 0x07}, arguments
            assert b"\nline" not in done.stdout + done.stderr
    assert "RED" in dev("history")
    assert "RED" in dev("list")


def test_the_name_of_a_key_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    create_key(tmp_path / "key")
    create_image(None, tree, tmp_path / "image", label=Label(), key=tmp_path / "key")
    (tmp_path / "key.pub").rename(tmp_path / "k\n\x1b[31m.pub")
    command = [sys.executable, "-m", "tbdiff", "show", tmp_path / "image", "--keys", tmp_path / "k\n\x1b[31m.pub"]
    done = subprocess.run(command, capture_output=True, cwd=REPOSITORY)
    assert done.returncode == 0
    assert b"k\\n\\x1b[31m" in done.stdout


def test_a_command_that_is_nearly_right(dev: Device) -> None:
    assert dev.run("deplo").stderr.splitlines()[0].endswith("Did you mean 'deploy'?")


def test_no_command_at_all(dev: Device) -> None:
    done = subprocess.run([sys.executable, "-m", "tbdiff"], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n  create " in done.stdout
    assert dev.run("trust").stderr.splitlines()[0] == "tb-update: Missing command."
