"""`tb-update export`: what was tried on one device becomes an image for the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from tbdiff import progress
from tbdiff.errors import Rejected
from tbdiff.show import size
from tbupdate import config, lock, planning
from tbupdate.cli.options import check_called, everywhere, settings
from tbupdate.cli.sites import working
from tbupdate.cli.terminal import print_json, print_lines, warn

SHOWN = 5


@click.command()
@click.argument("source", metavar="[FROM]", required=False)
@click.argument("target", metavar="[TO]", required=False)
@click.option(
    "-o", "--output", "out", required=True, metavar="IMAGE", type=click.Path(path_type=Path), help="The image to write."
)
@click.option("--full", is_flag=True, help="Out of nothing: no FROM.")
@click.option("--key", type=click.Path(path_type=Path), metavar="KEY", help="Sign it with this private key.")
@click.option("--name", help="What the system is called; default: as on this device.")
@click.option("--release", metavar="VERSION", help="Its version; default: as on this device.")
@click.option(
    "--device-type",
    "device_types",
    multiple=True,
    metavar="TYPE",
    help="Only for these devices; default: those of this device's type. Repeatable.",
)
@click.option(
    "--effort", type=click.Choice(["fast", "default", "best"]), default="default", help="How hard to compress."
)
@click.option(
    "--encoders",
    type=click.Choice(["all", "common", "none"]),
    default="common",
    help="Which compressors other devices re-create packed files with: those of this machine, what all have, none.",
)
@everywhere
def export(
    source: str | None,
    target: str | None,
    *,
    out: Path,
    full: bool,
    key: Path | None,
    name: str | None,
    release: str | None,
    device_types: tuple[str, ...],
    effort: str,
    encoders: str,
) -> None:
    """Make an image out of two kept deployments, for other devices.

    Without TO, to what was made here last (snapshot, run), or to what runs; without FROM, from the image before that.
    """
    try:
        from tbdiff import encoders as compressors  # noqa: PLC0415
        from tbupdate import exporting  # noqa: PLC0415 - most devices never make images
    except ImportError as error:
        raise Rejected(f"images cannot be made here: {error}; no image was made", "Install what is missing.") from None

    said = settings()
    check_called(name, release, device_types)
    rules = config.load(said.config)
    available = None if encoders == "none" else compressors.common if encoders == "common" else compressors.available
    if full and target is None:
        source, target = None, source
    if full and source is not None:
        raise click.UsageError("name TO only with --full")
    types = device_types or ((rules.device_type,) if rules.device_type else ())
    with working(said, rules) as site, lock.hold(site.top), progress.shown(said.progress) as report:
        system = site.survey()
        planning.require_layout(system)
        of, to = exporting.choose(system, source, target, full=full)
        label = exporting.label_of(to, name=name, release=release, device_types=types)
        order = exporting.Order(out, label, key, effort, available)
        manifest, own = exporting.export(replace(site, progress=report), of, to, order)
    shown = ", ".join(own[:SHOWN]) + (" and more" if len(own) > SHOWN else "")
    notes = [f"the image brings this machine's own files to all others: {shown}"] if own else []
    notes += [] if key is not None else ["the image is not signed: devices refuse it"]
    written = out.stat().st_size
    if said.json:
        print_json(
            {
                "done": "export",
                "image": str(out),
                "size": written,
                "from": of.id if of is not None else None,
                "to": to.id,
                "tree": manifest.target.tree,
                "own": own,
                "warnings": notes,
            }
        )
        return
    for note in notes:
        warn(note)
    print_lines([f"{out}: {size(written)}, from {of.id if of is not None else 'nothing'} to {to.id}"])
