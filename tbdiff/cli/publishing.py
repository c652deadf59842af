"""The command that puts images where devices find them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbdiff import progress
from tbdiff.cli.terminal import as_json_option, print_json, progress_option

if TYPE_CHECKING:
    from tbdiff.index import Index

key_option = click.option(
    "--key", required=True, type=click.Path(path_type=Path), help="Sign the index with this private key."
)
days_option = click.option(
    "--days",
    type=click.IntRange(min=1, max=3650),
    default=30,
    help="How long devices go by this index; renew it before. Default: 30.",
)


@click.command()
@click.argument("images", nargs=-1, type=click.Path(path_type=Path), metavar="[IMAGE]...")
@click.option(
    "--to",
    "folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The folder that a web server serves, or that goes onto a stick.",
)
@click.option(
    "--channel", default="stable", metavar="NAME", help="The channel that the releases go to; default: stable."
)
@key_option
@days_option
@click.option(
    "--trust",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Which keys are trusted, as `tbdiff rotate` wrote it.",
)
@as_json_option
@progress_option
def publish(
    images: tuple[Path, ...],
    folder: Path,
    channel: str,
    key: Path,
    days: int,
    trust: Path | None,
    as_json: bool,
    how: str,
) -> None:
    """Put signed IMAGEs into the folder DIR and their releases into its index; without any, renew the index.

    Of several new releases, the one that is named last is the newest.
    """
    from tbdiff.publish import publish as into_folder  # noqa: PLC0415 - devices never publish

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+~:@-]{0,99}", channel):
        raise click.UsageError("--channel: letters, digits and any of . _ + ~ : @ - only, and none of these first")
    with progress.shown(how) as report:
        index = into_folder(images, folder, channel, key, days, report, trust)
    _say(folder, index, channel, as_json)


@click.command()
@click.argument("release")
@click.option("--from", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The folder.")
@click.option("--channel", metavar="NAME", help="Only out of this channel; default: out of all.")
@key_option
@days_option
@as_json_option
def withdraw(release: str, folder: Path, channel: str | None, key: Path, days: int, as_json: bool) -> None:
    """Take RELEASE (its version, or its tree digest) out of the folder DIR: no device goes to it any more."""
    from tbdiff.publish import withdraw as out_of_folder  # noqa: PLC0415

    index = out_of_folder(release, folder, channel, key, days)
    _say(folder, index, channel or next(iter(index.channels)), as_json)


def _say(folder: Path, index: Index, channel: str, as_json: bool) -> None:
    newest = index.channels.get(channel, ())[-1:]
    release = index.release_of(newest[0]) if newest else None
    if as_json:
        shown = {"index": str(folder / "index.json"), "version": index.version, "expires": index.expires}
        print_json(shown | {"channel": channel, "newest": release.model_dump(mode="json") if release else None})
        return
    said = f"{release.called} is the newest of {channel}" if release else ""
    click.echo(f"{folder}: index {index.version}, {len(index.images)} images{f'; {said}' if said else ''}.")
    click.echo(
        f"Devices go by it until {index.expires}; renew it before by publishing again, with an image or without."
    )
