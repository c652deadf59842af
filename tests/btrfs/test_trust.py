"""Whom a device trusts: statements that its sources bring, its owner's own keys, revocations; and wrong clocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tbdiff.create import Label, create_image
from tbdiff.publish import publish
from tbdiff.rotation import Wish, rotate
from tbdiff.sealed import Sealed
from tbdiff.signature import create_key, load_private_key, load_public_key
from tbdiff.signing import sign_image
from tbdiff.trust import NAME, TYPE, Key, Trust, read_chain, write_chain
from tests.btrfs.test_upgrade import Fleet
from tests.console import REPOSITORY, Device
from tests.ddi_server import TENANT, double


class House(Fleet):
    """A fleet whose publisher has many keys: `builder`, which devices begin with, and those that are asked for."""

    def pair(self, name: str) -> Path:
        path = self.dev.work / name
        if not path.exists():
            create_key(path)
        return path

    def pub(self, name: str) -> Path:
        return self.pair(name).with_name(f"{name}.pub")

    def raw(self, name: str) -> bytes:
        return load_public_key(self.pub(name)).raw

    def signed(self, number: int, *names: str, epoch: int = 0) -> Path:
        first, *others = names
        out = self.dev.work / f"{number}-{'-'.join(names)}.tbdiff"
        label = Label(name="demo", release=f"{number}.0", epoch=epoch)
        create_image(None, self.tree(number), out, label=label, key=self.pair(first))
        for name in others:
            sign_image(out, self.pair(name))
        return out

    @property
    def chain(self) -> Path:
        return self.dev.work / "trust.json"

    def rotate(self, by: str, **said: Any) -> None:
        many = ("release", "delivery", "trust", "drop", "revoke")
        wish = Wish(**{k: [self.pub(n) for n in v.split()] if k in many else v for k, v in said.items()})
        assert rotate(self.chain, wish, [self.pair(name) for name in by.split()]).complete

    def offer(self, number: int, *names: str, by: str) -> None:
        publish([self.signed(number, *names)], self.folder, "stable", self.pair(by), 30, trust=self.chain)

    @property
    def state(self) -> Path:
        return self.dev.top / "tb-update"

    def trust(self) -> dict[str, Any]:
        return self.dev.json("trust", "list")


@pytest.fixture
def house(dev: Device) -> House:
    made = House(dev)
    made.publish((None, 1))
    dev("upgrade")
    dev("commit")
    return made


def test_new_keys_are_learned_without_a_person(house: House) -> None:
    house.rotate("builder new", release="builder new", threshold=2)
    house.rotate("builder new other", release="other", revoke="builder")
    house.offer(2, "new", "other", by="other")
    # Who only looks goes by them, and writes nothing down.
    assert "2.0" in house.dev("check")
    assert house.trust()["statement"] is None
    house.dev("upgrade")
    assert house.version == "2"
    assert house.dev.json("list")["deployments"][0]["signers"] == ["new", "other"]
    house.dev("commit")
    known = house.trust()
    assert (known["statement"], known["threshold"]) == (2, 2)
    assert [key["name"] for key in known["keys"] if not key["revoked"]] == ["new", "other"]
    assert "statement 2 says which keys are trusted" in house.dev("history")
    # The key that was stolen makes nothing any more, by whatever way; nor does one of two.
    for names in (("builder",), ("builder", "new"), ("new",)):
        refused = house.dev.run("deploy", str(house.signed(3, *names)))
        assert (refused.returncode, house.version) == (3, "2"), refused.stderr
    # Neither a rollback of the root nor what an old root holds in /etc brings it back.
    house.dev("rollback")
    assert house.dev.run("deploy", str(house.signed(4, "builder"))).returncode == 3
    house.dev("deploy", str(house.signed(4, "new", "other")))


def test_a_thief_of_the_server_teaches_nothing(house: House) -> None:
    house.rotate("builder new", release="builder new", delivery="server", threshold=2)
    house.offer(2, "builder", "new", by="server")
    house.dev("upgrade")
    house.dev("commit")
    good = (house.folder / NAME).read_bytes()
    chain = read_chain(good)

    def forged(by: str, version: int = 2, release: str = "server", revoked: tuple[str, ...] = ()) -> bytes:
        keys = tuple(Key.of(load_public_key(house.pub(name))) for name in release.split())
        moments = {"issued": "2026-01-01T00:00:00Z", "expires": "2099-01-01T00:00:00Z"}
        trust = Trust(version=version, **moments, release=keys, revoked=revoked)
        sealed = Sealed(TYPE, trust.to_bytes())
        for name in by.split():
            sealed = sealed.signed(load_private_key(house.pair(name)))
        return write_chain((*chain, sealed))

    before = house.trust()
    for bad, why in (
        (forged("server"), "signed by 0 of the keys that were trusted before"),
        (forged("server builder"), "signed by 1 of the keys"),
        (forged("server thief", release="server thief"), "signed by 0 of the keys"),
        (forged("builder new server", version=3), "of version 3 stands where 2 belongs"),
        (good[:-40], "is damaged, or something else"),
        (b"[" * 2_000_000, "is damaged, or something else"),
    ):
        (house.folder / NAME).write_bytes(bad)
        refused = house.dev.run("upgrade")
        assert refused.returncode == 3, refused.stderr
        assert why in refused.stderr
        assert house.trust() == before
    # An older chain, and none: nothing is learned, and nothing is forgotten.
    for old in (write_chain(()), None):
        (house.folder / NAME).unlink()
        if old is not None:
            (house.folder / NAME).write_bytes(old)
        house.dev("upgrade", code=4)
        assert house.trust() == before


def test_a_device_learns_from_its_server_too_and_no_more_than_from_a_folder(house: House) -> None:
    asked: list[str] = []

    def heard(code: int) -> str:
        done = house.dev.run("upgrade", "--unattended")
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
        asked[:] = [one.path for one in server.asked if one.path.endswith("/trustStatements")]
        server.asked.clear()
        return done.stderr

    with double() as server:
        token = house.dev.work / "token"
        token.write_text(server.add_device("box"))
        token.chmod(0o600)
        said = f'[server]\nurl = "{server.url}"\ntenant = "{TENANT}"\nid = "box"\ntoken_file = "{token}"\n'
        house.follow(more=f"\n{said}")
        # A server that knows nothing of statements is not asked for them.
        heard(4)
        assert asked == []
        house.rotate("builder new", release="new", revoke="builder")
        server.put_statements(house.chain.read_bytes(), 1)
        server.add_action("box", {"x": house.signed(2, "new").read_bytes()})
        assert "2.0" in house.dev("check")
        assert house.trust()["statement"] is None
        heard(0)
        assert (house.version, house.trust()["statement"], len(asked)) == ("2", 1, 2)
        assert "statement 1 says which keys are trusted" in house.dev("history")
        house.dev("commit")
        heard(4)
        # What is known is not asked for again.
        assert (asked, server.attributes("box")["trust"]) == ([], "1")
        # One that has expired lets orders wait for the next one, and the server is told so.
        at("2025-01-01", "rotate", house.chain, "--days", 30, "--key", house.pair("new"))
        server.put_statements(house.chain.read_bytes(), 2)
        action = server.add_action("box", {"x": house.signed(4, "new").read_bytes()})
        assert "was good until 2025-01-31" in heard(3)
        (why,) = server.told(action)
        assert (server.state(action), "was good until 2025-01-31" in why) == ("open", True)
        house.rotate("new")
        server.put_statements(house.chain.read_bytes(), 3)
        heard(0)
        house.dev("commit")
        heard(4)
        assert (house.version, server.state(action)) == ("4", "finished")
        # Whoever has the server: nothing is learned, nothing forgotten, and nothing of a revoked key is taken.
        good, before = house.chain.read_bytes(), house.trust()
        trust = Trust(
            version=4,
            issued="2026-01-01T00:00:00Z",
            expires="2099-01-01T00:00:00Z",
            release=(Key.of(load_public_key(house.pub("thief"))),),
        )
        forged = Sealed(TYPE, trust.to_bytes()).signed(load_private_key(house.pair("thief")))
        for bad, why in (
            (write_chain((*read_chain(good), forged)), "signed by 0 of the keys"),
            (good[:-40], "is damaged, or something else"),
            (write_chain(()), ""),
        ):
            server.put_statements(bad, 4)
            action = server.add_action("box", {"x": house.signed(5, "builder").read_bytes()})
            assert why in heard(4)
            assert (len(asked), server.state(action), house.version) == (1, "error", "4")
            assert house.trust() == before
        server.put_statements(good, 3)
        # A key of the owner is told to the server, also when it was revoked, until the device is reset.
        house.dev("trust", "add", str(house.pub("mine")), "--yes")
        house.dev("trust", "revoke", "mine", "--yes")
        heard(4)
        assert server.attributes("box")["own_keys"] == load_public_key(house.pub("mine")).key_id.hex()
        house.dev("reset", "--yes")
        heard(4)
        assert "own_keys" not in server.attributes("box")


def test_an_older_statement_brings_no_key_back(house: House) -> None:
    house.rotate("builder", release="builder")
    first = house.chain.read_bytes()
    house.rotate("builder new", release="new", revoke="builder")
    house.offer(2, "new", by="new")
    house.dev("upgrade")
    house.dev("commit")
    (house.folder / NAME).write_bytes(first)
    house.folder.joinpath("index.json").unlink()
    publish([house.signed(3, "builder")], house.folder, "stable", house.pair("builder"), 30)
    refused = house.dev.run("upgrade")
    assert (refused.returncode, house.version) == (3, "2")
    assert "signed by no trusted key" in refused.stderr
    assert house.trust()["statement"] == 2


def test_a_statement_that_expired_is_followed_but_not_gone_by(house: House) -> None:
    at(
        "2025-01-01",
        "rotate",
        house.chain,
        "--release",
        house.pub("builder"),
        "--days",
        30,
        "--key",
        house.pair("builder"),
    )
    house.offer(2, "builder", by="builder")
    refused = house.dev.run("upgrade")
    assert (refused.returncode, house.version) == (3, "1")
    assert "was good until 2025-01-31T00:00:0" in refused.stderr
    assert house.trust()["statement"] == 1
    assert "trust-expired" in [one["name"] for one in house.dev.json("doctor", code=1)["findings"]]
    # Who is there in person has the image and the keys.
    house.dev("deploy", str(house.signed(3, "builder")))
    house.dev("commit")
    house.rotate("builder new", release="new", drop="builder")
    house.offer(4, "new", by="new")
    house.dev("upgrade")
    assert house.version == "4"


def test_the_same_key_under_two_names_is_one(house: House) -> None:
    (house.dev.work / "keys/again.pub").write_bytes(house.pub("builder").read_bytes())
    house.follow(str(house.folder), more="threshold = 2")
    assert "fewer are trusted" in house.dev("doctor", code=1)
    refused = house.dev.run("deploy", str(house.signed(2, "builder")))
    assert refused.returncode == 3
    assert "2 of the trusted keys must have" in refused.stderr
    (house.dev.work / "keys/second.pub").write_bytes(house.pub("second").read_bytes())
    house.dev("deploy", str(house.signed(2, "builder", "second")))


def test_what_is_known_is_read_only_where_nobody_else_could_write_it(house: House) -> None:
    house.rotate("builder", release="builder")
    house.offer(2, "builder", by="builder")
    house.dev("upgrade")
    house.dev("trust", "add", str(house.pub("mine")), "--yes")
    for name in ("trust.json", "owner.json"):
        place = house.state / name
        assert place.stat().st_mode & 0o7777 == 0o600
        place.chmod(0o620)
        refused = house.dev.run("deploy", str(house.signed(3, "builder")))
        assert (refused.returncode, "can be changed by others" in refused.stderr) == (3, True)
        assert "can be changed by others" in house.dev("doctor", code=1)
        assert "can be changed by others" in house.dev("status")
        place.chmod(0o600)
        kept = place.read_bytes()
        place.write_bytes(kept[:-9])
        refused = house.dev.run("deploy", str(house.signed(3, "builder")))
        assert (refused.returncode, "is damaged" in refused.stderr) == (3, True)
        place.write_bytes(kept)


def test_a_key_of_the_owner(house: House) -> None:
    refused = house.dev.run("trust", "add", str(house.pub("mine")))
    assert (refused.returncode, "this needs a yes" in refused.stderr) == (3, True)
    assert house.dev.run("deploy", str(house.signed(2, "mine"))).returncode == 3
    house.dev("trust", "add", str(house.pub("mine")), "--yes")
    house.dev("trust", "add", str(house.pub("mine")), "--yes", code=4)
    house.dev("deploy", str(house.signed(2, "mine", epoch=9)))
    house.dev("commit")
    assert house.version == "2"
    assert house.dev.json("list")["deployments"][0]["signers"] == ["own:mine"]
    assert "own keys:     mine (since 2" in house.dev("status")
    assert house.dev.status()["trust"]["own"] == ["mine"]
    notices = {one["name"]: one["notice"] for one in house.dev.json("doctor")["findings"]}
    assert notices["own-key"] is True
    # It does not raise the floor: the maker's own images must not be shut out.
    assert house.dev.status()["epoch"] == 0
    house.publish((None, 3))
    house.dev("upgrade")
    house.dev("commit")
    # Revoked, it counts for nothing, and is shown all the same.
    house.dev("trust", "revoke", "mine", "--yes")
    assert house.dev.run("deploy", str(house.signed(4, "mine"))).returncode == 3
    assert house.dev.status()["trust"]["own"] == ["mine"]
    (own,) = [one for one in house.dev.json("doctor")["findings"] if one["name"] == "own-key"]
    assert "are trusted here no more" in own["problem"]
    assert house.dev.run("trust", "add", str(house.pub("mine")), "--yes").returncode == 3
    house.dev("trust", "revoke", "own:mine", "--off", "--yes")
    house.dev("deploy", str(house.signed(4, "mine")))
    house.dev("rollback")
    house.dev("reset", "--yes")
    assert house.dev.status()["trust"]["own"] == []
    assert house.dev.run("deploy", str(house.signed(5, "mine"))).returncode == 3


def test_own_images_do_not_go_below_the_floor_by_themselves(house: House) -> None:
    house.dev("deploy", str(house.signed(2, "builder", epoch=3)))
    house.dev("commit")
    house.dev("trust", "add", str(house.pub("mine")), "--yes")
    refused = house.dev.run("deploy", str(house.signed(3, "mine")))
    assert (refused.returncode, "below 3" in refused.stderr) == (3, True)
    house.dev("deploy", "--allow-downgrade", str(house.signed(3, "mine")))


def test_what_a_person_revoked_stays_revoked_whatever_comes(house: House) -> None:
    house.rotate("builder", release="builder new third")
    house.offer(2, "builder", by="builder")
    house.dev("upgrade")
    house.dev("commit")
    house.dev("trust", "revoke", "new", "--yes")
    house.dev("trust", "revoke", "new", "--yes", code=4)
    house.dev("trust", "revoke", "nobody", "--yes", code=3)
    for number, names in ((3, ("new",)), (4, ("new", "builder"))):
        done = house.dev.run("deploy", str(house.signed(number, *names)))
        assert done.returncode == (3 if names == ("new",) else 0)
    house.dev("rollback")
    # It signs no statement either, whoever else goes on to trust it.
    house.rotate("new third", release="new third", drop="builder")
    house.offer(5, "third", by="third")
    refused = house.dev.run("upgrade")
    assert (refused.returncode, "signed by 1" in refused.stderr or house.version == "5") == (0, True), refused.stderr
    house.dev("reset", "--yes")
    assert [key["name"] for key in house.trust()["keys"] if key["revoked"]] == ["new"]


def at(moment: str, *words: object) -> subprocess.CompletedProcess[str]:
    """tbdiff with a clock that stands elsewhere."""
    command = ["faketime", f"{moment} 00:00:00", sys.executable, "-m", "tbdiff", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=os.environ | {"TZ": "UTC"})
    assert done.returncode == 0, done.stderr
    return done


def on(house: House, moment: str, *words: str) -> subprocess.CompletedProcess[str]:
    """tb-update on a device whose clock stands elsewhere."""
    command = ["faketime", f"{moment} 00:00:00", *house.dev.command(*words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=os.environ | {"TZ": "UTC"})


def test_a_clock_in_1970_does_not_make_old_things_good_again(house: House) -> None:
    tree = house.tree(2)
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "usr/lib/os-release").write_text("ID=demo\n")
    os.utime(tree / "usr/lib/os-release", (1_700_000_000, 1_700_000_000))
    house.publish((None, 2))
    house.dev("upgrade")
    house.dev("commit")
    (house.state / "sources.json").unlink()
    image = house.image(None, 3)
    publish_at = ("publish", image, "--to", house.folder, "--key", house.key)
    (house.folder / "index.json").unlink()
    at("2023-01-01", *publish_at)
    # The running system was made when that index had expired already.
    refused = on(house, "1970-01-02", "upgrade")
    assert (refused.returncode, house.version) == (3, "2")
    assert "was good until 2023-01-31" in refused.stderr
    assert "it is 2023-11-14T22:13:20Z" in refused.stderr
    # What is fresh comes all the same: a wrong clock alone shuts no device out.
    at("2023-11-20", "publish", "--to", house.folder, "--key", house.key)
    assert on(house, "1970-01-02", "upgrade").returncode == 0
    assert house.version == "3"


def test_a_statement_tells_a_wrong_clock_the_time(house: House) -> None:
    at("2024-05-01", "rotate", house.chain, "--release", house.pub("builder"), "--key", house.pair("builder"))
    at("2024-05-01", "publish", "--to", house.folder, "--key", house.key, "--trust", house.chain)
    (house.state / "sources.json").unlink()
    assert on(house, "1970-01-02", "upgrade").returncode == 4
    (house.state / "sources.json").unlink()
    at("2024-04-01", "publish", "--to", house.folder, "--key", house.key, "--days", 3)
    refused = on(house, "1970-01-02", "upgrade")
    assert (refused.returncode, "it is 2024-05-01T00:00:0" in refused.stderr) == (3, True), refused.stderr


def test_a_clock_in_2100_stops_updates_only_while_it_does(house: House) -> None:
    house.rotate("builder", release="builder")
    house.offer(2, "builder", by="builder")
    for _ in range(2):
        refused = on(house, "2100-01-01", "upgrade")
        assert (refused.returncode, house.version) == (3, "1")
        assert "was good until" in refused.stderr
        assert "the clock of this device is wrong" in refused.stderr
    assert "2100-" not in (house.state / "sources.json").read_text()
    assert "2100-" not in json.dumps(house.trust())
    house.dev("upgrade")
    assert house.version == "2"
