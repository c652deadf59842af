"""Whom this device trusts: the keys that it began with, the statements that followed, and what its owner said."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import pydantic

from tbdiff.dsse import key_id
from tbdiff.errors import Failed, NothingToDo, Rejected, Stop
from tbdiff.output import replacing
from tbdiff.sealed import Sealed, unseal
from tbdiff.signature import KeyRing, PublicKey
from tbdiff.source import read_plain
from tbdiff.trust import CHAIN_MAX, KEYS_MAX, TYPE, Authority, Key, Raw, Trust, follow, read_chain, read_statement
from tbupdate import trust
from tbupdate.config import Config
from tbupdate.record import OWN

# In the directory tb-update of the top level: neither an update nor a rollback of the root reaches it.
STATEMENT = "trust.json"
OWNER = "owner.json"


class OwnKey(pydantic.BaseModel):
    """A key that the device's owner enrolled, and when."""

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, extra="ignore")

    key: Key
    added: str


class Owner(pydantic.BaseModel):
    """What a person said on this device: keys of their own, and keys that count for nothing here, by their bytes.

    An own key that was revoked stays in both lists: that there was one is shown until the device is reset.
    """

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, extra="ignore")

    own: Annotated[tuple[OwnKey, ...], pydantic.Field(max_length=KEYS_MAX)] = ()
    distrusted: tuple[Raw, ...] = ()


@dataclass(frozen=True)
class Trusted:
    """All of it. `directory` are the keys that the device began with; they count until there is a `statement`.

    `sealed` is the statement as it was signed.
    """

    directory: KeyRing
    statement: Trust | None = None
    owner: Owner = field(default_factory=Owner)
    sealed: Sealed | None = None

    @property
    def distrusted(self) -> frozenset[bytes]:
        """The bytes of the keys that count for nothing, whoever revoked them."""
        here = frozenset(map(bytes.fromhex, self.owner.distrusted))
        return here | self.statement.revoked_keys if self.statement else here

    @property
    def ring(self) -> KeyRing:
        """The keys that images and indexes are verified with."""
        base = self.statement.ring if self.statement else self.directory
        release, delivery = (tuple(key for key in keys if self._counts(key)) for keys in (base.release, base.delivery))
        return KeyRing(release, delivery, base.threshold, tuple(filter(self._counts, self.own_keys)))

    @property
    def own_keys(self) -> tuple[PublicKey, ...]:
        """The keys that the owner enrolled, under names that say so."""
        return tuple(replace(one.key.key, name=OWN + one.key.name) for one in self.owner.own)

    @property
    def authority(self) -> Authority:
        """Who signs the next statement."""
        if self.statement is not None:
            return self.statement.authority
        return Authority(self.directory.release, self.directory.threshold)

    @property
    def version(self) -> int:
        """The version of the statement; 0 where there is none yet."""
        return self.statement.version if self.statement else 0

    @property
    def falls_short(self) -> bool:
        """Whether fewer keys are left than must sign a release."""
        return len({key.raw for key in self.ring.release}) < self.ring.threshold

    def expired(self, moment: str) -> bool:
        """Whether nobody should go by the statement any more at that moment."""
        return self.statement is not None and self.statement.expires < moment

    def _counts(self, key: PublicKey) -> bool:
        return key.raw not in self.distrusted


def load(state: str, rules: Config) -> Trusted:
    """Whom this device trusts; Rejected where somebody else could have said so, or it cannot be read."""
    sealed, owner = _sealed(state), read_owner(state)
    if sealed is not None:
        return Trusted(KeyRing(()), read_statement(sealed), owner, sealed)
    return Trusted(replace(trust.load(rules.keys), threshold=rules.threshold), owner=owner)


def learn(before: Trusted, chain: bytes) -> tuple[Trusted, Stop | None]:
    """What a chain of statements adds to what is trusted, as far as it holds; and why not further.

    One that is no longer than what is known already, such as an old one that somebody kept, changes nothing.
    """
    now = before
    try:
        for version, sealed in enumerate(read_chain(chain)[before.version :], before.version + 1):
            revoked = now.statement.revoked_keys if now.statement else ()
            statement = follow(sealed, version, now.authority, revoked, now.distrusted)
            now = replace(now, statement=statement, sealed=sealed)
    except Rejected as rejected:
        return now, rejected
    return now, None


def remember(state: str, known: Trusted) -> None:
    """Write the statement down, unless a later one is there already; OSError where there is no room for it."""
    held = _sealed(state)
    if known.sealed is None or (held is not None and read_statement(held).version >= known.version):
        return
    with replacing(Path(state, STATEMENT)) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(known.sealed.to_bytes())


def forget_own(state: str) -> None:
    """Forget the keys that the owner enrolled, as a device that is reset does. What was revoked stays revoked."""
    owner = read_owner(state)
    if owner.own:
        write_owner(state, owner.model_copy(update={"own": ()}))


def read_owner(state: str) -> Owner:
    """What a person said on this device."""
    raw = _read(state, OWNER)
    try:
        return Owner.model_validate_json(raw) if raw is not None else Owner()
    except pydantic.ValidationError:
        raise _damaged(os.path.join(state, OWNER)) from None


def write_owner(state: str, owner: Owner) -> None:
    """Write down what a person said."""
    place = Path(state, OWNER)
    try:
        with replacing(place) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(owner.model_dump_json(indent=1).encode() + b"\n")
    except OSError as error:
        raise Failed(
            f"{place} cannot be written: {error.strerror}; it was left as it was", "See: tb-update doctor"
        ) from None


def enrolled(known: Trusted, key: PublicKey, now: str) -> Owner:
    """What the owner said, and a key of their own."""
    if key.raw in known.distrusted:
        raise Rejected(
            f"{key.name} was revoked; nothing was changed",
            "If that was done on this device: tb-update trust revoke --off",
        )
    if key.raw in {one.raw for one in known.own_keys}:
        raise NothingToDo(f"{key.name} ({key.key_id.hex()}) is one of the owner's keys already")
    if len(known.owner.own) >= KEYS_MAX:
        raise Rejected(
            f"no more than {KEYS_MAX} own keys can be enrolled; nothing was changed",
            "Only a reset of this device forgets them: tb-update reset",
        )
    try:
        added = OwnKey(key=Key.of(key), added=now)
    except pydantic.ValidationError:
        raise Rejected(
            f"{key.name!r} is no name for a key; nothing was changed", "Letters, digits and . _ + ~ : @ - only."
        ) from None
    return known.owner.model_copy(update={"own": (*known.owner.own, added)})


def revoked(known: Trusted, named: str) -> tuple[Owner, PublicKey]:
    """What the owner said, and that a key counts for nothing here: by its name, its id, or its bytes in hexadecimal."""
    key = find(known, named, every_key(known))
    if key.raw in known.distrusted:
        raise NothingToDo(f"{key.name} ({key.key_id.hex()}) is revoked already")
    return known.owner.model_copy(update={"distrusted": (*known.owner.distrusted, key.raw.hex())}), key


def restored(known: Trusted, named: str) -> Owner:
    """What the owner said, without the revocation of a key that was made on this device."""
    left = tuple(
        raw for raw in known.owner.distrusted if named not in (raw, key_id(bytes.fromhex(raw)).hex(), _name(known, raw))
    )
    if left == known.owner.distrusted:
        raise NothingToDo(f"no key {named!r} was revoked on this device", "See: tb-update trust list")
    return known.owner.model_copy(update={"distrusted": left})


def _name(known: Trusted, raw: str) -> str | None:
    return next((key.name for key in every_key(known) if key.raw.hex() == raw), None)


def every_key(known: Trusted) -> tuple[PublicKey, ...]:
    """All keys that have a name here, also those that count no more."""
    base = known.statement.ring if known.statement else known.directory
    keys = (*base.release, *base.delivery, *known.authority.keys, *known.own_keys)
    return tuple({key.raw: key for key in keys}.values())


def find(known: Trusted, named: str, keys: tuple[PublicKey, ...]) -> PublicKey:
    """The key that is meant."""
    found = [key for key in keys if named in (key.name, key.name.removeprefix(OWN), key.key_id.hex(), key.raw.hex())]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{key.name} ({key.key_id.hex()})" for key in keys)
    what = "more than one key is" if found else "no key is"
    raise Rejected(f"{what} called {named!r}; nothing was changed", f"Name it by its id. There are: {there or 'none'}")


def fields(known: Trusted) -> dict[str, Any]:
    """The same for programs."""
    said = known.statement
    return {
        "statement": said.version if said else None,
        "issued": said.issued if said else None,
        "expires": said.expires if said else None,
        "threshold": known.ring.threshold,
        "keys": [
            {
                "name": key.name,
                "id": key.key_id.hex(),
                "algorithm": key.algorithm,
                "roles": roles(known, key),
                "revoked": key.raw in known.distrusted,
                "added": next((one.added for one in known.owner.own if one.key.public == key.raw.hex()), None),
            }
            for key in every_key(known)
        ],
        "revoked": sorted(key_id(raw).hex() for raw in known.distrusted),
        "own": [one.key.name for one in known.owner.own],
    }


def roles(known: Trusted, key: PublicKey) -> list[str]:
    """What a key may do, in words."""
    base = known.statement.ring if known.statement else known.directory
    of = {"release": base.release, "delivery": base.delivery, "trust": known.authority.keys, "own": known.own_keys}
    return [role for role, keys in of.items() if key.raw in {one.raw for one in keys}]


def _sealed(state: str) -> Sealed | None:
    raw = _read(state, STATEMENT)
    try:
        return unseal(raw, TYPE, "") if raw is not None else None
    except Rejected:
        raise _damaged(os.path.join(state, STATEMENT)) from None


def _read(state: str, name: str) -> bytes | None:
    path = Path(state, name)
    try:
        loose = trust.fault_of_owner(path)
        if loose is not None:
            raise loose
        return read_plain(os.fspath(path), CHAIN_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failed(f"{path} cannot be read: {error.strerror}; nothing was changed", "See: tb-update doctor") from None


def _damaged(path: str) -> Rejected:
    # To go on without it would be to trust again what was revoked.
    return Rejected(
        f"{path} is damaged, so nobody knows which keys are trusted; nothing was changed",
        "Remove it: then what the device began with counts, until the next statement is fetched.",
    )
