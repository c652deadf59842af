"""The command line of tbdiff: the only place of the package that prints and that ends the process."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from tbdiff import __version__, progress, show
from tbdiff.errors import Failed, NothingToDo, Rejected, Stop

EPILOG = """\b
Exit codes:
  0  done
  1  failed: it could not be done
  2  usage: there is no such command or option
  3  rejected: it was refused, and nothing was changed
  4  nothing to do
"""

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


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tbdiff")
def cli() -> None:
    """Signed images that turn one root tree into another, exactly."""


@cli.command()
@click.argument("trees", nargs=-1, required=True, metavar="[BASE] TARGET")
@click.option("-o", "--output", "out", required=True, metavar="IMAGE", help="The image to write.")
@click.option("--full", is_flag=True, help="Make a full image: TARGET out of nothing, no BASE.")
@click.option("--name", default="", help="What the system is called.")
@click.option("--release", metavar="VERSION", help="The version of the system.")
@click.option(
    "--device-type", "device_types", multiple=True, metavar="TYPE", help="Only for these devices; repeatable."
)
@click.option("--epoch", type=click.IntRange(min=0), default=0, help="Devices refuse images of a lower epoch later on.")
@click.option("--kernel", metavar="PATH", help="The kernel in TARGET, where it is not in a usual place.")
@click.option("--initrd", metavar="PATH", help="The initrd in TARGET, likewise.")
@click.option("--devicetree", metavar="PATH", help="The device tree in TARGET, likewise.")
@click.option("--key", type=click.Path(path_type=Path), help="Sign with this private key.")
@click.option(
    "--effort", type=click.Choice(["fast", "default", "best"]), default="default", help="How hard to compress."
)
@click.option("--legacy", is_flag=True, help="In the original format (TBDIFFv0), for its deploy tool; not signed.")
@as_json_option
@progress_option
def create(trees: tuple[str, ...], out: str, full: bool, legacy: bool, as_json: bool, how: str, **said: Any) -> None:
    """Write an image that turns a copy of the tree BASE into the tree TARGET."""
    from tbdiff.create import Label, create_image  # noqa: PLC0415 - devices never make images

    if len(trees) != (1 if full else 2):
        raise click.UsageError("name TARGET only with --full, else BASE and TARGET")
    base = None if full else Path(trees[0])
    if legacy:
        _create_legacy(base, Path(trees[-1]), Path(out), as_json, how, said)
        return
    key, effort = said.pop("key"), said.pop("effort")
    try:
        label = Label(**said)
        with progress.shown(how) as report:
            manifest = create_image(
                base, Path(trees[-1]), Path(out), label=label, key=key, effort=effort, progress=report, notice=_notice
            )
    except ValueError as error:
        raise click.UsageError(_invalid(error)) from None
    written = Path(out).stat().st_size
    if as_json:
        _print_json({"image": out, "size": written, "manifest": manifest.model_dump(mode="json")})
    else:
        signed = "signed" if key else "not signed"
        click.echo(f"{out}: {show.size(written)}, {signed}, leads to tree {(manifest.target.tree or '')[:16]}…")


def _create_legacy(base: Path | None, target: Path, out: Path, as_json: bool, how: str, said: dict[str, Any]) -> None:
    from tbdiff.legacycreate import create_legacy  # noqa: PLC0415

    told = [option for option, value in said.items() if value and (option, value) != ("effort", "default")]
    if told:
        raise click.UsageError(f"the legacy format has no place for what --{told[0].replace('_', '-')} says")
    with progress.shown(how) as report:
        written = create_legacy(base, target, out, progress=report, notice=_notice)
    if as_json:
        _print_json({"image": str(out), "size": written})
    else:
        click.echo(f"{out}: {show.size(written)}, in the legacy format, not signed")


def _invalid(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    first = errors(include_url=False)[0]
    return f"--{'-'.join(str(part) for part in first['loc'][:1]).replace('_', '-')}: {first['msg']}"


@cli.command()
@click.argument("image")
@click.argument("tree", type=click.Path(path_type=Path))
@keys_option
@signature_option
@delta_option
@progress_option
@as_json_option
def apply(image: str, tree: Path, keys: Path | None, how: str, as_json: bool, **tarball: Any) -> None:
    """Turn TREE, which must be the base of IMAGE (a file, "-" or a URL), into its target."""
    from tbdiff.image import open_image  # noqa: PLC0415
    from tbdiff.writer import sync  # noqa: PLC0415

    with progress.shown(how) as report, open_image(image, _ring(keys), **tarball) as opened:
        _say_if_unchecked(keys)
        listing = opened.apply(tree, progress=report)
        sync(tree)
        for text in opened.notices:
            _notice(text)
    if as_json:
        _print_json({"tree": str(tree), "digest": listing.digest.hex(), "entries": len(listing)})
    else:
        click.echo(f"{tree} is now tree {listing.digest.hex()[:16]}… ({len(listing):,} entries).")


def _say_if_unchecked(keys: Path | None) -> None:
    if keys is None:
        click.echo("tbdiff: no --keys were given, so nobody's signature was asked for", err=True)


@cli.command("show")
@click.argument("image")
@click.option("--operations", is_flag=True, help="Every single change.")
@keys_option
@signature_option
@delta_option
@as_json_option
def show_image(image: str, operations: bool, keys: Path | None, as_json: bool, **tarball: Any) -> None:
    """Say who made IMAGE, where it leads, and what it changes."""
    from tbdiff.image import open_image  # noqa: PLC0415

    with open_image(image, _ring(keys), **tarball) as opened:
        found = opened.changes()
        signers = opened.signers or opened.claimed_signers
        arguments = (opened.manifest, opened.digest, signers, found)
        if as_json:
            click.echo(json.dumps(show.as_json(*arguments, everything=operations), ensure_ascii=False))
        else:
            for text in show.as_text(*arguments, everything=operations):
                click.echo(text)


@cli.command()
@click.argument("image")
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

    with progress.shown(how) as report, open_image(image, _ring(keys), **tarball) as opened:
        _say_if_unchecked(keys)
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
        _print_json({"image": image, "whole": True, "signers": list(signers), "tree": found})
    else:
        by = f"signed by {', '.join(signers)}" if signers else "its signature was not asked for"
        click.echo(f"{image} is whole; {by}." + (f" {tree} is exactly its target." if tree else ""))


@cli.command()
@click.argument("tree", type=click.Path(path_type=Path))
@as_json_option
@progress_option
def digest(tree: Path, as_json: bool, how: str) -> None:
    """Print the digest of TREE: the same for two trees exactly if they are the same in everything an image carries."""
    from tbdiff.tree import read_tree  # noqa: PLC0415

    with progress.shown(how) as report:
        listing = read_tree(tree, progress=report, notice=_notice)
    if as_json:
        _print_json({"digest": listing.digest.hex(), "entries": len(listing), "size": listing.content_size})
    else:
        click.echo(listing.digest.hex())


@cli.command()
@click.argument("key", type=click.Path(path_type=Path))
@as_json_option
def keygen(key: Path, as_json: bool) -> None:
    """Write a new private key to KEY and its public key to KEY.pub."""
    from tbdiff.signature import create_key  # noqa: PLC0415

    made = create_key(key)
    if as_json:
        _print_json({"key": str(key), "public": f"{key}.pub", "id": made})
    else:
        click.echo(f"{key} is the private key: keep it secret. {key}.pub ({made}) goes to whom your images are for.")


@cli.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="The private key.")
@click.option("--name", default="", help="For a tarball: what the system is called.")
@click.option("--release", metavar="VERSION", help="For a tarball: the version of the system.")
@click.option("--device-type", "device_types", multiple=True, metavar="TYPE", help="For a tarball: only these devices.")
@click.option("--epoch", type=click.IntRange(min=0), default=0, help="For a tarball: its epoch.")
@click.option("--delta", is_flag=True, help="For a tarball: it is a layer over a base (OCI whiteouts), no full system.")
@as_json_option
def sign(image: Path, key: Path, delta: bool, as_json: bool, **said: Any) -> None:
    """Sign IMAGE, which stays the same in all else; a tarball's signature goes to IMAGE.sig."""
    from tbdiff.signing import sign_image  # noqa: PLC0415

    try:
        place = sign_image(image, key)
        if place is None:
            from tbdiff.tarsigning import sign_tarball  # noqa: PLC0415

            place = sign_tarball(image, key, delta=delta, **said)
        elif delta or any(said.values()):
            click.echo(
                "tbdiff: what an image says of itself was fixed when it was made; only its signature is new", err=True
            )
    except ValueError as error:
        raise click.UsageError(_invalid(error)) from None
    if as_json:
        _print_json({"image": str(image), "signature": str(place)})
    else:
        click.echo(f"{place} holds the signature.")


@cli.command()
@click.argument("image")
@click.argument("base", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="The image to write.")
@click.option("--name", default="", help="What the system is called.")
@click.option("--release", metavar="VERSION", help="The version of the system.")
@click.option("--device-type", "device_types", multiple=True, metavar="TYPE", help="Only for these devices.")
@click.option("--epoch", type=click.IntRange(min=0), default=0, help="The epoch of the system.")
@click.option("--key", type=click.Path(path_type=Path), help="Sign with this private key.")
@click.option(
    "--scratch",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where to build the result for a while; best on the Btrfs that holds BASE. Default: where the image goes.",
)
@keys_option
@signature_option
@delta_option
@progress_option
@as_json_option
def convert(
    image: str,
    base: Path | None,
    out: Path,
    key: Path | None,
    scratch: Path | None,
    keys: Path | None,
    signature: str | None,
    delta: bool | None,
    how: str,
    as_json: bool,
    **said: Any,
) -> None:
    """Make an image of IMAGE, a tarball or one of the legacy format, and of the tree BASE where it goes over one."""
    from tbdiff import convert as conversion  # noqa: PLC0415 - devices never make images
    from tbdiff.create import Label  # noqa: PLC0415

    _say_if_unchecked(keys)
    try:
        with progress.shown(how) as report:
            manifest = conversion.convert(
                image,
                base,
                out,
                keys=_ring(keys),
                signature=signature,
                delta=delta,
                scratch=scratch,
                label=Label(**said),
                key=key,
                progress=report,
                notice=_notice,
            )
    except ValueError as error:
        raise click.UsageError(_invalid(error)) from None
    if as_json:
        _print_json({"image": str(out), "size": out.stat().st_size, "manifest": manifest.model_dump(mode="json")})
    else:
        signed = "signed" if key else "not signed"
        found = (manifest.target.tree or "")[:16]
        click.echo(f"{out}: {show.size(out.stat().st_size)}, {signed}, leads to tree {found}…")


def _ring(keys: Path | None) -> Any:
    from tbdiff.signature import KeyRing  # noqa: PLC0415

    if keys is None:
        return None
    return KeyRing.load(keys) if keys.is_dir() else KeyRing.of([keys])


def _notice(text: str) -> None:
    click.echo(f"tbdiff: {text}", err=True)


def _print_json(fields: dict[str, Any]) -> None:
    click.echo(json.dumps({"format_version": show.FORMAT_VERSION} | fields, ensure_ascii=False))


def main(arguments: list[str] | None = None) -> None:
    """Run one command, and end the process with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command; the exit code."""
    as_json = "--json" in arguments
    try:
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


if __name__ == "__main__":
    main()
