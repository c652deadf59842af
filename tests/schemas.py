"""What the programs print as JSON, held against docs/schemas; a key that no schema names is an error here."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

REPOSITORY = Path(__file__).parents[1]
PLACE = REPOSITORY / "docs/schemas"
PAGE = REPOSITORY / "docs/json.md"
ERROR = "error.json"


def files() -> list[Path]:
    """All schemas."""
    return sorted(PLACE.glob("*.json"))


@functools.cache
def table(program: str) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """The words of each command as docs/json.md names them, and which schemas its result has."""
    chapter = PAGE.read_text().partition(f"\n## {program}\n")[2].partition("\n## ")[0]
    rows = (row.split("|")[1:3] for row in chapter.splitlines() if row.startswith("| `"))
    return tuple(
        (tuple(words.split()), tuple(re.findall(r"\(schemas/(\S+)\)", results)))
        for named, results in rows
        for words in re.findall(r"`([^`]+)`", named)
    )


def schemas_of(program: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """The schemas that the result of a command may have, by the row that says most of its words."""
    commands = {words[0] for words, _ in table(program)}
    command = next(word for word in arguments if word in commands)
    rows = [row for row in table(program) if row[0][0] == command and set(row[0][1:]) <= set(arguments)]
    return max(rows, key=lambda row: len(row[0]))[1]


def hold(program: str, arguments: Sequence[str], said: dict[str, Any]) -> str:
    """Hold what a command has printed against its schemas, and an error against that of errors; which one it has."""
    names = (ERROR,) if "error" in said else schemas_of(program, arguments)
    faults = {name: list(faults_of(name, said)) for name in names}
    for name, found in faults.items():
        if not found:
            return name
    raise AssertionError(f"{program} {' '.join(map(str, arguments))}: {faults}")


def faults_of(name: str, said: Any) -> Iterator[str]:
    """What is wrong with a document by one schema."""
    for error in _validator(name).iter_errors(said):
        yield f"{error.json_path}: {error.message[:300]}"


@functools.cache
def _validator(name: str) -> Draft202012Validator:
    strict = {path.name: json.loads(path.read_text(), object_hook=_strict) for path in files()}
    registry: Registry[Any] = Registry().with_resources(
        [(each, Resource.from_contents(schema)) for each, schema in strict.items()]
    )
    return Draft202012Validator(strict[name], registry=registry)


def _strict(fields: dict[str, Any]) -> dict[str, Any]:
    # Also what a $ref or allOf brings counts as named.
    if fields.get("additionalProperties") is True:
        del fields["additionalProperties"]
        fields["unevaluatedProperties"] = False
    return fields
