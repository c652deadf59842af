"""The JSON schemas: valid, as our models say, named where people look; and what tbdiff prints is as they say."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from jsonschema import Draft202012Validator

from manual.schemas import made
from tbdiff import cli as tbdiff_cli
from tbdiff import encoders
from tbdiff.errors import Failed
from tbserver import cli as tbserver_cli
from tbupdate import cli as tbupdate_cli
from tbupdate.cli import terminal
from tests import schemas
from tests.trees import Noise, Tree, build, directory, file, sparse

GROUPS: list[tuple[str, click.Group]] = [
    ("tb-update", tbupdate_cli.cli),
    ("tbdiff", tbdiff_cli.cli),
    ("tb-server", tbserver_cli.cli),
]
# It has a protocol of its own, and prints nothing.
SILENT = {"api"}
REQUEST = "tb-update-api-request.json"


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    """All objects in a schema."""
    if isinstance(schema, dict):
        yield schema
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from parts(part)


@pytest.mark.parametrize("path", schemas.files(), ids=lambda path: path.stem)
def test_a_schema_is_one_and_names_itself_and_what_there_is(path: Path) -> None:
    schema = json.loads(path.read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == path.name
    assert schema["title"]
    assert schema["description"]
    for part in parts(schema):
        # What has keys says which of them are always there, and that more may come; else it is a part of what does. A
        # request has no more, and a map says what its values are.
        if part.get("type") == "object":
            more = part.get("additionalProperties")
            is_map = isinstance(more, dict) and "properties" not in part
            assert more is True or is_map or part in schema.get("$defs", {}).values() or path.name == REQUEST
            assert set(part.get("required", ())) <= set(part.get("properties", ()))
        for key, of_key in part.get("properties", {}).items():
            assert isinstance(of_key, dict)
            assert "description" in of_key or "$ref" in of_key, key
        if "$ref" in part:
            named, _, place = part["$ref"].partition("#/$defs/")
            held = json.loads((schemas.PLACE / (named or path.name)).read_text())
            assert not place or place in held["$defs"]


def test_what_a_program_reads_alone_has_a_version() -> None:
    for path in schemas.files():
        if path.name != "change.json":
            schema = json.loads(path.read_text())
            version = "api" if path.name.startswith("tb-update-api") else "format_version"
            assert schema["properties"][version]["const"] == 1
            assert version in schema["required"] or path.name == REQUEST, path.name


def test_schemas_that_are_made_of_models_are_as_these_are_now() -> None:
    for name, text in made():
        assert (schemas.PLACE / name).read_text() == text, "run: python -m manual.schemas"


def test_every_schema_is_named_in_the_documentation() -> None:
    assert set(re.findall(r"\(schemas/(\S+?)\)", schemas.PAGE.read_text())) == {path.name for path in schemas.files()}


@pytest.mark.parametrize(("program", "group"), GROUPS)
def test_every_command_with_json_has_a_schema_and_no_other(program: str, group: click.Group) -> None:
    context = click.Context(group)
    known = {name: group.get_command(context, name) for name in group.list_commands(context)}
    of_words: dict[str, set[str]] = {}
    for words, names in schemas.table(program):
        assert names, words
        of_words.setdefault(words[0], set()).update(words[1:])
    assert set(of_words) == {name for name, command in known.items() if options(command) & {"--json"}} - SILENT
    for name, words in of_words.items():
        command = known[name]
        assert words <= options(command) | (set(command.commands) if isinstance(command, click.Group) else set()), name
        if "--dry-run" in options(command):
            assert "--dry-run" in words, f"{name} --dry-run"


def options(command: click.Command | None) -> set[str]:
    assert command is not None
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return {spelling for one in command.params for spelling in one.opts}.union(*map(options, below))


def test_what_no_schema_names_is_noticed() -> None:
    whole = {"format_version": 1, "digest": "0" * 64, "entries": 1, "size": 0}
    assert not list(schemas.faults_of("tbdiff-digest.json", whole))
    for wrong in (whole | {"more": 1}, whole | {"digest": "x"}, whole | {"format_version": 2}, {"digest": "0" * 64}):
        assert list(schemas.faults_of("tbdiff-digest.json", wrong)), wrong
    # Also in what a part brings that is of another file.
    change = {"kind": "added", "path": "a", "what": []}
    told = {"format_version": 1, "from": "a", "to": "b", "changes": [change]}
    assert not list(schemas.faults_of("tb-update-diff.json", told))
    change["more"] = "x"
    assert list(schemas.faults_of("tb-update-diff.json", told))
    # For programs it is none: more may come.
    assert Draft202012Validator(json.loads((schemas.PLACE / "tbdiff-digest.json").read_text())).is_valid(
        whole | {"more": 1}
    )


class Held:
    """tbdiff, run in this process in a directory of its own; whatever it prints is held against its schema."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.seen: set[str] = set()

    def __call__(self, *words: str, code: int = 0) -> dict[str, Any]:
        arguments = [word.replace("@", f"{self.place}/") for word in words]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ended = tbdiff_cli.run([*arguments, "--json"])
        assert ended == code, err.getvalue()
        said: dict[str, Any] = json.loads(out.getvalue())
        self.seen.add(schemas.hold("tbdiff", arguments, said))
        return said


def test_all_that_tbdiff_prints_is_as_the_schemas_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Held(tmp_path)
    # To know the fingerprints of all of them takes most of a minute.
    monkeypatch.setattr(encoders, "NAMES", encoders.NAMES[:2])
    page = b"".join(b"line %d\n" % n for n in range(3000))
    one: Tree = {
        b"": directory(),
        b"odd\xff\n/a": file(b"1"),
        b"text": file(page),
        b"etc/old": file(b"old"),
        b"lib/modules/6.1/k": file(b"k"),
        b"usr/big": sparse(90_000, Noise(0, 90_000, 1)),
    }
    two = one | {b"text": file(page + b"more\n"), b"odd\xff\n/b": file(b"2" * 5000), b"odd\xff\n/a": file(b"1", uid=7)}
    two |= {b"usr/new": one[b"usr/big"], b"lib/modules/6.2/k": file(b"k")}
    del two[b"usr/big"], two[b"etc/old"], two[b"lib/modules/6.1/k"]
    build(one, tmp_path / "one")
    build(two, tmp_path / "two")

    for name in ("k", "other"):
        said("keygen", f"@{name}")
    said("keygen", "@k", code=3)
    said("encoders")
    said("digest", "@one")
    said("create", "@one", code=2)
    first = said("create", "--full", "@one", "-o", "@full.tbdiff", "--release", "1.0", "--key", "@k")
    assert first["manifest"]["target"]["release"] == "1.0"
    said("create", "@one", "@two", "-o", "@delta.tbdiff", "--name", "b", "--device-type", "t", "--key", "@k")
    said("create", "--legacy", "@one", "@two", "-o", "@legacy.tbdiff")
    said("squash", "@full.tbdiff", "@delta.tbdiff", "-o", "@both.tbdiff", "--key", "@k")
    said("delta", "@full.tbdiff", "@both.tbdiff", "-o", "@between.tbdiff")
    said("convert", "@full.tbdiff", "-o", "@full.tar", "--key", "@k")
    said("convert", "@full.tar", "-o", "@again.tbdiff")

    for image in ("full.tbdiff", "delta.tbdiff", "legacy.tbdiff", "full.tar"):
        for more in ((), ("--operations",), ("--tree",), ("--tree", "--depth", "0")):
            said("show", f"@{image}", *more)
    assert said("show", "@delta.tbdiff", "--operations", "--keys", "@k.pub")["signers"] == ["k"]
    for image in ("full.tbdiff", "delta.tbdiff"):
        said("show", f"@{image}", "--why")
    for path in ("text", "usr/new", "etc/old"):
        said("show", "@delta.tbdiff", "--diff", path, "--base", "@one")
    said("show", "@both.tbdiff", "--since", "@full.tbdiff")
    said("show", "@legacy.tbdiff", "--why", code=3)

    for image in ("full.tbdiff", "full.tar"):
        said("verify", f"@{image}", "--keys", "@k.pub")
    said("verify", "@full.tbdiff", "@one")
    said("verify", "@full.tbdiff", "@two", code=1)
    subprocess.run(["cp", "-a", tmp_path / "one", tmp_path / "tree"], check=True)
    said("apply", "@delta.tbdiff", "@tree")
    said("apply", "@delta.tbdiff", "@tree", code=4)

    said("sign", "@full.tbdiff", "--key", "@other")
    said("sign", "@full.tar", "--key", "@other")
    said("publish", "@full.tbdiff", "--to", "@www", "--key", "@k")
    said("withdraw", "1.0", "--from", "@www", "--key", "@k")
    said("rotate", "@trust", "--release", "@k.pub", "--release", "@other.pub", "--threshold", "2", "--key", "@k")
    said("sign", "@trust", "--key", "@other")
    said("show", "@trust")
    said("rotate", "@trust", "--trust-key", "@k.pub", "--revoke", "@other.pub", "--threshold", "1", "--key", "@k")

    wanted = {name for _, names in schemas.table("tbdiff") for name in names}
    assert said.seen == wanted | {schemas.ERROR}


def test_a_run_prints_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    def printed() -> dict[str, Any]:
        return dict(json.loads(capsys.readouterr().out))

    with terminal.one_document():
        terminal.print_json({"done": "fetch"})
        terminal.print_json({"done": "upgrade"})
    assert printed()["done"] == "upgrade"
    # What ends it is the result.
    with pytest.raises(Failed), terminal.one_document():
        terminal.print_json({"done": "upgrade"})
        raise Failed("the reboot cannot be begun")
    terminal.print_error("failed", "the reboot cannot be begun", "", as_json=True)
    assert schemas.hold("tb-update", (), printed()) == schemas.ERROR
    # When the machine goes down, that may end this process too: it was done.
    with pytest.raises(KeyboardInterrupt), terminal.one_document():
        terminal.print_json({"done": "upgrade"})
        terminal.print_now()
        raise KeyboardInterrupt
    terminal.print_error("failed", "interrupted", "", as_json=True)
    assert printed()["done"] == "upgrade"


def test_lines_of_progress_are_as_the_schema_says(tmp_path: Path) -> None:
    build({b"": directory(), b"a": file(b"a" * 100_000)}, tmp_path / "tree")
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        assert tbdiff_cli.run(["digest", str(tmp_path / "tree"), "--progress", "json"]) == 0
    lines = err.getvalue().splitlines()
    assert lines
    for line in lines:
        assert not list(schemas.faults_of("progress.json", json.loads(line)))
