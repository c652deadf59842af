"""A recording of the demonstration: `python -m demo.recording`, as root, writes docs/demo.cast and docs/demo.svg.

The first is an asciicast (version 2), which `asciinema play` shows; the second is a picture of it that moves.
"""

from __future__ import annotations

import html
import itertools
import json
import os
import pty
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from demo.stage import WIDTH

DOCS = Path(__file__).parents[1] / "docs"
COLUMNS, ROWS = WIDTH, 30
# How long each line is left to be read, and how much longer what somebody types, in seconds. How long the commands took
# depends on the machine.
READING, TYPED, END = 0.25, 1.5, 8.0
CELL, LINE, MARGIN = 8.43, 19, 12
_STYLE = re.compile(r"\x1b\[([\d;]*)m")
_CLASSES = {"1": "b", "2": "d", "31": "r", "32": "g", "33": "y", "36": "c"}
_LOOK = """
text { font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #d8dee9; white-space: pre }
.b { font-weight: bold } .d { fill: #8f9aae } .r { fill: #f07178 } .g { fill: #a3d977 } .y { fill: #ecc667 }
.c { fill: #7fc8e8 }
"""


@dataclass(frozen=True)
class Shown:
    """A line, and when it appears."""

    seconds: float
    text: str


def record() -> str:
    """Run the demonstration on a terminal; what it has written there."""
    said = bytearray()

    def read(descriptor: int) -> bytes:
        some = os.read(descriptor, 65536)
        said.extend(some)
        return some

    os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    os.environ.pop("NO_COLOR", None)
    code = os.waitstatus_to_exitcode(pty.spawn([sys.executable, "-m", "demo"], read))
    if code != 0:
        sys.exit(f"the demonstration ended with {code}; nothing was recorded")
    return said.decode()


def paced(text: str) -> list[Shown]:
    """When each line appears, so that somebody can read along."""
    shown, now = [], 0.5
    for line in text.replace("\r\n", "\n").rstrip("\n").split("\n"):
        shown.append(Shown(round(now, 2), line))
        now += TYPED if _STYLE.sub("", line).startswith(("$", "==")) else READING
    return shown


def to_cast(lines: list[Shown]) -> str:
    """The recording as an asciicast."""
    head = {
        "version": 2,
        "width": COLUMNS,
        "height": ROWS,
        "title": "tb-update: make demo",
        "env": {"TERM": "xterm-256color"},
    }
    events = [json.dumps([line.seconds, "o", f"{line.text}\r\n"], ensure_ascii=False) for line in lines]
    return "\n".join([json.dumps(head), *events]) + "\n"


def read_cast(text: str) -> list[Shown]:
    """The lines of such a recording."""
    events = [json.loads(line) for line in text.splitlines()[1:]]
    return [Shown(seconds, written.removesuffix("\r\n")) for seconds, _, written in events]


def to_svg(lines: list[Shown]) -> str:
    """The recording as a picture: one long page that moves up by a line when a line appears."""
    width, height = round(COLUMNS * CELL) + 2 * MARGIN, ROWS * LINE + 2 * MARGIN
    total = lines[-1].seconds + END
    drawn = [(line.seconds, row) for line in lines for row in _rows(line.text)]
    # The first rows fill the page, which begins to move with the row that has no room any more.
    moves = "".join(
        f"{seconds / total:.3%}{{transform:translateY({(ROWS - number) * LINE}px)}}\n"
        for number, (seconds, _) in enumerate(drawn, 1)
        if number > ROWS
    )
    rows = "\n".join(f'<text y="{number * LINE - 5}">{row}</text>' for number, (_, row) in enumerate(drawn, 1) if row)
    still = min(0, ROWS - len(drawn)) * LINE
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<title>What `make demo` shows</title>
<style>{_LOOK}
@keyframes up {{
0%{{transform:none}}
{moves}}}
#page {{ transform: translateY({still}px); animation: up {total:.1f}s step-end infinite }}
@media (prefers-reduced-motion) {{ #page {{ animation: none }} }}
</style>
<rect width="{width}" height="{height}" rx="8" fill="#1d2330"/>
<svg x="{MARGIN}" y="{MARGIN}" width="{width - 2 * MARGIN}" height="{ROWS * LINE}" overflow="hidden">
<g id="page">
{rows}
</g>
</svg>
</svg>
"""


def _rows(line: str) -> list[str]:
    """A line as text of a picture, broken where the terminal would."""
    cells, classes = [], ""
    for number, part in enumerate(_STYLE.split(line)):
        if number % 2:
            classes = " ".join(_CLASSES[code] for code in part.split(";") if code in _CLASSES)
        else:
            cells += [(classes, sign) for sign in part]
    broken = [cells[at : at + COLUMNS] for at in range(0, len(cells), COLUMNS)] or [[]]
    return ["".join(_span(*run) for run in itertools.groupby(row, lambda cell: cell[0])) for row in broken]


def _span(classes: str, cells: Iterable[tuple[str, str]]) -> str:
    text = html.escape("".join(sign for _, sign in cells), quote=False)
    return f'<tspan class="{classes}">{text}</tspan>' if classes else text


def main() -> None:
    """Record it anew, or with `--draw` only draw what was recorded."""
    cast = DOCS / "demo.cast"
    if sys.argv[1:] != ["--draw"]:
        cast.write_text(to_cast(paced(record())))
    (DOCS / "demo.svg").write_text(to_svg(read_cast(cast.read_text())))


if __name__ == "__main__":
    main()
