"""Programs of others that are run: how they ended, and what they said."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

# As a shell says it, and timeout(1).
NOT_FOUND, TOO_LONG = 127, 124


@dataclass(frozen=True)
class Ended:
    """A program that has ended."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """What it said last, of its errors if it had any: as a rule that is why it failed."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return "".join(c for c in lines[-1] if c.isprintable()) if lines else f"exit code {self.code}"


def run(command: Sequence[str], limit: float | None = None) -> Ended:
    """Run a program to its end, for `limit` seconds at most; one that is not there has failed as well."""
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return Ended(TOO_LONG, "", f"{command[0]} did not end within {limit} s")
    except OSError as error:
        return Ended(NOT_FOUND, "", f"{command[0]}: {error.strerror}")
    return Ended(ended.returncode, *(said.decode("utf-8", "replace") for said in (ended.stdout, ended.stderr)))
