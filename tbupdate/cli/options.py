"""The options that every command takes, before and after its name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import pydantic

from tbdiff.completion import directories, files
from tbdiff.manifest import Target, misnamed

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Settings:
    """What the global options said."""

    top: str | None = None
    boot: str | None = None
    config: Path | None = None
    yes: bool = False
    json: bool = False
    progress: str = "auto"
    verbose: bool = False

    def command(self, *words: str) -> list[str]:
        """How another process of this program does something in the same place, by the same configuration."""
        options = {"--top": self.top, "--boot": self.boot, "--config": self.config}
        given = [part for name, value in options.items() if value is not None for part in (name, str(value))]
        return [*python(), "tbupdate", *words, *given]


_DIR = {"metavar": "DIR", "shell_complete": directories}
_FILE = {"metavar": "FILE", "shell_complete": files}
_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--top", _DIR | {"help": "The mounted top level (subvolid=5) of the Btrfs; default: the running one."}),
    ("--boot", _DIR | {"help": "The mounted boot partition; default: /boot."}),
    ("--config", _FILE | {"help": "The configuration; default: /etc/tb-update/config.toml."}),
    ("--yes", {"is_flag": True, "help": "Answer every question with yes."}),
    ("--json", {"is_flag": True, "help": "Print the result as JSON."}),
    ("--progress", {"type": click.Choice(["auto", "json", "none"]), "help": "Progress on stderr; default: auto."}),
    ("--verbose", {"is_flag": True, "help": "Name each step on stderr."}),
)
_SHORT = {"--verbose": "-v"}


def python() -> list[str]:
    """How another process runs a module of ours, as isolated from its surroundings as this one."""
    return [sys.executable, *(["-I"] if sys.flags.isolated else []), "-m"]


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is not None and parameter.name is not None:
        context.find_root().obj[parameter.name] = value


def everywhere(command: F) -> F:
    """Give a command the global options; what is said behind its name counts over what is said before."""
    for name, how in reversed(_OPTIONS):
        names = (name, _SHORT[name]) if name in _SHORT else (name,)
        option = click.option(*names, default=None, expose_value=False, callback=_remember, **how)
        command = option(command)
    return command


def check_called(name: str | None, release: str | None, types: Sequence[str] = ()) -> None:
    """Refuse what no image could be called, or be for: what is made here may be exported."""
    said = {"name": name, "release": release, "device_types": tuple(types)}
    try:
        Target.model_validate({key: value for key, value in said.items() if value})
    except pydantic.ValidationError as error:
        raise click.UsageError(misnamed(error)) from None


def settings() -> Settings:
    """What the global options of the running command said."""
    said = dict(click.get_current_context().find_root().obj)
    if said.get("config") is not None:
        said["config"] = Path(said["config"])
    return Settings(**said)
