"""What a person meets who looks after a device: runs in progress, deployments that are gone, a disk just tidied."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.console import Device, set_up


def names_of(dev: Device, code: int = 1) -> set[str]:
    return {one["name"] for one in dev.json("doctor", code=code)["findings"]}


def test_a_run_in_progress_is_not_an_interrupted_one(dev: Device) -> None:
    subprocess.run(["btrfs", "-q", "subvolume", "create", str(dev.top / "snapshots/x-00aa00.partial")], check=True)
    os.setxattr(dev.top / "snapshots", "user.tb-update.deploying", b"x-00aa00")
    assert (dev.status()["busy"], dev.status()["interrupted"]) == (False, True)
    assert "interrupted" in names_of(dev)
    descriptor = os.open(dev.top / "snapshots", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert (dev.status()["busy"], dev.status()["interrupted"]) == (True, False)
        assert "in progress" in dev("status")
        assert "interrupted" not in dev("status")
        assert "interrupted" not in names_of(dev, code=0)
    finally:
        os.close(descriptor)
    dev.run("prune")
    assert (dev.status()["busy"], dev.status()["interrupted"]) == (False, False)


def test_verify_reads_the_root_itself(dev: Device) -> None:
    dev("verify", "root")
    (dev.top / "snapshots/root/etc/local").write_text("mine")
    found = dev.json("verify", "root", code=1)
    assert found["subvolume"] == "snapshots/root"
    assert "etc/local" in [one["path"] for one in found["differences"]]
    dev("verify")


def test_when_the_deployment_that_boots_next_was_deleted_there_is_one_way_and_all_name_it(dev: Device) -> None:
    first = dev.status()["default"]
    second = dev.json("deploy", dev.image(None, dev.tree("one"), "1.0"))["id"]
    dev("commit")
    for name in ("current", second):
        subprocess.run(["btrfs", "-q", "subvolume", "delete", str(dev.top / "snapshots" / name)], check=True)
    findings = {one["name"]: one for one in dev.json("doctor", code=1)["findings"]}
    assert "tb-update rollback" in findings["default"]["remedy"]
    assert "committed" not in findings
    assert f"goes back to: {first}" in dev("status")
    dev("commit", code=3)
    dev("rollback")
    assert dev.status()["default"] == first
    dev("deploy", dev.image(None, dev.tree("two"), "2.0"))
    assert not dev.status()["interrupted"]


def test_what_was_removed_a_moment_ago_is_room(make_btrfs: Callable[..., Path], tmp_path: Path) -> None:
    top = make_btrfs(400 << 20)
    dev = set_up(top, tmp_path)
    tree = dev.tree("one")
    (tree / "big").write_bytes(os.urandom(60 << 20))
    image = dev.image(None, tree, "1.0")
    free = shutil.disk_usage(top).free
    with open(top / "filling", "wb") as file:
        for _ in range((free >> 20) - 50):
            file.write(os.urandom(1 << 20))
    os.sync()
    dev("deploy", image, code=3)
    (top / "filling").unlink()
    dev("deploy", image)


def test_each_change_says_what_it_did(dev: Device) -> None:
    bad = dev.json("deploy", dev.image(None, dev.tree("one"), "1.0"))["id"]
    dev("rollback")
    assert f"{bad} is pinned." in dev("pin", bad)
    assert f"{bad} is no longer pinned." in dev("pin", bad, "--off")
    assert f"{bad} is removed." in dev("remove", bad)
    other = dev.json("deploy", dev.image(None, dev.tree("two"), "2.0"))["id"]
    dev("rollback")
    assert f"{other} is removed." in dev("prune", "--keep", "1")


def test_doctor_names_bad_keys_and_a_read_only_file_system(dev: Device) -> None:
    (dev.work / "keys/odd.pub").write_text("junk")
    (dev.work / "keys/builder.pub").chmod(0o666)
    found = [one for one in dev.json("doctor", code=1)["findings"] if one["name"] == "keys"]
    assert len(found) == 3
    assert (
        "can be changed by others"
        in dev.json("deploy", dev.image(None, dev.tree("one"), "1.0"), code=3)["error"]["message"]
    )
    (dev.work / "keys/odd.pub").unlink()
    (dev.work / "keys/builder.pub").chmod(0o644)
    top = subprocess.run(["findmnt", "-no", "TARGET", str(dev.top)], capture_output=True, text=True).stdout.strip()
    subprocess.run(["mount", "-o", "remount,ro", top], check=True)
    assert "read-only" in names_of(dev)


@pytest.mark.parametrize("name", ["current", "current.next"])
def test_what_stands_where_a_name_of_ours_belongs_is_named(dev: Device, name: str) -> None:
    place = dev.top / "snapshots" / name
    if name == "current":
        subprocess.run(["btrfs", "-q", "subvolume", "delete", str(place)], check=True)
    place.symlink_to("/etc")
    image = dev.image(None, dev.tree("one"), "1.0")
    assert f"snapshots/{name} is no subvolume" in dev.json("deploy", image, code=3)["error"]["message"]
    assert "foreign" in names_of(dev)
    place.unlink()
    dev("deploy", image)
    assert names_of(dev, code=0).isdisjoint({"foreign", "interrupted"})
