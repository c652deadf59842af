"""The tutorial, as somebody would type it: all its commands, one after the other, in one shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import loops

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs/tutorial.md"


def test_every_command_of_the_tutorial_does_what_it_says() -> None:
    # Not in /tmp, which may be memory.
    workplace = Path(tempfile.mkdtemp(prefix=f"tb-test-{os.environ['TB_TEST_SESSION']}-tutorial-", dir="/var/tmp"))
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 8
    script = "set -eu\nshopt -s expand_aliases\n" + "\n".join(blocks)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    try:
        done = subprocess.run(
            ["bash", "-c", script], cwd=workplace, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert list(workplace.iterdir()) == []
    finally:
        subprocess.run(["umount", workplace / "tutorial/device"], capture_output=True)
        if (workplace / "tutorial/device.img").exists():
            loops.release(workplace / "tutorial/device.img")
        shutil.rmtree(workplace)
    for said in ("hello from 1.1", "THE SWITCH", "rejected, with exit code 3", "exit code 4", "rollback"):
        assert said in done.stdout, done.stdout
    assert "nothing was changed" in done.stderr
    sizes = {
        name: int(size) for size, name in re.findall(r"^-\S+ \d+ \S+ \S+ +(\d+) .* (\S+)$", done.stdout, re.MULTILINE)
    }
    assert sizes["1.0.tbdiff"] > 10 << 20
    assert sizes["1.1.tbdiff"] < 3000
