"""What the commands print: results on stdout, the rest on stderr; colour only where it is wanted."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from tbdiff.console import safe
from tbupdate.status import COLOURS, FORMAT_VERSION, fields, summary
from tbupdate.steps import Plan
from tbupdate.system import System

NAME = "tb-update"
# What a line begins with that is broken: blanks, and what is a label before blanks.
_BEGIN = re.compile(r" *(?:[a-z ]{1,14}:? {2,}|[a-z ]{1,14}: |\d+\. )?")


def colour(text: str, name: str) -> str:
    """`text` in colour on a terminal, unless NO_COLOR says otherwise."""
    return click.style(text, fg=name) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


class _Document:
    """The one JSON object of a run: the last result, or the error that came after it; what is out is not taken back."""

    said: dict[str, Any] | None = None
    is_out = False

    def begin(self) -> None:
        self.said, self.is_out = None, False

    def print(self) -> None:
        if self.said is not None and not self.is_out:
            self.is_out = True
            click.echo(json.dumps({"format_version": FORMAT_VERSION} | self.said, indent=2))


_document = _Document()


@contextmanager
def one_document() -> Iterator[None]:
    """Print the last of the results at the end; where an error ends the run, that is printed in its place."""
    _document.begin()
    yield
    _document.print()


def print_json(shown: dict[str, Any]) -> None:
    """The result as a JSON object, with the version of its format; one that comes later takes its place."""
    _document.said = shown


def print_now() -> None:
    """The result, before the machine goes down."""
    _document.print()


def warn(text: str) -> None:
    """A warning on stderr."""
    click.echo(safe(f"{NAME}: warning: {text}"), err=True)


def columns() -> int | None:
    """How many columns the terminal has; None where what is printed goes to none, and lines stay as they are."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_lines(lines: Iterable[str]) -> None:
    """Lines on stdout; on a terminal that is too narrow they are broken between words, below where they begin."""
    room = columns()
    for line in map(safe, lines):
        begin = _BEGIN.match(line)
        if room is None or len(line) <= room or begin is None:
            click.echo(line)
            continue
        indent = " " * min(begin.end(), room // 2)
        broken = _broken(line[begin.end() :], room, indent)
        click.echo("\n".join([begin[0] + broken[0][len(indent) :], *broken[1:]]))


def _broken(text: str, room: int, indent: str = "") -> list[str]:
    # What stands between blanks may be a path, which people want to copy.
    return textwrap.wrap(
        text,
        room,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def print_table(rows: Sequence[tuple[str, ...]], coloured: int) -> None:
    """Columns as wide as their widest cell, or a few lines for each row where that is wider than the terminal.

    The column `coloured` holds states.
    """
    rows = [tuple(map(safe, row)) for row in rows]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    room = columns()
    if room is not None and max(len("  ".join(_padded(row, widths)).rstrip()) for row in rows) > room:
        _print_records(rows, coloured)
        return
    for row in rows:
        cells = _padded(row, widths)
        if row[coloured] in COLOURS:
            cells[coloured] = colour(cells[coloured], COLOURS[row[coloured]])
        click.echo("  ".join(cells).rstrip())


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]


def _print_records(rows: Sequence[tuple[str, ...]], coloured: int) -> None:
    heads, width = rows[0], max(map(len, rows[0])) + 2
    for row in rows[1:]:
        click.echo(row[0])
        for number, cell in enumerate(row[1:], 1):
            if cell and number == coloured and cell in COLOURS:
                click.echo(f"  {heads[number].lower():{width}}{colour(cell, COLOURS[cell])}")
            elif cell:
                print_lines([f"  {heads[number].lower():{width}}{cell}"])


def print_marked(mark: str, name: str, text: str) -> None:
    """A line that begins with a coloured word."""
    room = columns()
    lines = [safe(text)] if room is None else _broken(f"{mark}: {safe(text)}", room)
    lines[0] = lines[0].removeprefix(f"{mark}: ")
    click.echo("\n".join([f"{colour(mark, name)}: {lines[0]}", *lines[1:]]))


def print_plan(plan: Plan, *, as_json: bool) -> None:
    """What would be done."""
    if as_json:
        print_json({"plan": [str(step) for step in plan.every_step], "id": plan.deployment, "notes": list(plan.notes)})
        return
    click.echo("The plan:")
    print_lines(f"  {number}. {step}" for number, step in enumerate(plan.every_step, 1))
    print_lines(plan.notes)


def print_done(what: str, deployment: str | None, system: System, warnings: Sequence[str], *, as_json: bool) -> None:
    """How a change ended."""
    if as_json:
        print_json({"done": what, "id": deployment, "warnings": list(warnings)} | fields(system))
        return
    for warning in warnings:
        warn(warning)
    print_lines(summary(system))


def print_error(kind: str, message: str, remedy: str, *, as_json: bool) -> None:
    """An error of any kind."""
    if as_json:
        print_json({"error": {"kind": kind, "message": message, "remedy": remedy}})
        print_now()
    said = "" if kind in ("failed", "usage") else f"{kind.replace('-', ' ')}: "
    end = "" if message.endswith("?") else "."
    click.echo(safe(f"{NAME}: {said}{message.rstrip('.')}{end}"), err=True)
    if remedy:
        click.echo(safe(f"  {remedy}"), err=True)
