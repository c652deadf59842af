"""What a shell completes where an argument is a place, though not always one: an image can be a URL as well."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def files(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of files, as the shell knows them."""
    return [CompletionItem(begun, type="file")]


def directories(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of directories, as the shell knows them."""
    return [CompletionItem(begun, type="dir")]
