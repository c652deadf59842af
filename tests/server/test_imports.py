"""The server stands on tbdiff and on the messages of tbupdate, and nothing of a device stands on it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def imported(package: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, name.name) for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from ((path, f"{node.module}.{name.name}") for name in node.names)


def test_the_server_knows_nothing_of_devices_but_their_messages() -> None:
    for path, name in imported("tbserver"):
        assert not name.startswith("tbupdate") or name.startswith("tbupdate.protocol"), path


def test_nothing_else_knows_the_server() -> None:
    for package in ("tbdiff", "tbupdate"):
        for path, name in imported(package):
            assert not name.startswith("tbserver"), path
