"""The commands that make images and keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from tbdiff import progress, show
from tbdiff.cli.terminal import (
    as_json_option,
    delta_option,
    keys_option,
    notice,
    platform_option,
    print_json,
    progress_option,
    ring,
    say_if_unchecked,
    scratch_option,
    signature_option,
)
from tbdiff.completion import directories, files
from tbdiff.errors import Rejected
from tbdiff.manifest import misnamed

# Bytes of what `tbdiff encoders --json` writes, at most.
_STATED_MAX = 1 << 20


def encoders_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Which compressors an image may rely on."""
    return click.option(
        "--encoders",
        metavar="all|common|none|FILE",
        default=default,
        show_default=True,
        help="Which compressors a device re-creates packed files with: those of this machine, what all devices have "
        "(zlib, gzip, LZ4), none, or those that `tbdiff encoders --json` wrote there.",
    )


effort_option = click.option(
    "--effort", type=click.Choice(["fast", "default", "best"]), default="default", help="How hard to compress."
)


@click.command()
@click.argument("trees", nargs=-1, required=True, metavar="[BASE] TARGET", shell_complete=directories)
@click.option("-o", "--output", "out", required=True, metavar="IMAGE", help="The image to write.", shell_complete=files)
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
@click.option(
    "--target-of",
    metavar="IMAGE",
    shell_complete=files,
    help="Lead to the target of IMAGE: its statement and signatures are taken over, so --key may be a delivery key.",
)
@click.option("--key", type=click.Path(path_type=Path), help="Sign with this private key.")
@effort_option
@encoders_option("all")
@click.option(
    "--listings",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep what was read of read-only Btrfs snapshots here, so that it is not read again.",
)
@platform_option
@scratch_option
@click.option("--legacy", is_flag=True, help="In the original format (TBDIFFv0), for its deploy tool; not signed.")
@as_json_option
@progress_option
def create(trees: tuple[str, ...], out: str, full: bool, legacy: bool, as_json: bool, how: str, **said: Any) -> None:
    """Write an image that turns a copy of the tree BASE into the tree TARGET."""
    from tbdiff.create import Label, create_image  # noqa: PLC0415 - devices never make images
    from tbdiff.tar.oci import as_tree, is_layout  # noqa: PLC0415

    if len(trees) != (1 if full else 2):
        raise click.UsageError("name TARGET only with --full, else BASE and TARGET")
    layouts = any(is_layout(Path(tree)) for tree in trees)
    if said["platform"] and not layouts:
        raise click.UsageError("--platform chooses in an OCI image layout, and there is none")
    if legacy:
        if layouts:
            raise click.UsageError("--legacy is for trees, not for OCI image layouts")
        _create_legacy(None if full else Path(trees[0]), Path(trees[-1]), Path(out), as_json, how, said)
        return
    key, effort, available = said.pop("key"), said.pop("effort"), _available(said.pop("encoders"))
    listings, target_of = said.pop("listings"), said.pop("target_of")
    platform, scratch = said.pop("platform"), said.pop("scratch") or Path(out).parent
    if target_of and any(said.values()):
        raise click.UsageError("with --target-of all that is said of the target is what that image says")
    try:
        label = Label(**said)
        stated = _stated(target_of) if target_of else None
        with progress.shown(how) as report, ExitStack() as stack:
            held = [stack.enter_context(as_tree(Path(tree), scratch, platform, report)) for tree in trees]
            manifest = create_image(
                None if full else held[0],
                held[-1],
                Path(out),
                label=label,
                stated=stated,
                key=key,
                effort=effort,
                available=available,
                kept=listings,
                progress=report,
                notice=notice,
            )
    except ValueError as error:
        raise click.UsageError(misnamed(error)) from None
    _say_made(Path(out), manifest, as_json, signed=key is not None)


def _stated(image: str) -> Any:
    """The target statement of an image, with its signatures, as `create_image` takes it."""
    from tbdiff.create import Stated  # noqa: PLC0415
    from tbdiff.image import open_image  # noqa: PLC0415

    with open_image(image) as opened:
        return Stated(*opened.stated)


def _available(which: str) -> Any:
    """The compressors that an image may rely on, as `create_image` takes them."""
    from tbdiff import encoders  # noqa: PLC0415

    if which == "none":
        return None
    if which == "all":
        return encoders.available
    if which == "common":
        return encoders.common
    try:
        with open(which, "rb") as file:
            stated = frozenset(json.loads(file.read(_STATED_MAX))["encoders"])
    except OSError as error:
        raise Rejected(
            f"--encoders: {which} cannot be read: {error.strerror}; no image was made",
            "Say all, common or none, or name a file that `tbdiff encoders --json` wrote.",
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Rejected(f"{which} is not what `tbdiff encoders --json` writes; no image was made") from None
    return encoders.stated(stated)


def _create_legacy(base: Path | None, target: Path, out: Path, as_json: bool, how: str, said: dict[str, Any]) -> None:
    from tbdiff.legacy.create import create_legacy  # noqa: PLC0415

    told = [
        option
        for option, value in said.items()
        if value and (option, value) not in (("effort", "default"), ("encoders", "all"))
    ]
    if told:
        raise click.UsageError(f"the legacy format has no place for what --{told[0].replace('_', '-')} says")
    with progress.shown(how) as report:
        written = create_legacy(base, target, out, progress=report, notice=notice)
    if as_json:
        print_json({"image": str(out), "size": written})
    else:
        click.echo(f"{out}: {show.size(written)}, in the legacy format, not signed")


@click.command()
@click.argument("image", shell_complete=files)
@click.argument("base", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="The image to write.")
@click.option("--name", default="", help="What the system is called.")
@click.option("--release", metavar="VERSION", help="The version of the system.")
@click.option("--device-type", "device_types", multiple=True, metavar="TYPE", help="Only for these devices.")
@click.option("--epoch", type=click.IntRange(min=0), default=0, help="The epoch of the system.")
@click.option("--key", type=click.Path(path_type=Path), help="Sign with this private key.")
@platform_option
@scratch_option
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
    platform: str | None,
    how: str,
    as_json: bool,
    **said: Any,
) -> None:
    """Make of IMAGE, in whatever form, and of the tree BASE where it goes over one, an image or (*.tar*) a tarball."""
    from tbdiff import convert as conversion  # noqa: PLC0415 - devices never make images
    from tbdiff.create import Label  # noqa: PLC0415
    from tbdiff.tar.writer import packing_of_name  # noqa: PLC0415

    say_if_unchecked(keys)
    tarball = packing_of_name(out.name) is not None
    if tarball and key is None and any(said.values()):
        raise click.UsageError("a tarball says nothing of itself; its signature does: name a --key")
    source = {"keys": ring(keys), "signature": signature, "delta": delta, "platform": platform, "scratch": scratch}
    try:
        label = Label(**said)
        with progress.shown(how) as report:
            if tarball:
                listing = conversion.convert_to_tar(image, base, out, **source, progress=report, notice=notice)
            else:
                manifest = conversion.convert(
                    image, base, out, **source, label=label, key=key, progress=report, notice=notice
                )
        if not tarball:
            _say_made(out, manifest, as_json, signed=key is not None)
            return
        if key:
            from tbdiff.tar.signing import sign_tarball  # noqa: PLC0415

            sign_tarball(out, key, **said)
    except ValueError as error:
        raise click.UsageError(misnamed(error)) from None
    tree, written = listing.digest.hex(), out.stat().st_size
    if as_json:
        print_json({"image": str(out), "size": written, "tree": tree, "signature": f"{out}.sig" if key else None})
    else:
        signed = f"signed by {out}.sig" if key else "not signed"
        click.echo(f"{out}: {show.size(written)}, {signed}, a tarball of tree {tree[:16]}…")


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE IMAGE...", shell_complete=files)
@click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="The image to write.")
@click.option("--base", type=click.Path(path_type=Path), metavar="TREE", help="The tree that the first starts from.")
@click.option("--key", type=click.Path(path_type=Path), help="Sign with this key; a delivery key is enough.")
@effort_option
@scratch_option
@keys_option
@progress_option
@as_json_option
def squash(
    images: tuple[str, ...], out: Path, base: Path | None, keys: Path | None, how: str, as_json: bool, **said: Any
) -> None:
    """Make one image of consecutive ones: it does at once what they do one after the other."""
    from tbdiff import squash as squashing  # noqa: PLC0415 - devices never make images

    if len(images) < 2:
        raise click.UsageError("name two images at least")
    say_if_unchecked(keys)
    with progress.shown(how) as report:
        manifest = squashing.squash(images, base, out, keys=ring(keys), progress=report, notice=notice, **said)
    _say_made(out, manifest, as_json, signed=said["key"] is not None)


@click.command()
@click.argument("base", metavar="BASE")
@click.argument("target", metavar="TARGET")
@click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="The image to write.")
@click.option("--over", multiple=True, metavar="IMAGE", help="What BASE or TARGET starts from, if it does; repeatable.")
@click.option("--key", type=click.Path(path_type=Path), help="Sign with this key; a delivery key is enough.")
@effort_option
@encoders_option("common")
@scratch_option
@keys_option
@progress_option
@as_json_option
def delta(base: str, target: str, out: Path, keys: Path | None, how: str, as_json: bool, **said: Any) -> None:
    """Write an image from what the image BASE leads to, to what the image TARGET does; no tree is needed, nor root."""
    from tbdiff.between import make_between  # noqa: PLC0415 - devices never make images

    say_if_unchecked(keys)
    said["available"] = _available(said.pop("encoders"))
    with progress.shown(how) as report:
        manifest = make_between(base, target, out, keys=ring(keys), progress=report, **said)
    _say_made(out, manifest, as_json, signed=said["key"] is not None)


def _say_made(out: Path, manifest: Any, as_json: bool, *, signed: bool) -> None:
    written = out.stat().st_size
    if as_json:
        print_json({"image": str(out), "size": written, "manifest": manifest.model_dump(mode="json")})
        return
    how = "signed" if signed else "not signed"
    click.echo(f"{out}: {show.size(written)}, {how}, leads to tree {(manifest.target.tree or '')[:16]}…")
    if manifest.way.encoders:
        names = ", ".join(each.partition("=")[0] for each in manifest.way.encoders)
        notice(f"devices need the compressors {names} as they are here (else: --encoders)")


@click.command("encoders")
@as_json_option
def show_encoders(as_json: bool) -> None:
    """Name the compressors that are here, with their fingerprints: for `tbdiff create --encoders FILE`."""
    from tbdiff import encoders  # noqa: PLC0415

    found = encoders.here()
    if as_json:
        print_json({"encoders": found})
    else:
        for each in found:
            click.echo(each)
