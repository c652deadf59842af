"""Completion for shells, as click writes it for each program."""

from __future__ import annotations

import importlib

from click.shell_completion import get_completion_class

PROGRAMS = {"tbdiff": "tbdiff.cli", "tb-update": "tbupdate.cli", "tb-server": "tbserver.cli"}
SHELLS = {"bash": "{}", "zsh": "_{}", "fish": "{}.fish"}


def script(program: str, shell: str) -> str:
    """What `shell` reads to complete the arguments of `program`, which it asks each time."""
    made = get_completion_class(shell)
    if made is None:
        raise ValueError(f"click knows no completion for {shell}")
    cli = importlib.import_module(PROGRAMS[program]).cli
    return made(cli, {}, program, f"_{program.replace('-', '_').upper()}_COMPLETE").source()
