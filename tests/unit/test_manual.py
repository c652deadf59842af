"""The manual pages say what the programs take, as formatters show them; and shells complete it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from manual.completion import PROGRAMS, script
from manual.pages import names, page
from manual.roff import render

PAGES = {"tbdiff": "tbdiff.1", "tb-update": "tb-update.8", "tb-server": "tb-server.8"}


def formatted(roff: str, *options: str) -> str:
    """A page as it is read, hardly any line broken."""
    done = subprocess.run(
        ["mandoc", "-Tutf8", "-O", "width=1000,indent=0", *options], input=roff, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return subprocess.run(["col", "-bx"], input=done.stdout, capture_output=True, text=True, check=True).stdout


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}".strip(), command
        if isinstance(command, click.Group):
            yield from commands(command, name)


@pytest.mark.parametrize("name", names())
def test_pages_are_sound(name: str) -> None:
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning"], input=page(name), capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("program", PAGES)
def test_pages_name_every_command_and_option(program: str) -> None:
    text = formatted(page(PAGES[program]))
    for name, command in commands(importlib.import_module(PROGRAMS[program]).cli):
        # What a group does without a word of its own is told under the group's name.
        assert name in text or name.endswith(" of"), name
        for option in (one for one in command.params if isinstance(one, click.Option)):
            assert any(spelling in text for spelling in (*option.opts, *option.secondary_opts)), f"{name} {option.opts}"


HARD = r"""## One

.not a request, `'neither` \\n, `a-b ~ ^ \ …`

    .nf is 'no' request

| `key` | what |
|---|---|
| `-v` | *all* of it |

**`init [-x]`** - does it
"""


def test_text_is_shown_as_it_stands() -> None:
    shown = formatted(f'.TH X 1 2020-01-01 "x" "x"\n{render(HARD)}')
    for line in (
        ".not a request, 'neither \\n, a-b ~ ^ \\ …",
        ".nf is 'no' request",
        "-v     all of it",
        "init [-x]\n",
    ):
        assert line in shown


def completed(shell: str, program: str, *words: str, tmp_path: Path) -> set[str]:
    """What a shell offers in place of the last word."""
    place = tmp_path / "script"
    place.write_text(script(program, shell))
    function = f"_{program.replace('-', '_')}_completion"
    typed = " ".join(f"'{word}'" for word in (program, *words))
    lines = {
        "bash": f'COMP_WORDS=({typed}); COMP_CWORD={len(words)}; . {place}; compopt() {{ COMPREPLY+=("$2"); }}; '
        f'{function} {program}; printf "%s\\n" "${{COMPREPLY[@]}}"',
        # What a widget would be given is printed.
        "zsh": f"compdef() {{ }}; _describe() {{ print -l -- ${{completions_with_descriptions%%:*}}; }}; "
        f"compadd() {{ print -l -- $completions; }}; words=({typed}); CURRENT={len(words) + 1}; . {place}; {function}",
        "fish": f"source {place}; complete -C '{' '.join((program, *words))}'",
    }
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *options, "-c", lines[shell]],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    return {line.split("\t")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: str, tmp_path: Path) -> None:
    assert {"deploy", "decline"} == completed(shell, "tb-update", "de", tmp_path=tmp_path)
    assert {"--dry-run", "--delta"} == completed(shell, "tb-update", "deploy", "--d", tmp_path=tmp_path)
    assert {"fast"} == completed(shell, "tbdiff", "create", "--effort", "f", tmp_path=tmp_path)
    assert {"rollout", "rollouts", "roll-out"} == completed(shell, "tb-server", "ro", tmp_path=tmp_path)


def test_images_are_completed_as_files(tmp_path: Path) -> None:
    (tmp_path / "new.tbdiff").touch()
    assert completed("bash", "tb-update", "deploy", "ne", tmp_path=tmp_path) == {"default"}
    assert completed("bash", "tb-update", "--top", "ne", tmp_path=tmp_path) == {"dirnames"}
    assert completed("fish", "tbdiff", "show", "ne", tmp_path=tmp_path) == {"new.tbdiff"}


def test_completion_of_a_program_loads_no_command() -> None:
    asked = {"COMP_WORDS": "tb-update --js", "COMP_CWORD": "1", "_TB_UPDATE_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tbupdate"], env=os.environ | asked, capture_output=True, text=True
    )
    assert "plain,--json" in done.stdout.splitlines()
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & {"cryptography", "hdiffpatch", "http.client", "ssl"}
