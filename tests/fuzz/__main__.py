"""`make fuzz`: let atheris look for bytes that a decoder neither understands nor refuses.

`python -m tests.fuzz [NAME] [--seconds N]`; what it finds lies in tests/fuzz/found/NAME/ and is a test from then on.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOUND = Path(__file__).parent / "found"


def main() -> None:
    """Fuzz one decoder, or all of them one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("name", nargs="?", help="only this decoder")
    parser.add_argument("--seconds", type=int, default=60, help="for each")
    asked = parser.parse_args()
    if asked.name:
        fuzz(asked.name, asked.seconds)
        return
    from tests.fuzz.targets import TARGETS

    faulty = [
        name
        for name in TARGETS
        if subprocess.run([sys.executable, "-m", "tests.fuzz", name, "--seconds", str(asked.seconds)]).returncode
    ]
    sys.exit(f"faults were found: {', '.join(faulty)}; see {FOUND}" if faulty else 0)


def fuzz(name: str, seconds: int) -> None:
    """Run libFuzzer on one decoder; it ends the process."""
    import atheris

    with atheris.instrument_imports(include=["tbdiff"]):
        from tests.fuzz.targets import TARGETS
    if name not in TARGETS:
        sys.exit(f"there is no {name!r}; there are {', '.join(TARGETS)}")
    (FOUND / name).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for seed in TARGETS[name].seeds():
            (Path(corpus) / hashlib.sha256(seed).hexdigest()).write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=1024", "-max_len=65536", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={FOUND / name}{os.sep}", corpus], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
