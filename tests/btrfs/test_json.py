"""What tb-update prints as JSON is as docs/schemas say: every command on one device, with all its kinds of results."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tbdiff.publish import publish
from tbdiff.signature import create_key
from tests import schemas, systems
from tests.conftest import MakeBtrfs
from tests.console import Device, set_up
from tests.ddi_server import TENANT, Double, double
from tests.rig import tb_update

# Of a system that runs only; test_device_cli.py has one.
ELSEWHERE = {"tb-update-health.json"}


class Held:
    """Commands on a device, in this process; whatever they print is held against its schema."""

    def __init__(self, dev: Device) -> None:
        self.dev = dev
        self.seen: set[str] = set()

    def __call__(self, *words: str, code: int = 0) -> dict[str, Any]:
        ended = tb_update(self.dev.top, *words, "--json", config=self.dev.work / "config.toml")
        assert ended.code == code, ended.err
        self.seen.add(schemas.hold("tb-update", words, ended.json))
        return ended.json


@pytest.fixture
def held(make_btrfs: MakeBtrfs, tmp_path: Path) -> Held:
    top = make_btrfs(1 << 30)
    systems.give_shell(top)
    return Held(set_up(top, tmp_path))


@pytest.fixture
def server() -> Iterator[Double]:
    with double() as made:
        yield made


def test_all_that_tb_update_prints_is_as_the_schemas_say(held: Held, server: Double) -> None:
    dev, said = held.dev, held
    folder, key = dev.work / "folder", dev.work / "builder"
    rules = (dev.work / "config.toml").read_text()
    source = f'[[source]]\nurl = "{folder}"\n'
    trees = [dev.tree(f"tree{n}", version=f"{n}", more="x" * n) for n in range(4)]
    for tree in trees:
        systems.give_shell(tree)
    images = [dev.image(trees[n - 1] if n > 1 else None, trees[n], f"{n}.0") for n in (1, 2, 3)]

    # As it begins, and what is refused.
    first = said("status")["default"]
    for words in (("list",), ("history",), ("changes",), ("verify",), ("trust", "list"), ("doctor",)):
        said(*words)
    assert said("deploy", "nowhere.tbdiff", code=1)["error"]["kind"] == "failed"
    assert said("commit", code=4)["error"]["kind"] == "nothing-to-do"
    assert said("pin", "nobody", code=3)["error"]["kind"] == "rejected"
    assert said("deploy", code=2)["error"]["kind"] == "usage"
    assert said("health", code=3)["error"]["kind"] == "rejected"

    # Images, and local changes that disagree with one.
    assert said("deploy", images[0], "--dry-run")["plan"]
    deployed = said("deploy", images[0])["id"]
    said("verify", deployed)
    said("rollback", "--dry-run")
    said("rollback", "--bad", "--reason", "it was too slow")
    assert said("status")["failed"]["reason"] == "it was too slow"
    said("deploy", images[0], code=3)
    deployed = said("deploy", images[0], "--again")["id"]
    said("commit")
    root = dev.top / "snapshots/root"
    (root / "etc/version").write_text("mine")
    os.symlink("x", os.fsencode(root) + b"/etc/odd\xff")
    assert len(said("changes")["changes"]) >= 2
    assert said("verify", "root", code=1)["differences"]
    said("deploy", images[1])
    assert said("status")["deployments"][0]["conflicts"]
    assert said("changes", "current")["conflicts"]
    assert said("diff")["changes"]
    said("commit")

    # What is made here.
    said("snapshot", "--dry-run")
    (root / "etc/mine").write_text("x")
    said("snapshot", "--name", "golden")
    dev.json("run", "--dry-run", "--", "touch", "/etc/new")
    dev.json("run", "--", "sh", "-c", "exit 3", code=1)
    made = dev.json("run", "--release", "2.1", "--", "touch", "/etc/new")["id"]
    assert said("export", "-o", str(dev.work / "out.tbdiff"), "--key", str(key))["to"] == made
    said("export", "--full", "-o", str(dev.work / "full.tbdiff"))
    said("rollback")

    # From a folder, asked for, fetched first.
    publish([Path(image) for image in images], folder, "stable", key, 30)
    (dev.work / "config.toml").write_text(f'{rules}[upgrade]\npolicy = "download"\n{source}')
    assert said("check", "--changes")["update"]["changes"]
    said("upgrade", "--dry-run")
    assert said("upgrade", "--unattended")["done"] == "fetch"
    status = said("status")
    assert (status["next"]["reason"], status["last_run"]["result"]) == ("approval", "fetched")
    assert status["offered"]["called"] == "demo 3.0"
    said("decline")
    said("postpone", "--hours", "1")
    said("approve", "--later")
    assert said("approve")["done"] == "upgrade"
    said("commit")
    said("upgrade", code=4)

    # Looking after it.
    (dev.work / "config.toml").write_text(rules)
    said("pin", first)
    said("pin", first, "--off")
    said("prune", "--keep", "1", "--dry-run")
    said("prune", "--keep", "3")
    said("remove", next(one["id"] for one in said("list")["deployments"] if not one["protected"]))
    said("carry", code=4)
    said("reset", "--dry-run")
    said("reset", "--yes")
    create_key(dev.work / "own")
    said("trust", "add", str(dev.work / "own.pub"), "--yes")
    said("trust", "revoke", "own", "--yes")
    said("trust", "list")
    (dev.work / "config.toml").write_text('keys = "/nowhere"\n')
    assert not said("doctor", code=1)["healthy"]
    events = {event["event"] for event in said("history")["events"]}
    assert events >= {"init", "fetch", "run", "snapshot", "rollback", "unpin", "prune", "remove", "reset", "trust"}

    # Its server.
    once = server.add_enrolment("kiosk-7")
    account = f'[server]\nurl = "{server.url}"\ntenant = "{TENANT}"\nid = "kiosk-7"\n'
    (dev.work / "config.toml").write_text(rules + account)
    said("enrol", "--token", once)
    said("check", code=4)

    wanted = {name for _, names in schemas.table("tb-update") for name in names}
    assert said.seen == (wanted | {schemas.ERROR}) - ELSEWHERE


def test_init_and_its_undoing_are_as_the_schemas_say(held: Held) -> None:
    held("init", "--undo", "--dry-run")
    held("init", "--undo", "--yes")
    assert not held("status")["initialised"]
    held("init", "--dry-run")
    held("init", "--yes")
