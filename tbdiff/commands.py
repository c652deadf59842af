"""The commands of a program, each loaded when it is asked for: what one needs is no cost of the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

import click


class Commands(Mapping[str, click.Command]):
    """Commands by name, for `click.group`; `places` says where each is, as `module:function`.

    A module that does not load is an error of the command that needs it.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> click.Command:
        module, _, function = self._places[name].partition(":")
        command: click.Command = getattr(import_module(module), function)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
