"""What the commands of tbdiff have in common: options, and how results and notices are printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tbdiff import show

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
progress_option = click.option(
    "--progress", "how", type=click.Choice(["auto", "json", "none"]), default="auto", help="Progress on stderr."
)
keys_option = click.option(
    "--keys",
    metavar="DIR|FILE",
    type=click.Path(exists=True, path_type=Path),
    help="Trust only images signed by these keys (*.pub); without it no signature is looked at.",
)

signature_option = click.option(
    "--signature", metavar="FILE|URL", help="A tarball's signature, where it is not beside it as IMAGE.sig."
)
delta_option = click.option(
    "--delta", is_flag=True, default=None, help="A tarball that is a layer over a base (OCI whiteouts), no full system."
)
scratch_option = click.option(
    "--scratch",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where to build the result for a while; best on the Btrfs that holds the base. Default: where the image goes.",
)
platform_option = click.option(
    "--platform", metavar="OS/ARCHITECTURE", help="Which image of an OCI image layout is meant, where it holds several."
)


def ring(keys: Path | None) -> Any:
    if keys is None:
        return None
    from tbdiff.signature import KeyRing  # noqa: PLC0415 - a library that who asks for no signature has no use for

    return KeyRing.load(keys) if keys.is_dir() else KeyRing.of([keys])


def notice(text: str) -> None:
    click.echo(f"tbdiff: {text}", err=True)


def print_json(fields: dict[str, Any]) -> None:
    click.echo(json.dumps({"format_version": show.FORMAT_VERSION} | fields, ensure_ascii=False))


def say_if_unchecked(keys: Path | None) -> None:
    if keys is None:
        click.echo("tbdiff: no --keys were given, so nobody's signature was asked for", err=True)
