"""What the documentation tells people to type, run as they would type it: all blocks of a page, in one shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests import loops

REPOSITORY = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    """What a page tells people to type."""
    return re.findall(r"^```sh\n(.*?)^```$", (REPOSITORY / page).read_text(), re.MULTILINE | re.DOTALL)


@contextmanager
def workplace(name: str) -> Iterator[Path]:
    """An empty directory, not in /tmp, which may be memory; all that is mounted of it or on it goes with it."""
    place = Path(tempfile.mkdtemp(prefix=f"tb-test-{os.environ['TB_TEST_SESSION']}-{name}-", dir="/var/tmp"))
    try:
        yield place
    finally:
        for image in place.rglob("*.img"):
            loops.release(image)
        shutil.rmtree(place)


def perform(script: Sequence[str], place: Path) -> subprocess.CompletedProcess[str]:
    """Run blocks one after the other, in a shell that ends at the first that fails; its mounts are nobody else's."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    text = "\n".join(["set -eu", "shopt -s expand_aliases", *script])
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", text],
        cwd=place,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done
