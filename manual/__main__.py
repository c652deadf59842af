"""`python -m manual DIR`: write every manual page, and completion for every shell, into DIR."""

from __future__ import annotations

import sys
from pathlib import Path

from manual.completion import PROGRAMS, SHELLS, script
from manual.pages import names, page


def main() -> None:
    """Write them all."""
    out = Path(sys.argv[1])
    made = {f"man/man{name[-1]}/{name}": page(name) for name in names()}
    for shell, name in SHELLS.items():
        made |= {f"{shell}/{name.format(program)}": script(program, shell) for program in PROGRAMS}
    for name, text in made.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)


main()
