"""How far a run is: a bar on a terminal, lines of JSON for programs, nothing in a pipe. Always on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator

from tbdiff.tree import Progress, quiet

INTERVAL = 0.2


@contextlib.contextmanager
def shown(how: str) -> Iterator[Progress]:
    """The progress to report to: `how` is auto, json or none."""
    if how == "json":
        yield _JsonLines()
    elif how == "auto" and sys.stderr.isatty():
        yield from _bar()
    else:
        yield quiet


class _JsonLines:
    """A line for every phase, for its end, and in between as often as a person could follow."""

    def __init__(self) -> None:
        self.phase = ""
        self.last = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase == self.phase and done < total and now - self.last < INTERVAL:
            return
        self.phase, self.last = phase, now
        line = {"format_version": 1, "phase": phase, "done": done, "total": total}
        print(json.dumps(line), file=sys.stderr, flush=True)


def _bar() -> Iterator[Progress]:
    # rich takes a good part of the memory that a small device has to spare, and only a terminal needs it.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total or None)
            bar.update(tasks[phase], completed=done, total=total or None)

        yield report
