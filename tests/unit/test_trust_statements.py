"""Which keys are trusted: thresholds, statements that follow on each other, and what is refused of them."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from tbdiff import rotation
from tbdiff.create import Label, create_image
from tbdiff.errors import NothingToDo, Rejected
from tbdiff.head import MAGIC, read_head
from tbdiff.image import open_image
from tbdiff.index import MOMENT, NAME, read_index
from tbdiff.publish import publish
from tbdiff.rotation import Wish, rotate
from tbdiff.sealed import Sealed
from tbdiff.signature import (
    KeyRing,
    PublicKey,
    create_key,
    load_private_key,
    load_public_key,
    public_key,
    sign,
    sign_as,
)
from tbdiff.signing import sign_image
from tbdiff.trust import NAME as TRUST
from tbdiff.trust import TYPE, Authority, Key, Trust, follow, read_chain, write_chain
from tests import secondreader

REPOSITORY = Path(__file__).parents[2]


P = 2**255 - 19
ORDER_8 = 2707385501144840649318225287225658788936804267575313519463743609750303021402
# The ways to write down the points of a small order: also those beyond the modulus, and with a sign that says nothing.
DEGENERATE = [
    (y | sign << 255).to_bytes(32, "little") for y in (0, 1, P - 1, P, P + 1, ORDER_8, P - ORDER_8) for sign in (0, 1)
]


class Keys:
    """Keys by their names, made when they are asked for; those of `p…` are of the curve P-256."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __getitem__(self, name: str) -> Path:
        path = self.place / name
        if not path.exists():
            create_key(path, "p256" if name.startswith("p") else "ed25519")
        return path

    def pub(self, name: str) -> Path:
        return self[name].with_name(f"{name}.pub")

    def public(self, name: str) -> PublicKey:
        return load_public_key(self.pub(name))

    def wish(self, **said: Any) -> Wish:
        many = ("release", "delivery", "trust", "drop", "revoke")
        return Wish(**{k: [self.pub(n) for n in v.split()] if k in many else v for k, v in said.items()})

    def rotate(self, signers: str, **said: Any) -> rotation.Standing:
        return rotate(self.place / TRUST, self.wish(**said), [self[name] for name in signers.split()])


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def image(keys: Keys, *signers: str, number: int = 1) -> Path:
    tree = keys.place / f"tree{number}"
    tree.mkdir(exist_ok=True)
    (tree / "version").write_text(f"{number}")
    out = keys.place / f"{number}.tbdiff"
    create_image(None, tree, out, label=Label(release=f"{number}.0"), key=keys[signers[0]])
    for name in signers[1:]:
        sign_image(out, keys[name])
    return out


def signers(path: Path, ring: KeyRing) -> tuple[str, ...]:
    with open_image(str(path), ring) as opened:
        return opened.signers


def test_a_release_is_signed_by_as_many_keys_as_must(keys: Keys) -> None:
    ring = KeyRing((keys.public("a"), keys.public("b"), keys.public("c")), threshold=2)
    assert signers(image(keys, "a", "b"), ring) == ("a", "b")
    with pytest.raises(Rejected, match="signed by a only, and 2 of the trusted keys must have"):
        signers(image(keys, "a", number=2), ring)
    with pytest.raises(Rejected, match="signed by a only"):
        signers(image(keys, "a", "z", number=3), ring)
    # Whatever names it has: one key is one key.
    twice = PublicKey("b", keys.public("a").raw, keys.public("a").key)
    with pytest.raises(Rejected, match="and 2 of the trusted keys must have"):
        signers(image(keys, "a", number=4), KeyRing((keys.public("a"), twice), threshold=2))


def test_a_key_of_the_owner_is_enough_and_a_delivery_key_is_not(keys: Keys) -> None:
    ring = KeyRing((keys.public("a"), keys.public("b")), (keys.public("d"),), threshold=2, own=(keys.public("mine"),))
    assert signers(image(keys, "mine"), ring) == ("mine",)
    with pytest.raises(Rejected, match="signed by no trusted key"):
        signers(image(keys, "d", number=2), ring)


def test_keys_of_the_curve_of_tokens(keys: Keys) -> None:
    ring = KeyRing((keys.public("p"),))
    made = image(keys, "p")
    assert signers(made, ring) == ("p",)
    with made.open("rb") as file:
        file.read(len(MAGIC))
        head = read_head(file)
    assert [(one.algorithm, len(one.value)) for one in head.signatures] == [(2, 64), (2, 64)]
    raw = bytearray(made.read_bytes())
    at = raw.index(head.signatures[0].value)
    raw[at + 40] ^= 1
    made.write_bytes(raw)
    with pytest.raises(Rejected, match="signature is not valid"):
        signers(made, ring)
    # Under the number of the other algorithm it counts for nothing.
    raw[at + 40] ^= 1
    raw[at - 11] = 1
    made.write_bytes(raw)
    with pytest.raises(Rejected):
        signers(made, ring)
    assert sign(load_private_key(keys["p"]), b"x", of_target=True).algorithm == 2


@pytest.mark.parametrize(
    ("by", "trusted", "threshold", "passes"),
    [
        ("a", "a", 1, True),
        ("p", "p", 1, True),
        ("a p", "a p", 2, True),
        ("p q", "p q r", 2, False),
        ("a p", "a p z", 3, False),
        ("p", "a", 1, False),
        ("a", "p", 1, False),
    ],
)
def test_the_second_reader_takes_and_refuses_the_same(
    keys: Keys, by: str, trusted: str, threshold: int, passes: bool
) -> None:
    made = image(keys, *by.split())
    if not passes and threshold == 2:
        # One signature spoilt.
        raw = bytearray(made.read_bytes())
        raw[raw.index(keys.public("q").key_id) + 20] ^= 1
        made.write_bytes(raw)
    public = [keys.public(name) for name in trusted.split()]
    outcomes = []
    for read in (
        lambda: signers(made, KeyRing(tuple(public), threshold=threshold)),
        lambda: secondreader.read(made.read_bytes(), None, [key.raw for key in public], [], threshold),
    ):
        try:
            read()
            outcomes.append(True)
        except (Rejected, secondreader.RefusedError):
            outcomes.append(False)
    assert outcomes == [passes, passes]


def test_keys_that_are_none_are_not_read(keys: Keys, tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    (tmp_path / "p384").write_bytes(
        other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    pem = other.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "p384.pub").write_bytes(pem)
    with pytest.raises(Rejected, match="neither an Ed25519 key nor"):
        load_private_key(tmp_path / "p384")
    with pytest.raises(Rejected, match="neither an Ed25519 key nor"):
        load_public_key(tmp_path / "p384.pub")
    for raw in (bytes(31), bytes(65), b"\x02" + bytes(32), b"\x04" + bytes(64)):
        with pytest.raises(ValueError):
            public_key("x", raw)


@pytest.mark.parametrize("raw", DEGENERATE)
def test_keys_under_which_anybody_can_sign_are_none(raw: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="degenerate"):
        public_key("x", raw)
    with pytest.raises(ValidationError, match="degenerate"):
        Key(name="x", algorithm="ed25519", public=raw.hex())
    pem = Ed25519PublicKey.from_public_bytes(raw).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "x.pub").write_bytes(pem)
    with pytest.raises(Rejected, match="degenerate"):
        load_public_key(tmp_path / "x.pub")


def test_one_statement_follows_on_the_other(keys: Keys) -> None:
    first = keys.rotate("a b", release="a b", threshold=2)
    assert (first.trust.version, first.complete) == (1, True)
    # Neither the old keys alone say so, nor the new ones.
    assert (keys.rotate("a b", release="c", drop="a").of_before, keys.rotate("a b", release="c", drop="a").of_own) == (
        0,
        1,
    )
    assert keys.rotate("b c", release="c", drop="a").of_before == 1
    second = keys.rotate("a b c", release="c", drop="a")
    assert (second.trust.version, second.complete, len(second.chain)) == (2, True, 2)
    third = keys.rotate("b", revoke="b", release="d", days=1)
    assert (third.of_before, third.of_own) == (1, 2)
    assert rotation.cosign(keys.place / TRUST, keys["c"]).of_before == 0
    assert rotation.cosign(keys.place / TRUST, keys["d"]).complete
    with pytest.raises(NothingToDo, match="has signed it already"):
        rotation.cosign(keys.place / TRUST, keys["d"])
    last = rotation.read(keys.place / TRUST)
    assert [key.name for key in last.trust.release] == ["c", "d"]
    assert last.trust.revoked_keys == {keys.public("b").raw}


def test_trust_keys_speak_for_all_others(keys: Keys) -> None:
    keys.rotate("a r1 r2", release="a", trust="r1 r2 r3", trust_threshold=2)
    assert keys.rotate("a", release="b").of_before == 2
    assert keys.rotate("r1 r3", release="b").complete


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"release": "a", "threshold": 2}, "fewer keys than must sign"),
        ({"release": "a", "trust": "b", "trust_threshold": 2}, "fewer keys than must sign"),
        ({"release": "a", "revoke": "a"}, "at least 1 item"),
        ({"release": "a", "drop": "z"}, "to be dropped is not trusted"),
        ({}, "at least 1 item"),
    ],
)
def test_what_cannot_be_wished(keys: Keys, wish: dict[str, Any], why: str) -> None:
    with pytest.raises(Rejected, match=why):
        keys.rotate("a", **wish)
    assert not (keys.place / TRUST).exists()


def statement(keys: Keys, by: str, **said: Any) -> Sealed:
    fields: dict[str, Any] = {"version": 2, "issued": "2026-01-01T00:00:00Z", "expires": "2027-01-01T00:00:00Z"}
    for role in ("release", "delivery", "trust"):
        fields[role] = tuple(Key.of(keys.public(name)) for name in said.pop(role, "").split())
    sealed = Sealed(TYPE, Trust(**fields | said).to_bytes())
    for name in by.split():
        sealed = sealed.signed(load_private_key(keys[name]))
    return sealed


def test_what_is_refused_of_a_statement(keys: Keys) -> None:
    before = Authority((keys.public("a"), keys.public("b"), keys.public("c")), 2)
    assert follow(statement(keys, "a b", release="a"), 2, before, ()).version == 2
    for refused, revoked, why in (
        (statement(keys, "a", release="a"), (), "signed by 1 of the keys that were trusted before it, and 2 must"),
        (statement(keys, "", release="a"), (), "signed by 0 .*nobody"),
        (statement(keys, "a z", release="a"), (), "signed by 1 of the keys"),
        (statement(keys, "a b", release="z"), (), "signed by 0 of the keys that it names itself"),
        (statement(keys, "a b", release="a", version=3), (), "of version 3 stands where 2 belongs"),
        (statement(keys, "a b", release="a"), (keys.public("c").raw,), "takes back that a key was revoked"),
        (statement(keys, "a b", release="b"), (keys.public("a").raw,), "signed by 1 of the keys that were"),
    ):
        with pytest.raises(Rejected, match=why):
            follow(refused, 2, before, revoked)
    # The owner of a device distrusts a key: it does not count, whoever else goes on to trust it.
    with pytest.raises(Rejected, match="signed by 1 of the keys that were"):
        follow(statement(keys, "a b", release="a"), 2, before, (), {keys.public("a").raw})
    # One signature is one, under however many ids and names.
    twice = Authority((keys.public("a"), PublicKey("other", keys.public("a").raw, keys.public("a").key)), 2)
    with pytest.raises(Rejected, match="signed by 1 of"):
        follow(statement(keys, "a", release="a"), 2, twice, ())
    with pytest.raises(ValidationError, match="fewer keys than must sign"):
        statement(keys, "", release="a", threshold=2)
    # What was signed as something else is nothing.
    made_by, value = sign_as(load_private_key(keys["a"]), b"application/vnd.tbdiff.index+json", b"{}")
    with pytest.raises(Rejected, match="signed by 0"):
        follow(Sealed(TYPE, b"{}", ((made_by, value),)), 1, Authority((keys.public("a"),)), ())


def test_no_other_bytes_are_a_chain(keys: Keys) -> None:
    chain = (statement(keys, "a", release="a"),)
    raw = write_chain(chain)
    assert read_chain(raw) == chain
    for other in (b"", b"{}", b"[]", raw[:-5], raw.replace(b"trust+json", b"index+json"), b"[" * 10**6, bytes(2 << 20)):
        with pytest.raises(Rejected, match="is none"):
            read_chain(other)


def test_published_before_the_index_and_with_new_keys(keys: Keys) -> None:
    folder, chain = keys.place / "folder", keys.place / TRUST
    publish([image(keys, "a")], folder, "stable", keys["a"], 30)
    keys.rotate("a", release="b", revoke="a")
    with pytest.raises(Rejected, match="lacks signatures"):
        publish([], folder, "stable", keys["a"], 30, trust=chain)
    keys.rotate("a b", release="b", revoke="a")
    with pytest.raises(Rejected, match="none that trust statement 1 names"):
        publish([], folder, "stable", keys["a"], 30, trust=chain)
    # An index that an earlier key made goes on under the new one only when the chain says so.
    with pytest.raises(Rejected, match="is not an index that this key made"):
        publish([], folder, "stable", keys["b"], 30)
    rotate(keys.place / "begun", keys.wish(release="a"), [keys["a"]])
    rotate(keys.place / "begun", keys.wish(release="b", drop="a"), [keys["a"], keys["b"]])
    publish([], folder, "stable", keys["b"], 30, trust=keys.place / "begun")
    assert read_index((folder / NAME).read_bytes(), (keys.public("b"),))[0].version == 2
    # From then on, images must be signed by what devices trust by then, and the chain only grows.
    with pytest.raises(Rejected, match="signed by no trusted key"):
        publish([image(keys, "a", number=2)], folder, "stable", keys["b"], 30)
    publish([image(keys, "b", number=2)], folder, "stable", keys["b"], 30)
    keys.rotate("b", release="b")
    with pytest.raises(Rejected, match="is not what follows on"):
        publish([], folder, "stable", keys["b"], 30, trust=chain)


def test_at_the_console(keys: Keys) -> None:
    def tbdiff(*words: object, code: int = 0) -> dict[str, Any]:
        command = [sys.executable, "-m", "tbdiff", *map(str, words), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
        assert done.returncode == code, done.stderr
        return dict(json.loads(done.stdout))

    place = keys.place / TRUST
    tbdiff("keygen", keys.place / "k1", "--algorithm", "p256")
    tbdiff("keygen", keys.place / "k2")
    made = tbdiff(
        "rotate", place, "--release", f"{place.parent}/k1.pub", "--release", f"{place.parent}/k2.pub",
        "--threshold", 2, "--key", place.parent / "k1",
    )  # fmt: skip
    assert (made["complete"], made["signers"], made["lacks"]["own_keys"]) == (False, ["k1"], 1)
    assert tbdiff("sign", place, "--key", place.parent / "k2")["complete"]
    shown = tbdiff("show", place)
    assert (shown["statement"]["version"], shown["signers"]) == (1, ["k1", "k2"])
    assert (
        tbdiff("rotate", place, "--threshold", 3, "--key", place.parent / "k1", code=3)["error"]["kind"] == "rejected"
    )
    assert shown["statement"]["issued"] <= datetime.now(UTC).strftime(MOMENT)
