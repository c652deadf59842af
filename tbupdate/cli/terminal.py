"""What the commands print: results on stdout, the rest on stderr; colour only where it is wanted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from tbdiff.console import safe
from tbupdate.status import COLOURS, FORMAT_VERSION, fields, summary
from tbupdate.steps import Plan
from tbupdate.system import System

NAME = "tb-update"


def colour(text: str, name: str) -> str:
    """`text` in colour on a terminal, unless NO_COLOR says otherwise."""
    return click.style(text, fg=name) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def print_json(shown: dict[str, Any]) -> None:
    """One JSON object, with the version of its format."""
    click.echo(json.dumps({"format_version": FORMAT_VERSION} | shown, indent=2))


def warn(text: str) -> None:
    """A warning on stderr."""
    click.echo(safe(f"{NAME}: warning: {text}"), err=True)


def print_lines(lines: Iterable[str]) -> None:
    """Lines on stdout."""
    for line in lines:
        click.echo(safe(line))


def print_table(rows: Sequence[tuple[str, ...]], coloured: int) -> None:
    """Columns as wide as their widest cell; the column `coloured` holds states."""
    rows = [tuple(map(safe, row)) for row in rows]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if row[coloured] in COLOURS:
            cells[coloured] = colour(cells[coloured], COLOURS[row[coloured]])
        click.echo("  ".join(cells).rstrip())


def print_marked(mark: str, name: str, text: str) -> None:
    """A line that begins with a coloured word."""
    click.echo(f"{colour(mark, name)}: {safe(text)}")


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
    said = "" if kind in ("failed", "usage") else f"{kind.replace('-', ' ')}: "
    end = "" if message.endswith("?") else "."
    click.echo(safe(f"{NAME}: {said}{message.rstrip('.')}{end}"), err=True)
    if remedy:
        click.echo(safe(f"  {remedy}"), err=True)
