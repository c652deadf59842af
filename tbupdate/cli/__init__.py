"""The command line of tb-update: the only place that prints and that ends the process."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from tbdiff import __version__
from tbdiff.commands import Commands
from tbdiff.console import Program
from tbdiff.errors import Failed
from tbdiff.memory import SMALL, return_pieces
from tbdiff.signals import interrupt_on_end
from tbupdate.cli.options import everywhere, settings
from tbupdate.cli.terminal import one_document, print_error

EPILOG = """\b
Exit codes:
  0   done
  1   failed: it could not be done
  2   usage: there is no such command or option
  3   rejected: it was refused, and nothing was changed
  4   nothing to do
  75  busy: another run is in progress
"""


PLACES = {
    "deploy": "tbupdate.cli.deploying:deploy",
    "check": "tbupdate.cli.upgrading:check",
    "upgrade": "tbupdate.cli.upgrading:upgrade",
    "agent": "tbupdate.cli.unattended:agent",
    "approve": "tbupdate.cli.unattended:approve",
    "postpone": "tbupdate.cli.unattended:postpone",
    "decline": "tbupdate.cli.unattended:decline",
    "trust": "tbupdate.cli.trusting:trust",
    "enrol": "tbupdate.cli.enrolling:enrol",
    "api": "tbupdate.cli.listening:api",
    "snapshot": "tbupdate.cli.anew:snapshot",
    "run": "tbupdate.cli.anew:run",
    "export": "tbupdate.cli.export:export",
    "status": "tbupdate.cli.reports:show_status",
    "list": "tbupdate.cli.reports:list_deployments",
    "history": "tbupdate.cli.reports:show_history",
    "verify": "tbupdate.cli.reports:verify",
    "diff": "tbupdate.cli.reports:diff",
    "doctor": "tbupdate.cli.reports:examine",
    "commit": "tbupdate.cli.changes:commit",
    "rollback": "tbupdate.cli.changes:rollback",
    "reset": "tbupdate.cli.changes:reset",
    "pin": "tbupdate.cli.changes:pin",
    "remove": "tbupdate.cli.changes:remove",
    "prune": "tbupdate.cli.changes:prune",
    "init": "tbupdate.cli.changes:init",
    "changes": "tbupdate.cli.local:changes",
    "carry": "tbupdate.cli.local:carry_late",
    "health": "tbupdate.cli.assess:assess",
}


@click.group(
    commands=Commands(PLACES),
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="tb-update")
@everywhere
@click.pass_context
def cli(context: click.Context) -> None:
    """Atomic updates of a Linux system on Btrfs: deploy an image, see what happened, keep it or go back."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.result_callback()
@click.pass_context
def _tell(context: click.Context, _result: object) -> None:
    """Whoever does not ask is told by the message of the day and by metrics."""
    from tbupdate.cli.telling import AFTER, refresh  # noqa: PLC0415 - most commands need nothing of it

    if context.invoked_subcommand in AFTER:
        refresh(settings())


def main() -> None:
    """Run one command, and end the process with its exit code."""
    return_pieces(SMALL)
    sys.exit(PROGRAM.main(run))


def run(arguments: list[str]) -> int:
    """Run one command; the exit code."""
    said: dict[str, Any] = {}
    interrupt_on_end()
    if {"-v", "--verbose"} & set(arguments):
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="tb-update: %(message)s")

    def command() -> object:
        with one_document():
            return cli.main(arguments, prog_name="tb-update", standalone_mode=False, obj=said)

    return PROGRAM.run(command, as_json="--json" in arguments)


INTERRUPTED = Failed("interrupted; what was begun is cleared", "See: tb-update status")
PROGRAM = Program("tb-update", print_error, INTERRUPTED, "See: tb-update doctor")
