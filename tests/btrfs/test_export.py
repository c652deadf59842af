"""What was tried on one device goes to another one as an image, and is the same there, to the last bit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tbdiff import tree as reading
from tbdiff.image import open_image
from tbdiff.tree import read_tree
from tests import systems
from tests.conftest import MakeBtrfs
from tests.console import Device, set_up
from tests.honest import differences


@pytest.fixture
def pair(make_btrfs: MakeBtrfs, tmp_path: Path) -> tuple[Device, Device]:
    """Two devices that run the same release, and trust the same builder."""
    made = []
    for name in ("one", "two"):
        top, work = make_btrfs(1 << 30), tmp_path / name
        systems.give_shell(top)
        work.mkdir()
        made.append(set_up(top, work))
    one, two = made
    (two.work / "keys/builder.pub").write_bytes((one.work / "builder.pub").read_bytes())
    tree = one.tree("release")
    systems.give_shell(tree)
    image = one.image(None, tree, "1.0")
    for dev in made:
        dev("deploy", image)
        dev("commit")
    return one, two


def export(dev: Device, *arguments: str, code: int = 0) -> tuple[str, dict[str, object]]:
    out = str(dev.work / "out.tbdiff")
    return out, dev.json("export", *arguments, "-o", out, "--key", str(dev.work / "builder"), code=code)


def test_what_one_device_tried_is_the_same_on_another(pair: tuple[Device, Device]) -> None:
    one, two = pair
    released = one.status()["default"]
    root = one.top / "snapshots/root"
    (root / "etc/tuned").write_text("yes\n")
    made = one.json(
        "run", "--release", "1.1", "--", "sh", "-c", "echo better >/etc/system; mv /srv /data; rm /etc/fstab"
    )
    again = one.json("run", "--continue", "--release", "1.2", "--", "touch", "/etc/more")
    image, told = export(one)
    assert (told["from"], told["to"], told["own"]) == (released, again["id"], [])
    two("deploy", image)
    status = two.status()
    deployed = status["deployments"][0]
    assert (deployed["release"], deployed["tree"], deployed["signed"]) == ("1.2", told["tree"], True)
    trees = [dev.top / "snapshots" / dev.status()["default"] for dev in pair]
    assert read_tree(trees[0]).digest == read_tree(trees[1]).digest
    assert differences(*trees) == []
    assert (two.top / "snapshots/root/etc/tuned").read_text() == "yes\n"
    assert Path(image).stat().st_size < 20_000
    # From one to the other by name, and the way back.
    image, told = export(one, made["id"], again["id"])
    assert told["from"] == made["id"]
    two("deploy", image, code=4)
    image, told = export(one, again["id"], released)
    assert two.json("deploy", image, "--allow-downgrade")["deployments"][0]["tree"] == told["tree"]


def test_a_full_image_starts_from_nothing(pair: tuple[Device, Device]) -> None:
    one, two = pair
    (one.top / "snapshots/root/etc/mine").write_text("x")
    kept = one.json("snapshot", "--name", "golden")["id"]
    image, told = export(one, "--full", kept)
    assert (told["from"], told["to"]) == (None, kept)
    two("deploy", image, "--allow-downgrade")
    assert (two.top / "snapshots/root/etc/mine").read_text() == "x"
    with open_image(image) as opened:
        assert opened.manifest.target.device_types == ("test",)
        assert opened.manifest.target.name == "golden"


def test_what_is_a_machines_own_is_named(pair: tuple[Device, Device]) -> None:
    one, _ = pair
    (one.top / "snapshots/root/etc/ssh").mkdir()
    for name in ("etc/machine-id", "etc/fstab", "etc/ssh/ssh_host_rsa_key", "etc/ssh/sshd_config"):
        (one.top / "snapshots/root" / name).write_text("secret")
    one("snapshot")
    _, told = export(one)
    assert told["own"] == ["etc/fstab", "etc/machine-id", "etc/ssh/ssh_host_rsa_key"]
    done = one.run("export", "-o", str(one.work / "x.tbdiff"))
    assert "machine-id" in done.stderr
    assert "not signed" in done.stderr


def test_nothing_that_is_the_same_is_read(pair: tuple[Device, Device], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept listings tell all names; contents are read where they differ. Even a file that is gone is not missed."""
    one, _ = pair
    (one.top / "snapshots/root/etc/mine").write_text("x")
    one("snapshot")
    from tests.rig import tb_update

    def read_nothing(*_: object, **__: object) -> None:
        raise AssertionError("a tree was read")

    monkeypatch.setattr("tbupdate.exporting.read_tree", read_nothing)
    monkeypatch.setattr("tbupdate.exporting.read_changed", read_nothing)
    ended = tb_update(one.top, "export", "-o", one.work / "x.tbdiff", config=one.work / "config.toml")
    assert ended.code == 0, ended.err
    assert reading.read_tree is read_tree


def test_a_deployment_that_was_written_to_is_read(pair: tuple[Device, Device]) -> None:
    one, two = pair
    released = one.status()["default"]
    (one.top / "snapshots/root/etc/mine").write_text("x")
    kept = one.json("snapshot")["id"]
    spoiled = one.top / "snapshots" / kept
    subprocess.run(["btrfs", "property", "set", "-ts", spoiled, "ro", "false"], check=True)
    (spoiled / "etc/mine").write_text("by hand")
    subprocess.run(["btrfs", "property", "set", "-ts", spoiled, "ro", "true"], check=True)
    image, told = export(one)
    assert told["from"] == released
    two("deploy", image)
    assert (two.top / "snapshots/root/etc/mine").read_text() == "by hand"
    assert read_tree(spoiled).digest.hex() == told["tree"]


def test_what_is_refused(pair: tuple[Device, Device]) -> None:
    one, _ = pair
    here = one.status()["default"]
    out = str(one.work / "out.tbdiff")
    for arguments, code in (
        (("export",), 2),
        (("export", "nothing", "-o", out), 3),
        (("export", here, here, "-o", out), 3),
        (("export", here, here, "--full", "-o", out), 2),
        (("export", "-o", "/nowhere/at/all"), 3),
        (("export", "-o", out, "--release", "a b"), 2),
        (("export", "-o", out, "--device-type", "a b"), 2),
        (("export", "-o", out, "--device-type", ""), 2),
        (("export", "-o", f"{one.top}/snapshots/{here}/etc/image"), 3),
        (("export", "-o", out, "--key", "/nowhere"), 1),
    ):
        one(*arguments, code=code)
    assert not Path(out).exists()
