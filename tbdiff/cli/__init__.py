"""The command line of tbdiff: the only place of the package that prints and that ends the process."""

from __future__ import annotations

import json
import os
import sys

import click

from tbdiff import __version__, show
from tbdiff.errors import Failed, NothingToDo, Rejected, Stop

EPILOG = """\b
Exit codes:
  0  done
  1  failed: it could not be done
  2  usage: there is no such command or option
  3  rejected: it was refused, and nothing was changed
  4  nothing to do
"""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tbdiff")
def cli() -> None:
    """Signed images that turn one root tree into another, exactly."""


def _add_commands() -> None:
    from tbdiff.cli import making, showing, using  # noqa: PLC0415 - a library that does not load is an error like others

    for command in (
        making.create,
        making.convert,
        making.squash,
        making.sign,
        making.keygen,
        making.show_encoders,
        using.apply,
        showing.show_image,
        using.verify,
        using.digest,
    ):
        cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run one command, and end the process with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command; the exit code."""
    as_json = "--json" in arguments
    try:
        _add_commands()
        cli.main(arguments, prog_name="tbdiff", standalone_mode=False)
        sys.stdout.flush()
    except Stop as stop:
        return _ended(stop, as_json)
    except click.ClickException as error:
        return _ended(Stop(error.format_message(), "See: tbdiff --help"), as_json, code=2)
    except (KeyboardInterrupt, click.Abort):
        return _ended(Failed("interrupted"), as_json)
    except BrokenPipeError:
        # Whoever read along has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _ended(Failed(f"{where}{error.strerror or error}"), as_json)
    return 0


def _ended(stop: Stop, as_json: bool, code: int | None = None) -> int:
    kinds = {Failed: "failed", Rejected: "rejected", NothingToDo: "nothing-to-do", Stop: "usage"}
    if as_json:
        error = {"kind": kinds[type(stop)], "message": str(stop), "remedy": stop.remedy}
        click.echo(json.dumps({"format_version": show.FORMAT_VERSION, "error": error}, ensure_ascii=False))
    click.echo(f"tbdiff: {stop}" + (f"\n{stop.remedy}" if stop.remedy else ""), err=True)
    return stop.exit_code if code is None else code
