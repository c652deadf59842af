"""Whole inputs, and all that fuzzing ever found, are understood or refused; a short run finds nothing new."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, Fuzzed

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", TARGETS)
def test_whole_inputs(name: str) -> None:
    understood = 0
    for seed in TARGETS[name].seeds():
        TARGETS[name](seed)
        understood += 1
    assert understood


def test_what_was_found() -> None:
    for path in (REPOSITORY / "tests/fuzz/found").glob("*/*"):
        TARGETS[path.parent.name](path.read_bytes())


def test_a_fault_would_be_seen() -> None:
    def faulty(_data: bytes) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        Fuzzed(faulty, lambda: iter(()))(b"")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no build for this Python")
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run(name: str) -> None:
    # A child counts the most memory that its parent ever held as its own, and libFuzzer ends what holds too much:
    # the shell between the two has never held any.
    done = subprocess.run(
        ["sh", "-c", '"$0" "$@"; exit $?', sys.executable, "-m", "tests.fuzz", name, "--seconds", "6"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
