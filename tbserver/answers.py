"""Commands that ask a server: whom they ask, and how they print what it answers, as JSON and as lines."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbdiff.console import safe
from tbdiff.errors import Rejected

if TYPE_CHECKING:
    from tbserver.client import Client

Answer = tuple[dict[str, Any], list[str]]


def asks(ask: Callable[..., Answer]) -> click.Command:
    """A command of what asks a server: that gets a client, and gives what is printed, as JSON and as lines."""

    @functools.wraps(ask)
    def run(server: str, token_file: Path | None, as_json: bool, **said: Any) -> None:
        with _client(server, token_file) as client:
            answer, lines = ask(client, **said)
        click.echo(json.dumps({"format_version": 1} | answer) if as_json else "\n".join(lines))

    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option(
            "--token-file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            envvar="TB_SERVER_TOKEN_FILE",
            help="A file with an API token; or put the token into TB_SERVER_TOKEN.",
        ),
        click.option(
            "--server",
            metavar="URL",
            default="http://127.0.0.1:8480",
            show_default=True,
            envvar="TB_SERVER_URL",
            help="Where the server is.",
        ),
    ):
        run = option(run)
    return click.command(ask.__name__.replace("_", "-"))(run)


def _client(server: str, token_file: Path | None) -> Client:
    from tbserver.client import Client  # noqa: PLC0415 - `serve` needs none of it

    token = token_file.read_text().strip() if token_file else os.environ.get("TB_SERVER_TOKEN", "")
    if not token:
        raise Rejected("there is no API token", "Make one on the page Tokens, and name its file with --token-file.")
    return Client(server, token)


def table(rows: Sequence[dict[str, Any]], *columns: str) -> list[str]:
    """Rows under the names of their columns."""
    cells = [[column.replace("_", " ") for column in columns]]
    cells += [[cell(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells] if rows else ["none"]


def cell(value: Any) -> str:
    """A value as a word, or as several."""
    if isinstance(value, list):
        return cell(", ".join(map(str, value)))
    return safe("-" if value in (None, "") else str(value))


def listed(client: Client, place: str, most: int, *columns: str, **asked: Any) -> Answer:
    """The things of a list, as many as are wanted."""
    found = list(client.list(place, most, **asked))
    return {"items": found}, table(found, *columns)
