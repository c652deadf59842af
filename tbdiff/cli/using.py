"""The commands that use images and look at trees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tbdiff import progress
from tbdiff.cli.terminal import (
    as_json_option,
    delta_option,
    keys_option,
    notice,
    print_json,
    progress_option,
    ring,
    say_if_unchecked,
    signature_option,
)
from tbdiff.completion import files
from tbdiff.errors import Failed, Rejected
from tbdiff.memory import SMALL, return_pieces


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", shell_complete=files)
@click.argument("tree", type=click.Path(path_type=Path))
@keys_option
@signature_option
@delta_option
@click.option(
    "--keep-fetched",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep here what comes from a URL until it is applied: after a cut, the same command goes on from there.",
)
@progress_option
@as_json_option
def apply(
    images: tuple[str, ...],
    tree: Path,
    keys: Path | None,
    how: str,
    as_json: bool,
    signature: str | None,
    delta: bool | None,
    keep_fetched: Path | None,
) -> None:
    """Turn TREE, which must be the base of IMAGE (a file, "-" or a URL), into its target.

    Several images that follow one on the other are checked together, and applied one by one.
    """
    from tbdiff.chain import apply_chain, opened_chain  # noqa: PLC0415
    from tbdiff.writer import sync  # noqa: PLC0415

    if len(images) > 1 and (signature is not None or delta is not None):
        raise click.UsageError("--signature and --delta are for a single tarball")
    return_pieces(SMALL)
    trusted = ring(keys)
    if keep_fetched is not None:
        try:
            keep_fetched.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Failed(f"{keep_fetched} cannot be made: {error.strerror}; nothing was changed") from None
    opening = opened_chain(images, trusted, signature=signature, delta=delta, kept=keep_fetched)
    with progress.shown(how) as report, opening as links:
        say_if_unchecked(keys)
        listing = apply_chain(links, tree, trusted, report, notice)
        sync(tree)
    if as_json:
        print_json({"tree": str(tree), "digest": listing.digest.hex(), "entries": len(listing)})
    else:
        click.echo(f"{tree} is now tree {listing.digest.hex()[:16]}… ({len(listing):,} entries).")


@click.command()
@click.argument("image", shell_complete=files)
@click.argument("tree", required=False, type=click.Path(path_type=Path))
@keys_option
@signature_option
@delta_option
@as_json_option
@progress_option
def verify(image: str, tree: Path | None, keys: Path | None, as_json: bool, how: str, **tarball: Any) -> None:
    """Check every byte of IMAGE; with TREE, that the tree is exactly the image's target."""
    from tbdiff.image import open_image  # noqa: PLC0415
    from tbdiff.tree import read_tree  # noqa: PLC0415

    with progress.shown(how) as report, open_image(image, ring(keys), **tarball) as opened:
        say_if_unchecked(keys)
        opened.check(report)
        wanted, signers = opened.manifest.target.tree, opened.signers
        found = read_tree(tree, progress=report).digest.hex() if tree else None
    if found is not None and found != wanted:
        if wanted is None:
            raise Rejected(f"{image} does not say which tree it leads to, so {tree} cannot be held against it")
        raise Failed(
            f"{tree} is not the target of {image}: it is tree {found[:16]}…, the target is {wanted[:16]}…",
            "`tbdiff show --operations` tells what the image changes.",
        )
    if as_json:
        print_json({"image": image, "whole": True, "signers": list(signers), "tree": found})
    else:
        by = f"signed by {', '.join(signers)}" if signers else "its signature was not asked for"
        click.echo(f"{image} is whole; {by}." + (f" {tree} is exactly its target." if tree else ""))


@click.command()
@click.argument("tree", type=click.Path(path_type=Path))
@as_json_option
@progress_option
def digest(tree: Path, as_json: bool, how: str) -> None:
    """Print the digest of TREE: the same for two trees exactly if they are the same in everything an image carries."""
    from tbdiff.tree import read_tree  # noqa: PLC0415

    with progress.shown(how) as report:
        listing = read_tree(tree, progress=report, notice=notice)
    if as_json:
        print_json({"digest": listing.digest.hex(), "entries": len(listing), "size": listing.content_size})
    else:
        click.echo(listing.digest.hex())
