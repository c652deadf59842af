"""The command that shows images: as a summary, a tree, an account of bytes, one file's difference, or the news."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbdiff import show
from tbdiff.cli.terminal import as_json_option, delta_option, keys_option, print_json, ring, signature_option
from tbdiff.completion import files
from tbdiff.entry import printable
from tbdiff.errors import Rejected

if TYPE_CHECKING:
    from tbdiff.image import Image
    from tbdiff.opened import OpenedImage


@click.command("show")
@click.argument("image", shell_complete=files)
@click.option("--operations", is_flag=True, help="Every single change.")
@click.option("--tree", "as_tree", is_flag=True, help="The changes as a tree, with sizes of new content.")
@click.option("--depth", type=click.IntRange(min=0), metavar="N", help="With --tree: no deeper than this.")
@click.option("--why", is_flag=True, help="What the image's bytes are spent on, by cause and by file.")
@click.option("--diff", "path", metavar="PATH", help="The difference that it makes to one text file.")
@click.option(
    "--base", type=click.Path(path_type=Path), metavar="TREE", help="With --diff: the tree that the image starts from."
)
@click.option("--since", metavar="IMAGE", help="What is new against what that image leads to.", shell_complete=files)
@click.option(
    "--over",
    multiple=True,
    metavar="IMAGE",
    help="With --since: leads to what one of both starts from; repeatable.",
)
@keys_option
@signature_option
@delta_option
@as_json_option
def show_image(
    image: str,
    operations: bool,
    as_tree: bool,
    depth: int | None,
    why: bool,
    path: str | None,
    base: Path | None,
    since: str | None,
    over: tuple[str, ...],
    keys: Path | None,
    as_json: bool,
    **tarball: Any,
) -> None:
    """Say who made IMAGE, where it leads, and what it changes. Of what `tbdiff rotate` wrote: which keys it names."""
    from tbdiff import rotation  # noqa: PLC0415
    from tbdiff.image import open_image  # noqa: PLC0415

    if sum((operations, as_tree, why, path is not None, since is not None)) > 1:
        raise click.UsageError("--operations, --tree, --why, --diff and --since are five views: ask for one")
    if (depth is not None and not as_tree) or (base is not None and path is None) or (over and since is None):
        raise click.UsageError("--depth goes with --tree, --base with --diff, and --over with --since")
    if since is not None:
        _since(image, since, over, keys, as_json)
        return
    if rotation.is_chain(Path(image)):
        from tbdiff.cli.statements import say  # noqa: PLC0415

        say(Path(image), rotation.read(Path(image)), as_json)
        return
    with open_image(image, ring(keys), **tarball) as opened:
        if as_tree:
            _tree(opened, depth, as_json)
        elif why:
            _why(_own(opened, image), as_json)
        elif path is not None:
            _diff(_own(opened, image), path, base, as_json)
        else:
            _summary(opened, operations, as_json)


def _summary(opened: OpenedImage, operations: bool, as_json: bool) -> None:
    found = opened.changes()
    arguments = (opened.manifest, opened.digest, opened.signers, opened.claimed_signers, found)
    if as_json:
        click.echo(json.dumps(show.as_json(*arguments, everything=operations), ensure_ascii=False))
    else:
        for text in show.as_text(*arguments, everything=operations):
            click.echo(text)


def _since(image: str, base: str, over: tuple[str, ...], keys: Path | None, as_json: bool) -> None:
    from tbdiff import since  # noqa: PLC0415
    from tbdiff.between import news_between  # noqa: PLC0415 - it can make images, too

    found = news_between(base, image, over=over, keys=ring(keys))
    if as_json:
        print_json(since.as_json(*found))
    else:
        for text in since.as_text(*found):
            click.echo(text)


def _own(opened: OpenedImage, name: str) -> Image:
    from tbdiff.image import Image  # noqa: PLC0415

    if not isinstance(opened, Image):
        raise Rejected(f"{name} is in another form than tbdiff's own, of which only the changes can be shown")
    return opened


def _tree(opened: OpenedImage, depth: int | None, as_json: bool) -> None:
    from tbdiff import outline  # noqa: PLC0415

    found = opened.changes()
    unnamed = sum(change.path is None for change in found)
    root = outline.outline(found)
    if as_json:
        print_json({"tree": outline.as_json(root, depth), "unnamed": unnamed})
        return
    for text in outline.as_text(root, depth):
        click.echo(text)
    if unnamed:
        click.echo(f"({unnamed:,} more change only in owner, mode, time or attributes; their names are in the base)")


def _why(opened: Image, as_json: bool) -> None:
    costs = opened.costs()
    if as_json:
        print_json(show.costs_json(costs))
    else:
        for text in show.costs_text(costs):
            click.echo(text)


def _diff(opened: Image, path: str, base: Path | None, as_json: bool) -> None:
    from tbdiff.filediff import file_diff  # noqa: PLC0415

    found = file_diff(opened, os.fsencode(path).strip(b"/"), base)
    if as_json:
        source = None if found.source is None else printable(found.source)
        print_json({"path": path, "source": source, "diff": found.diff, "note": found.note or None})
    elif found.diff is None:
        click.echo(found.note)
    else:
        # Whoever made the image must not have a say in what a terminal does.
        click.echo(_harmless(found.diff) if sys.stdout.isatty() else found.diff, nl=False)


def _harmless(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
