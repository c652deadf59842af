"""The documentation names every command, option and key that there is, and leads nowhere else."""

from __future__ import annotations

import re
import sys
import tomllib
import types
from pathlib import Path

import click
import pytest

from tbdiff import __version__
from tbdiff import cli as tbdiff_cli
from tbupdate import cli as tbupdate_cli
from tbupdate.boot import inplace
from tbupdate.boot.chooser import Choice, Entry
from tbupdate.config import Config

REPOSITORY = Path(__file__).parents[2]
COMMANDS = (REPOSITORY / "docs/commands.md").read_text()
PAGES = sorted(path for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")))


def chapter(title: str) -> str:
    return COMMANDS.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


GROUPS: list[tuple[str, click.Group]] = [("tb-update", tbupdate_cli.cli), ("tbdiff", tbdiff_cli.cli)]


def commands(group: click.Group) -> dict[str, click.Command]:
    context = click.Context(group)
    return {name: group.get_command(context, name) for name in group.list_commands(context)}


@pytest.mark.parametrize(("program", "group"), GROUPS)
def test_every_command_and_option_is_documented(program: str, group: click.Group) -> None:
    text = chapter(program)
    for name, command in commands(group).items():
        assert re.search(rf"^\*\*`{name}\b", text, re.MULTILINE), f"{program} {name}"
        for option in (one for one in command.params if isinstance(one, click.Option)):
            if option.opts[0] not in ("--help", "--json"):
                assert any(spelling in text for spelling in option.opts), f"{name} {option.opts}"


def test_every_documented_command_exists() -> None:
    for program, group in GROUPS:
        named = re.findall(r"^\*\*`(\w+)", chapter(program), re.MULTILINE)
        assert sorted(named) == sorted(commands(group))


def test_the_documented_configuration_is_the_default() -> None:
    example, sources = re.findall(r"```toml\n(.*?)```", (REPOSITORY / "docs/configuration.md").read_text(), re.DOTALL)
    assert set(tomllib.loads(sources)) == {"source", "window"}
    Config.model_validate(tomllib.loads(sources))
    said = tomllib.loads(example)
    assert set(said) == set(Config.model_fields) - {"source", "window"}
    default = Config().model_dump(mode="json", exclude={"source", "window"}) | {"device_type": said["device_type"]}
    assert said == default
    assert Config.model_validate(said) == Config(device_type=said["device_type"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("program", ["tb-update", "tbdiff"])
def test_exit_codes_of_help_and_documentation_agree(program: str) -> None:
    group = dict(GROUPS)[program]
    codes = set(re.findall(r"^  (\d+) ", group.epilog or "", re.MULTILINE))
    documented = set(re.findall(r"^\| (\d+) \|", COMMANDS, re.MULTILINE))
    assert codes == documented - ({"75"} if program == "tbdiff" else set())


def test_the_example_of_a_chooser_is_one(tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/adding-a-chooser.md").read_text(), re.DOTALL)[0]
    example = types.ModuleType("tiny")
    sys.modules["tiny"] = example
    exec(code, example.__dict__)
    tiny = example.Tiny()
    for choice in (Choice("1.0-a"), Choice("1.0-a", "1.1-b", 3, "1.0-a"), Choice("1.0-a", "1.1-b", 0)):
        assert tiny.read_choice(inplace.padded(tiny.write_choice(choice)).decode()) == choice
    assert tiny.read_choice("#" * 1024) is None
    entry = Entry("1.1-b", "Demo 1.1", "k-1234", True, "", "root=LABEL=x tb.id=1.1-b")
    assert (
        tiny.write_entry(entry) == "boot /tb-update/k-1234/vmlinuz /tb-update/k-1234/initrd root=LABEL=x tb.id=1.1-b\n"
    )
    assert example.configuration(str(tmp_path)) == ""
    own = tmp_path / "tiny/boot.conf"
    own.parent.mkdir()
    own.write_text("timeout=3\n")
    tiny.include(str(tmp_path))
    tiny.include(str(tmp_path))
    assert own.read_text() == "timeout=3\nsource /tb-update/choice\n"
    assert tiny.leads(str(tmp_path))
    tiny.exclude(str(tmp_path))
    assert own.read_text() == "timeout=3\n"
    assert not tiny.leads(str(tmp_path))


def test_the_package_has_the_version_of_the_programs() -> None:
    assert (REPOSITORY / "debian/changelog").read_text().startswith(f"tb-update ({__version__}) ")
