"""The demonstration, as a person starts it: it goes to its end, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import loops

pytestmark = [pytest.mark.btrfs, pytest.mark.slow]
REPOSITORY = Path(__file__).parents[2]


def demo(place: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "demo"],
        cwd=REPOSITORY,
        env=os.environ | {"TMPDIR": os.fspath(place)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def assert_nothing_left(place: Path) -> None:
    assert list(place.iterdir()) == []
    # A loop device goes when the last process of the demonstration's mount namespace is gone.
    limit = time.monotonic() + 10
    while loops.devices(os.fspath(place)) and time.monotonic() < limit:
        time.sleep(0.1)
    assert loops.devices(os.fspath(place)) == {}


def test_it_tells_its_story_to_the_end(tmp_path: Path) -> None:
    process = demo(tmp_path)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    for moment in (
        "rejected: the image is not signed",
        "*** THE POWER IS GONE ***",
        "libtinfo",
        "is exactly its target",
    ):
        assert moment in said
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("moment", ["du -sh build", "tbdiff apply"])
def test_whoever_stops_it_finds_nothing_left(moment: str, tmp_path: Path) -> None:
    process = demo(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if moment in line:
            break
    # A person presses ^C more than once.
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 1, said
    assert "cleaned up" in said
    assert_nothing_left(tmp_path)
