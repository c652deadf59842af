"""The next trust statement: which keys come, go, or are revoked, signed by those who may say so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pydantic

from tbdiff.errors import Failed, Malformed, NothingToDo, Rejected
from tbdiff.index import MOMENT
from tbdiff.output import appearing
from tbdiff.sealed import Sealed
from tbdiff.signature import PublicKey, load_private_key, load_public_key, public_half
from tbdiff.source import read_plain
from tbdiff.trust import (
    CHAIN_MAX,
    STATEMENTS_MAX,
    TYPE,
    Authority,
    Key,
    Trust,
    follow,
    lacking,
    read_chain,
    read_statement,
    write_chain,
)


@dataclass(frozen=True)
class Wish:
    """What is to be different: keys that come, by what they may do, or go; how many must sign; for how long."""

    release: Sequence[Path] = ()
    delivery: Sequence[Path] = ()
    trust: Sequence[Path] = ()
    drop: Sequence[Path] = ()
    revoke: Sequence[Path] = ()
    threshold: int | None = None
    trust_threshold: int | None = None
    days: int = 365


@dataclass(frozen=True)
class Standing:
    """A chain of statements, the last of them, and how many signatures that still needs of the keys before and its own.

    `signers` are the names of the keys that signed it, `every_key` those that ever made images or indexes. For the
    first statement nobody knows here which keys devices trust already; it needs enough of these as well.
    """

    chain: tuple[Sealed, ...]
    trust: Trust
    of_before: int
    of_own: int
    signers: tuple[str, ...]
    every_key: tuple[PublicKey, ...]

    @property
    def payloads(self) -> list[bytes]:
        """What the statements say, as it was signed; who has signed it may differ."""
        return [sealed.payload for sealed in self.chain]

    @property
    def complete(self) -> bool:
        """Whether devices can go by it."""
        return not self.of_before and not self.of_own


def is_chain(path: Path) -> bool:
    """Whether a file looks like a chain of statements, and not like an image."""
    try:
        return re.match(rb'\{\s*"statements"', read_plain(str(path), 64)) is not None
    except OSError:
        return False


def read(path: Path) -> Standing:
    """A chain of statements in a file, of which only the last may lack signatures; Rejected if it does not hold."""
    try:
        raw = read_plain(str(path), CHAIN_MAX + 1)
    except OSError as error:
        raise Failed(f"{path} cannot be read: {error.strerror}") from None
    return understand(raw, str(path))


def understand(raw: bytes, name: str) -> Standing:
    """The same of a chain that was read already; `name` is for errors."""
    chain = read_chain(raw)
    if not chain:
        raise Rejected(f"{name} holds no trust statement")
    return _stand(chain)


def check_next(chain: Standing, name: str, held: Standing | None, place: str) -> None:
    """Refuse a chain that devices could not go by, or that does not go on from the one `held` at `place`."""
    if not chain.complete:
        raise Rejected(
            f"the last statement of {name} lacks signatures; nothing was published",
            "Have it signed by more keys: tbdiff sign",
        )
    if held is not None and held.payloads != chain.payloads[: len(held.chain)]:
        raise Rejected(
            f"{name} is not what follows on the statements that {place} holds; nothing was published",
            "Go on from what is there.",
        )


def rotate(path: Path, wish: Wish, keys: Sequence[Path]) -> Standing:
    """Put the next statement into the chain at `path`, signed with `keys`; the first one, if there is none.

    One that lacked signatures is replaced: no device has seen it.
    """
    privates = [load_private_key(key) for key in keys]
    before = read(path) if path.exists() else None
    if before is not None and not before.complete:
        earlier = before.chain[:-1]
        before = _stand(earlier) if earlier else None
    if before is not None and len(before.chain) >= STATEMENTS_MAX:
        raise Rejected(f"{path} holds as many statements as there can be; nothing was written")
    try:
        trust = following(before.trust if before else None, wish, datetime.now(UTC))
    except pydantic.ValidationError as error:
        raise Rejected(f"{error.errors()[0]['msg'].removeprefix('Value error, ')}; nothing was written") from None
    sealed = Sealed(TYPE, trust.to_bytes())
    for private in privates:
        sealed = sealed.signed(private)
    return _write(path, _stand((*(before.chain if before else ()), sealed)))


def cosign(path: Path, key: Path) -> Standing:
    """Put one signature more to the last statement of the chain at `path`."""
    private = load_private_key(key)
    standing = read(path)
    last = standing.chain[-1]
    if last.signers((public_half(private, key.name),)):
        raise NothingToDo(f"{key} has signed it already")
    return _write(path, _stand((*standing.chain[:-1], last.signed(private))))


def following(before: Trust | None, wish: Wish, now: datetime) -> Trust:
    """The statement after `before`, with what is wished; ValidationError where that cannot be."""
    revoked = [load_public_key(path) for path in wish.revoke]
    gone = {key.raw.hex() for key in (*revoked, *map(load_public_key, wish.drop))}
    held = {role: getattr(before, role) if before else () for role in ("release", "delivery", "trust")}
    unknown = gone - {key.public for keys in held.values() for key in keys} - {key.raw.hex() for key in revoked}
    if unknown:
        raise Rejected("a key that is to be dropped is not trusted; nothing was written")
    new = {"release": wish.release, "delivery": wish.delivery, "trust": wish.trust}
    release, delivery, trust = (_merged(held[role], map(load_public_key, new[role]), gone) for role in new)
    return Trust(
        version=before.version + 1 if before else 1,
        issued=now.strftime(MOMENT),
        expires=(now + timedelta(days=wish.days)).strftime(MOMENT),
        threshold=wish.threshold or (before.threshold if before else 1),
        trust_threshold=wish.trust_threshold or (before.trust_threshold if before else 1),
        revoked=tuple(dict.fromkeys((*(before.revoked if before else ()), *(key.raw.hex() for key in revoked)))),
        release=release,
        delivery=delivery,
        trust=trust,
    )


def _merged(held: tuple[Key, ...], new: Iterable[PublicKey], gone: set[str]) -> tuple[Key, ...]:
    # The same key under another name is the same key.
    keys = {key.public: key for key in held} | {key.raw.hex(): Key.of(key) for key in new}
    return tuple(key for public, key in keys.items() if public not in gone)


def _stand(chain: tuple[Sealed, ...]) -> Standing:
    """Follow the chain as a device does that begins with whoever signed the first statement."""
    before: Trust | None = None
    ever: list[PublicKey] = []
    for version, sealed in enumerate(chain[:-1], 1):
        before = follow(sealed, version, before.authority if before else _first(sealed), _revoked(before))
        ever += before.ring.every_key
    last, sealed = read_statement(chain[-1]), chain[-1]
    if last.version != len(chain):
        raise Malformed(f"a trust statement of version {last.version} stands where {len(chain)} belongs")
    authority = before.authority if before else last.authority
    signers = sealed.signers((*authority.keys, *last.authority.keys))
    names = tuple(key.name for key in signers)
    lack = lacking(sealed, authority), lacking(sealed, last.authority)
    return Standing(chain, last, *lack, names, (*ever, *last.ring.every_key))


def _first(sealed: Sealed) -> Authority:
    return read_statement(sealed).authority


def _revoked(trust: Trust | None) -> frozenset[bytes]:
    return trust.revoked_keys if trust else frozenset()


def _write(path: Path, standing: Standing) -> Standing:
    try:
        with appearing(path) as file:
            file.write(write_chain(standing.chain))
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}; it was left as it was") from None
    return standing
