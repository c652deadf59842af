"""The program `tb-server`: it runs the server, and is a client of its API."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

import tbdiff
from tbdiff.console import Program, safe
from tbdiff.errors import Failed, Rejected
from tbserver.commands import COMMANDS, ROLES

EPILOG = """\b
Exit codes:
  0  done
  1  failed
  2  usage
  3  rejected; nothing was changed
  4  nothing to do
"""


@click.group(epilog=EPILOG, invoke_without_command=True)
@click.version_option(tbdiff.__version__, prog_name="tb-server")
@click.pass_context
def cli(context: click.Context) -> None:
    """Run a fleet server, or steer one."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _settings(**said: Any) -> Any:
    from tbserver.settings import DeltaMaking, Settings, parse_networks  # noqa: PLC0415

    making = {name.removeprefix("delta_"): said.pop(name) for name in [*said] if name.startswith("delta_")}
    for name in ("memory", "budget"):
        if name in making:
            making[name] <<= 20
    return Settings(proxies=parse_networks(said.pop("proxies", ())), making=DeltaMaking(**making), **said)


def _places(command: Any) -> Any:
    for option in (
        click.option(
            "--artifacts",
            metavar="URL",
            default="",
            envvar="TB_SERVER_ARTIFACTS",
            help="Where artifacts are kept; s3://BUCKET/…, by default in DIR.",
        ),
        click.option(
            "--database",
            metavar="URL",
            default="",
            envvar="TB_SERVER_DATABASE",
            help="Where records are kept; postgresql://…, by default an SQLite file in DIR.",
        ),
        click.option(
            "--data",
            metavar="DIR",
            type=click.Path(file_okay=False, path_type=Path),
            default="tb-server-data",
            show_default=True,
            envvar="TB_SERVER_DATA",
            help="The directory of the server.",
        ),
    ):
        command = option(command)
    return command


_delivery_key = click.option(
    "--delivery-key",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The private key that signs deltas; by default in DIR. It is made if it is not there.",
)


def _making(command: Any) -> Any:
    """How deltas are made."""
    number = click.IntRange(min=1)
    for option in (
        click.option(
            "--delta-budget", metavar="MIB", type=number, default=10240, help="For all deltas made.", **_SHOWN
        ),
        click.option(
            "--delta-memory", metavar="MIB", type=number, default=1024, help="For one that is made.", **_SHOWN
        ),
        click.option("--delta-seconds", type=number, default=3600, help="For one that is made.", **_SHOWN),
        click.option("--delta-encoders", metavar="WHICH", default="common", help="As for `tbdiff delta`.", **_SHOWN),
        click.option(
            "--delta-effort",
            type=click.Choice(["fast", "default", "best"]),
            default="default",
            help="As for `tbdiff delta`.",
            **_SHOWN,
        ),
        click.option(
            "--delta-makers", type=click.IntRange(0, 64), default=1, help="Deltas made at a time; 0: none.", **_SHOWN
        ),
        _delivery_key,
    ):
        command = option(command)
    return command


_SHOWN: dict[str, Any] = {"show_default": True}


@cli.command()
@_places
@_making
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:8480", show_default=True, help="Where to answer.")
@click.option(
    "--url", metavar="URL", default="", help="What devices and people call this server, if something is in between."
)
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="A proxy whose word about who is behind it counts; repeatable.",
)
@click.option(
    "--poll-seconds", type=click.IntRange(30, 86399), default=300, show_default=True, help="How often a device asks."
)
@click.option("--private-webhooks", is_flag=True, help="Webhooks may be in the own network, and without TLS.")
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False), help="Speak TLS with this certificate (PEM).")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False), help="... and this key (PEM).")
def serve(listen: str, tls_cert: str | None, tls_key: str | None, **said: Any) -> None:
    """Run the server."""
    if tls_key is not None and tls_cert is None:
        raise click.UsageError("--tls-key goes with --tls-cert; nothing was done")
    from tbserver.serving import serve as run  # noqa: PLC0415 - a client needs none of it

    run(_settings(**said), listen, tls_cert, tls_key)


@cli.command()
@click.option(
    "--data", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), help="Keep it here; by default nowhere."
)
@click.option("--devices", type=click.IntRange(1, 10000), default=200, show_default=True, help="How many there are.")
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:8480", show_default=True, help="Where to answer.")
def demo(data: Path | None, devices: int, listen: str) -> None:
    """Run a server with a fleet of simulated devices, to look at."""
    from tbserver.serving import show  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="tb-server-demo-") as place:
        show(_settings(data=data or Path(place)), listen, devices)


@cli.command()
@_places
@click.option(
    "--to", metavar="REVISION", default="head", show_default=True, help="The schema to go to; `base` for none."
)
def migrate(to: str, **said: Any) -> None:
    """Bring the schema of the database up to date (`serve` does so itself), or back."""
    from tbserver import database  # noqa: PLC0415

    settings = _settings(**said)
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    records = database.Database(settings.database_url)
    database.migrate(records, to)
    click.echo(f"The schema is {database.revision(records) or 'gone'}.")


@cli.command()
@_places
@click.option("--role", type=ROLES, default="operator", show_default=True, help="What it may.")
@click.option("--tenant", default="default", show_default=True, help="Of which tenant.")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long it is good.")
@click.argument("name")
def token(name: str, role: str, tenant: str, days: int, **said: Any) -> None:
    """Make an account and an API token for a program, where the server is: none is needed for it."""
    from tbserver import accounts, database  # noqa: PLC0415

    records = database.Database(_settings(**said).database_url)
    if database.revision(records) != database.newest():
        raise Rejected(
            "there are no records of this program here; nothing was done",
            "Name them with --data or --database; or start this tb-server once, which makes or renews them.",
        )
    with records.writing() as session:
        click.echo(accounts.create_local_token(session, tenant, name, accounts.Role.of(role), days))


@cli.command()
@_places
@click.option(
    "--delivery-key",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The key that signs deltas, if it is not in DIR.",
)
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def backup(directory: Path, **said: Any) -> None:
    """Copy all that a server keeps to DIRECTORY, while it runs; again, to bring the copy up to date."""
    from tbserver.backup import back_up  # noqa: PLC0415

    missing = back_up(_settings(**said), directory)
    if missing:
        click.echo(missing, err=True)
    click.echo(f"To start a server from the copy: tb-server serve --data {shlex.quote(str(directory))}")


@cli.command("delivery-key")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_delivery_key
@_places
def show_delivery_key(*, as_json: bool, **said: Any) -> None:
    """Say how devices come to trust the key that signs deltas; it is made if it is not there."""
    from tbserver import delivery  # noqa: PLC0415

    settings = _settings(**said)
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    words = delivery.advice(settings)
    key, pem = delivery.known(settings) or (delivery.ready(settings), "")
    told = {"format_version": 1, "key_id": key.key_id.hex(), "pem": pem, "file": str(delivery.public_file(settings))}
    click.echo(json.dumps(told) if as_json else f"{words}\n{pem}")


for _command in COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Run one command, and end the process with its exit code."""
    logging.captureWarnings(capture=True)
    sys.exit(PROGRAM.main(run))


def run(arguments: list[str]) -> int:
    """Run one command; the exit code."""

    def command() -> object:
        try:
            return cli.main(arguments, prog_name="tb-server", standalone_mode=False)
        except UnicodeDecodeError as error:
            raise Failed(
                "a file that was named holds no text", "Name another one, and start the command again."
            ) from error
        except (click.Abort, KeyboardInterrupt):
            # So a server is stopped at a terminal: nobody needs to be told.
            return STOPPED

    return PROGRAM.run(command, as_json="--json" in arguments)


def _report(kind: str, message: str, remedy: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"format_version": 1, "error": {"kind": kind, "message": message, "remedy": remedy}}))
    for line in filter(None, (f"tb-server: {message}", remedy)):
        click.echo(safe(line), err=True)


STOPPED = 130
PROGRAM = Program("tb-server", _report, Failed("interrupted"), "See to it, and start the command again.")
