"""The manual pages: templates beside this module, with the chapters of the documentation that they take in."""

from __future__ import annotations

import re
from pathlib import Path

from manual.roff import escape, render
from tbdiff import __version__

HERE = Path(__file__).parent
_SECTIONS = {"1": "General Commands Manual", "5": "File Formats Manual", "8": "System Manager's Manual"}
# `<!-- docs/commands.md: tb-update -->` in a template is that chapter; without a title, what stands before the first
# one; with `*` all of the page but its title.
_TAKEN = re.compile(r"^<!-- (\S+):(?: (.+?))? -->$", re.MULTILINE)
# The state of the documentation that the pages show; it changes with each release.
DATE = "2026-11-26"


def names() -> list[str]:
    """The pages, as `tb-update.8`."""
    return sorted(path.stem for path in HERE.glob("*.[158].md"))


def page(name: str) -> str:
    """A manual page, in roff."""
    title, _, section = name.rpartition(".")
    head = f'.TH {escape(title.upper(), code=True)} {section} {DATE} "tb\\-update {__version__}" "{_SECTIONS[section]}"'
    return f"{head}\n{render(markdown(name))}"


def markdown(name: str) -> str:
    """What a page says: its template, with the chapters that it takes in."""
    template = (HERE / f"{name}.md").read_text()
    return _TAKEN.sub(lambda found: _chapter(HERE.parent / found[1], found[2] or ""), template)


def _chapter(path: Path, title: str) -> str:
    text = path.read_text()
    if title == "*":
        return text.partition("\n")[2]
    begin = f"\n## {title}\n" if title else "\n"
    found = text.partition(begin)[2].partition("\n## ")[0]
    if not found:
        raise ValueError(f"{path} has no chapter {title}")
    return found
