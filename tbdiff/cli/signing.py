"""The commands for keys and signatures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from tbdiff import rotation
from tbdiff.cli.statements import say
from tbdiff.cli.terminal import as_json_option, print_json
from tbdiff.dsse import Algorithm
from tbdiff.manifest import misnamed
from tbdiff.rotation import Wish
from tbdiff.signature import create_key


@click.command()
@click.argument("key", type=click.Path(path_type=Path))
@click.option(
    "--algorithm",
    type=click.Choice(get_args(Algorithm)),
    default="ed25519",
    help="Default: ed25519; p256 (ECDSA) is for what has to come from a token.",
)
@as_json_option
def keygen(key: Path, algorithm: Algorithm, as_json: bool) -> None:
    """Write a new private key to KEY and its public key to KEY.pub."""
    made = create_key(key, algorithm)
    if as_json:
        print_json({"key": str(key), "public": f"{key}.pub", "id": made})
    else:
        click.echo(f"{key} is the private key: keep it secret. {key}.pub ({made}) goes to whom your images are for.")


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="The private key.")
@click.option("--name", default="", help="For a tarball: what the system is called.")
@click.option("--release", metavar="VERSION", help="For a tarball: the version of the system.")
@click.option("--device-type", "device_types", multiple=True, metavar="TYPE", help="For a tarball: only these devices.")
@click.option("--epoch", type=click.IntRange(min=0), default=0, help="For a tarball: its epoch.")
@click.option("--delta", is_flag=True, help="For a tarball: it is a layer over a base (OCI whiteouts), no full system.")
@as_json_option
def sign(image: Path, key: Path, delta: bool, as_json: bool, **said: Any) -> None:
    """Sign IMAGE, which stays the same in all else; a tarball's signature goes to IMAGE.sig.

    What `tbdiff rotate` wrote is signed as well: its last statement.
    """
    from tbdiff.signing import sign_image  # noqa: PLC0415

    if rotation.is_chain(image):
        say(image, rotation.cosign(image, key), as_json)
        return
    try:
        place = sign_image(image, key)
        if place is None:
            from tbdiff.tar.signing import sign_tarball  # noqa: PLC0415

            place = sign_tarball(image, key, delta=delta, **said)
        elif delta or any(said.values()):
            click.echo(
                "tbdiff: what an image says of itself was fixed when it was made; only its signature is new", err=True
            )
    except ValueError as error:
        raise click.UsageError(misnamed(error)) from None
    if as_json:
        print_json({"image": str(image), "signature": str(place)})
    else:
        click.echo(f"{place} holds the signature.")


F = TypeVar("F", bound=Callable[..., Any])


def _keys(name: str, what: str) -> Callable[[F], F]:
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.option(f"--{name}", type=file, multiple=True, metavar="KEY.pub", help=f"{what}; repeatable.")


@click.command()
@click.argument("trust", type=click.Path(path_type=Path), metavar="FILE")
@_keys("release", "A key that signs releases from now on")
@_keys("delivery", "A key that may say how devices get to a release")
@_keys("trust-key", "A key that signs the next such statement; without any the release keys do")
@_keys("drop", "A key that is no longer needed")
@_keys("revoke", "A key that must never count again: it was stolen, or lost")
@click.option("--threshold", type=click.IntRange(min=1), help="How many release keys must sign a release.")
@click.option("--trust-threshold", type=click.IntRange(min=1), help="How many trust keys must sign a statement.")
@click.option(
    "--days",
    type=click.IntRange(min=1, max=3650),
    default=365,
    help="How long devices go by it; make the next one before. Default: 365.",
)
@click.option(
    "--key",
    "keys",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Sign with this private key; repeatable.",
)
@as_json_option
def rotate(trust: Path, keys: tuple[Path, ...], as_json: bool, **said: Any) -> None:
    """Write into FILE which keys are trusted from now on: a statement that follows on those that it holds.

    It counts when enough of the keys before have signed it, and enough of those that it names: `tbdiff sign FILE` adds
    signatures. Devices get it by `tbdiff publish --trust FILE`.
    """
    say(trust, rotation.rotate(trust, Wish(trust=said.pop("trust_key"), **said), keys), as_json)
