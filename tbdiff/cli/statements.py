"""Trust statements as they are shown: to a person, or as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from tbdiff.cli.terminal import print_json
from tbdiff.dsse import key_id
from tbdiff.rotation import Standing


def say(place: Path, standing: Standing, as_json: bool) -> None:
    """Print the last statement of a chain, and what it lacks."""
    if as_json:
        trust = standing.trust.model_dump(mode="json")
        lacks = {"keys_before": standing.of_before, "own_keys": standing.of_own}
        signed = {"signers": list(standing.signers), "complete": standing.complete, "lacks": lacks}
        print_json({"trust": str(place), "statement": trust} | signed)
    else:
        for line in _lines(standing):
            click.echo(line)


def _lines(standing: Standing) -> Iterator[str]:
    trust = standing.trust
    yield f"Statement {trust.version}, of {trust.issued}, good until {trust.expires}"
    for what, keys, threshold in (
        ("Release", trust.release, f"{trust.threshold} of these sign a release"),
        ("Delivery", trust.delivery, "any of these may say how to get to one"),
        ("Trust", trust.trust, f"{trust.trust_threshold} of these sign the next statement"),
    ):
        for number, key in enumerate(keys):
            said = f"; {threshold}" if number == 0 else ""
            yield f"{what:9} {key.name} ({key.key.key_id.hex()}, {key.algorithm}){said}"
    for raw in trust.revoked:
        yield f"Revoked   {key_id(bytes.fromhex(raw)).hex()}"
    yield f"Signed    by {', '.join(standing.signers) or 'nobody that is known here'}"
    if standing.complete:
        yield "Devices get it by: tbdiff publish --trust FILE; tb-server statements FILE"
        if trust.version == 1:
            yield "They take it if enough of the keys in their own directory have signed it."
    else:
        of = f"{standing.of_before} of the keys before, {standing.of_own} of its own"
        yield f"It lacks signatures ({of}): tbdiff sign FILE --key KEY"
