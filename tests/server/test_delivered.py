"""Deltas made by a server, on a real device; and what a device does when the server was stolen, with its key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tbdiff.create import Label, Stated, create_image
from tbdiff.head import MAGIC, Head, read_head
from tbdiff.image import open_image
from tbdiff.manifest import parse_way
from tbdiff.rotation import Wish, rotate
from tbdiff.signature import load_private_key
from tbdiff.signing import signed
from tbserver import delivery, demand, tending, workshop
from tbserver.accounts import Role
from tbserver.files import key_of
from tbserver.records import Artifact, Release, Statements
from tests.console import set_up
from tests.honest import differences
from tests.server.harness import Fleet, Person
from tests.server.images import upload
from tests.server.live import listening
from tests.server.test_agent import NAME, Box, count


@dataclass
class Served:
    """A device with 1.0 that is enrolled at a server, which has full images of 1.0 and 2.0."""

    box: Box
    fleet: Fleet
    operator: Person

    def release(self, version: str) -> dict[str, Any]:
        (found,) = [one for one in self.operator.get("/releases")["items"] if one["version"] == version]
        return dict(found)

    def order(self, version: str) -> int:
        said = {"name": version, "release_id": self.release(version)["id"], "filter": "", "plan": {"errors": 100}}
        number = int(self.operator.post("/rollouts", **said)["rollout"]["id"])
        tending.tend(self.fleet.server.database)
        return number

    def trust_delivery(self) -> None:
        """As the server says."""
        delivery.ready(self.fleet.server.settings)
        place = self.box.dev.work / "keys/delivery"
        place.mkdir()
        (place / "server.pub").write_bytes(delivery.public_file(self.fleet.server.settings).read_bytes())

    def offered(self) -> list[str | None]:
        """From where the images start that the device would fetch."""
        return [one["base"] for one in self.box.dev.json("check")["update"]["images"]]

    def last_words(self) -> str:
        number = self.operator.get("/devices")["items"][0]["id"]
        return str(self.operator.get(f"/devices/{number}")["reports"])


@pytest.fixture
def served(make_btrfs: Callable[..., Path], tmp_path: Path, small_fleet: Fleet) -> Iterator[Served]:
    box = Box(set_up(make_btrfs(512 << 20), tmp_path))
    box.install(1)
    admin = small_fleet.person(Role.ADMIN)
    made = Served(box, small_fleet, small_fleet.person(Role.OPERATOR))
    admin.post("/keys", name="builder", kind="release", pem=(box.dev.work / "builder.pub").read_text())
    for image in (box.dev.work / "None-1.tbdiff", box.image(None, 2)):
        assert upload(made.operator, image)[0] == 201
    once = admin.post("/device-tokens", kind="enrolment", name="box", controller=NAME, days=1)["secret"]
    with listening(small_fleet.server) as url:
        box.configure(url, "default", "")
        box.dev("enrol", "--token", once)
        assert "wants nothing new" in box.step().err
        yield made


def test_a_device_goes_there_by_a_delta_that_the_server_made(served: Served) -> None:
    base, box = served.release("1.0")["tree"], served.box
    number = served.order("2.0")
    demand.count(served.fleet.server.database)
    (before,) = served.operator.get("/deltas")["items"]
    assert (before["base"], before["devices"], before["state"]) == (base, 1, "waiting")
    assert workshop.make_next(served.fleet.server)
    (shown,) = served.operator.get(f"/releases/{served.release('2.0')['id']}")["deltas"]
    full = box.image(None, 2).stat().st_size
    assert (shown["base_release"], shown["state"], shown["saved"]) == ("1.0", "made", full - shown["size"])
    assert shown["saved"] > full * 9 // 10
    # A device that does not trust the server's key fetches the full image.
    assert served.offered() == [None]
    served.trust_delivery()
    assert served.offered() == [base]
    ended = box.step()
    assert (ended.code, box.version) == (0, "2"), ended.err
    assert differences(box.dev.work / "tree2", box.dev.top / "snapshots/current") == []
    box.dev("commit")
    box.step()
    assert count(served.operator, number) == 1
    demand.count(served.fleet.server.database)
    known = served.operator.get("/deltas")
    assert (known["key"]["trusted_by"], known["made"], known["items"][0]["devices"]) == (1, shown["size"], 0)


# --- stolen: whoever it is has the delivery key, the database and the store


class Thief:
    """Somebody with all that the server has, but with no release key."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._server = served.fleet.server
        self._work = served.box.dev.work
        self.key = self._server.settings.key
        self.evil = served.box.dev.tree("evil", version="evil", large="x" * 99)

    def image(self, target: Path, base: Path | None = None, stated: Stated | None = None, release: str = "9.0") -> Path:
        out = self._work / "stolen.tbdiff"
        label = Label(name="demo", release=release)
        create_image(base, target, out, label=label, stated=stated, key=self.key, effort="fast")
        return out

    def stated(self) -> Stated:
        """What the release key said of 2.0."""
        with open_image(str(self._work / "None-2.tbdiff")) as opened:
            return Stated(*opened.stated)

    def relabelled(self, image: Path) -> Path:
        """The same payload, said to lead to what was signed."""
        stated = self.stated()
        with image.open("rb") as file:
            assert file.read(len(MAGIC)) == MAGIC
            old, rest = read_head(file), file.read()
        way = parse_way(old.way, old.target)
        new = way.model_copy(update={"target": hashlib.sha256(stated.target).hexdigest()})
        head = signed(Head(stated.target, new.to_bytes(), stated.signatures), load_private_key(self.key), only_way=True)
        image.write_bytes(head.to_bytes() + rest)
        return image

    def plant(self, image: Path, release_id: int, base: str) -> None:
        """Let the server offer it, and nothing else that leads there."""
        data = image.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        self._server.store.put(key_of(1, digest), data)
        with self._server.database.writing() as session:
            for other in session.scalars(select(Artifact).where(Artifact.release_id == release_id)):
                session.delete(other)
            sums = {"md5": hashlib.md5(data).hexdigest(), "sha1": hashlib.sha1(data).hexdigest(), "digest": digest}
            known = {"tenant_id": 1, "release_id": release_id, "name": "update.tbdiff", "size": len(data), "base": base}
            rest = {"image": digest, "free": 0, "encoders": [], "signers": ["release"], "made": "delta", "created": 1}
            session.add(Artifact(**known, **sums, **rest))

    def release_of(self, tree: str, version: str) -> int:
        """A release that nobody signed."""
        with self._server.database.writing() as session:
            given = {"tree": tree, "statement": b"", "name": "demo", "version": version, "device_types": []}
            row = Release(tenant_id=1, epoch=0, size=1, created=1, **given)
            session.add(row)
            session.flush()
            return row.id


def test_who_steals_the_server_can_only_choose_among_what_release_keys_signed(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    box, tree1 = served.box, served.release("1.0")["tree"]
    served.trust_delivery()
    thief, second = Thief(served), served.release("2.0")["id"]

    def refused(version: str, *words: str) -> None:
        served.order(version)
        ended = box.step()
        assert box.version == "1"
        assert not (box.dev.top / "snapshots/root/etc/large").read_bytes().startswith(b"x")
        assert all(word in ended.err + served.last_words() for word in words), (ended.err, served.last_words())

    # A target of the thief's own, signed by all that there is to sign with.
    forged = thief.image(thief.evil)
    with open_image(str(forged)) as opened:
        thief.plant(forged, thief.release_of(str(opened.manifest.target.tree), "9.0"), "")
    refused("9.0", "signed by no trusted key")
    # Another tree under the name of what was signed: from nothing, and as a delta.
    for base in (None, box.dev.work / "tree1"):
        thief.plant(thief.relabelled(thief.image(thief.evil, base)), second, tree1 if base else "")
        refused("2.0", "does not lead to the target that its signer answers for")
    # A statement that the thief's key is trusted, signed by all that there is to sign with; and by what it names.
    keys = box.dev.work / "keys"
    wish = Wish(release=[keys / "delivery/server.pub"])
    rotate(box.dev.work / "trust.json", wish, [thief.key])
    chain = (box.dev.work / "trust.json").read_bytes()
    with served.fleet.server.database.writing() as session:
        session.add(Statements(tenant_id=1, version=1, chain=chain))
    box.step()
    assert "signed by 0 of the keys that were trusted before it" in caplog.text
    assert box.dev.json("trust", "list")["statement"] is None
    # What a release key signed, by a way of the thief's own: the server's to choose.
    thief.plant(thief.image(box.dev.work / "tree2", box.dev.work / "tree1", thief.stated()), second, tree1)
    served.order("2.0")
    ended = box.step()
    assert (ended.code, box.version) == (0, "2"), ended.err
    assert differences(box.dev.work / "tree2", box.dev.top / "snapshots/current") == []
