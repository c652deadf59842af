"""The command line of tbdiff: the only place of the package that prints and that ends the process."""

from __future__ import annotations

import json
import sys

import click

from tbdiff import __version__, show
from tbdiff.commands import Commands
from tbdiff.console import Program, safe
from tbdiff.errors import Failed
from tbdiff.signals import interrupt_on_end

EPILOG = """\b
Exit codes:
  0  done
  1  failed: it could not be done
  2  usage: there is no such command or option
  3  rejected: it was refused, and nothing was changed
  4  nothing to do
"""


PLACES = {
    "create": "tbdiff.cli.making:create",
    "convert": "tbdiff.cli.making:convert",
    "squash": "tbdiff.cli.making:squash",
    "delta": "tbdiff.cli.making:delta",
    "encoders": "tbdiff.cli.making:show_encoders",
    "sign": "tbdiff.cli.signing:sign",
    "keygen": "tbdiff.cli.signing:keygen",
    "rotate": "tbdiff.cli.signing:rotate",
    "publish": "tbdiff.cli.publishing:publish",
    "withdraw": "tbdiff.cli.publishing:withdraw",
    "apply": "tbdiff.cli.using:apply",
    "show": "tbdiff.cli.showing:show_image",
    "verify": "tbdiff.cli.using:verify",
    "digest": "tbdiff.cli.using:digest",
}


@click.group(
    commands=Commands(PLACES),
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="tbdiff")
@click.pass_context
def cli(context: click.Context) -> None:
    """Signed images that turn one root tree into another, exactly."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Run one command, and end the process with its exit code."""
    interrupt_on_end()
    sys.exit(PROGRAM.main(run))


def run(arguments: list[str]) -> int:
    """Run one command; the exit code."""

    def command() -> object:
        return cli.main(arguments, prog_name="tbdiff", standalone_mode=False)

    return PROGRAM.run(command, as_json="--json" in arguments)


def _report(kind: str, message: str, remedy: str, *, as_json: bool) -> None:
    if as_json:
        error = {"kind": kind, "message": message, "remedy": remedy}
        click.echo(json.dumps({"format_version": show.FORMAT_VERSION, "error": error}, ensure_ascii=False))
    for line in filter(None, (f"tbdiff: {message}", remedy)):
        click.echo(safe(line), err=True)


PROGRAM = Program("tbdiff", _report, Failed("interrupted"))
