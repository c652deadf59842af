"""The commands on whom this device trusts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from tbdiff.signature import load_public_key
from tbupdate import config, trusted
from tbupdate.cli.conduct import ask, changing, now, tell_trust
from tbupdate.cli.options import Settings, everywhere, settings
from tbupdate.cli.sites import working
from tbupdate.cli.terminal import print_json, print_lines, print_table, warn
from tbupdate.layout import STATE
from tbupdate.trusted import Owner, Trusted


@click.group(no_args_is_help=False)
def trust() -> None:
    """Say whom this device trusts, enrol a key of your own, or trust one no longer."""


@trust.command("list")
@everywhere
def list_keys() -> None:
    """List the keys: what they may do, and since when."""
    said = settings()
    with working(said) as site:
        known = trusted.load(os.path.join(site.top, STATE), config.load(said.config))
    if said.json:
        print_json(trusted.fields(known))
        return
    if known.statement is not None:
        print_lines(
            [f"By statement {known.version} of {known.statement.issued}, good until {known.statement.expires}:"]
        )
    rows = [("NAME", "ID", "ALGORITHM", "MAY", "NOTES")]
    for key in trusted.fields(known)["keys"]:
        enrolled = f"enrolled {key['added'][:10]}" if key["added"] else ""
        notes = "revoked" if key["revoked"] else enrolled
        rows.append((key["name"], key["id"], key["algorithm"], ", ".join(key["roles"]), notes))
    print_table(rows, coloured=4)
    if known.ring.threshold > 1:
        print_lines([f"{known.ring.threshold} release keys together answer for a release."])


@trust.command()
@click.argument("key", metavar="KEY.pub", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@everywhere
def add(key: Path) -> None:
    """Trust images that the owner of KEY.pub signed, beside those of whoever made this device."""
    said = settings()
    public = load_public_key(key)
    with _changing(said) as (state, known):
        owner = trusted.enrolled(known, public, now())
        ask(
            f"Whoever holds the key {public.name} ({public.key_id.hex()}) can then replace the whole system of this "
            "device. That is shown until the device is reset. Trust it?",
            said,
        )
        _write(state, owner, f"the own key {public.name} ({public.key_id.hex()}) was enrolled", said)


@trust.command()
@click.argument("key", metavar="KEY")
@click.option("--off", is_flag=True, help="Take it back, where it was done on this device.")
@everywhere
def revoke(key: str, *, off: bool) -> None:
    """Trust KEY (its name or id, as `trust list` says it) no longer, whoever else goes on to trust it."""
    said = settings()
    with _changing(said) as (state, known):
        if off:
            owner = trusted.restored(known, key)
            ask(f"Trust {key} again?", said)
            _write(state, owner, f"the key {key} is no longer revoked", said)
            return
        owner, public = trusted.revoked(known, key)
        ask(f"No image that needs the key {public.name} ({public.key_id.hex()}) is taken any more. Do it?", said)
        if replace(known, owner=owner).falls_short and not known.falls_short:
            warn("fewer release keys are left than must sign a release: only own keys count until there are more")
        _write(state, owner, f"the key {public.name} ({public.key_id.hex()}) was revoked", said)


@contextmanager
def _changing(said: Settings) -> Iterator[tuple[str, Trusted]]:
    """Where it is written down whom this device trusts, and who that is; under the lock."""
    rules = config.load(said.config)
    with working(said, rules) as site, changing(site):
        state = os.path.join(site.top, STATE)
        yield state, trusted.load(state, rules)


def _write(state: str, owner: Owner, what: str, said: Settings) -> None:
    trusted.write_owner(state, owner)
    tell_trust(state, what, now())
    if said.json:
        print_json({"done": what} | trusted.fields(trusted.load(state, config.load(said.config))))
    else:
        print_lines([f"{what[0].upper()}{what[1:]}."])
