"""The QEMU that machines run in: this computer's, or Debian 13's where that is older.

QEMU before 10 translates some instructions wrongly once in some hundred boots, and takes half as long again to boot.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.boot import debian

GOOD = 10
SUITE = "trixie"


@functools.cache
def command() -> tuple[str, ...]:
    """How it is called."""
    said = subprocess.run(["qemu-system-x86_64", "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"version (\d+)", said)
    assert found, said
    if int(found[1]) >= GOOD:
        return ("qemu-system-x86_64",)
    tree = _unpacked()
    libraries = tree / "usr/lib/x86_64-linux-gnu"
    return (
        # By that system's own loader and libraries.
        *map(os.fspath, (libraries / "ld-linux-x86-64.so.2", "--library-path", libraries)),
        os.fspath(tree / "usr/bin/qemu-system-x86_64"),
        *(word for name in ("qemu", "seabios") for word in ("-L", os.fspath(tree / "usr/share" / name))),
    )


def _unpacked() -> Path:
    """The packages' files, in the cache."""
    tree = debian.cache() / f"qemu-{SUITE}"
    with debian.locked():
        if not tree.exists():
            partial = tree.with_suffix(".partial")
            # What a run left that was ended in the middle.
            shutil.rmtree(partial, ignore_errors=True)
            debian.run(
                *("mmdebstrap", "--mode=root", "--variant=extract", "--include=qemu-system-x86"),
                *('--aptopt=Apt::Install-Recommends "false"', SUITE, partial),
                env=os.environ | {"TMPDIR": os.fspath(debian.cache())},
            )
            partial.rename(tree)
    return tree
