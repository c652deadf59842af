"""What a delta starts from: a base that was changed, a listing that cannot be used, a record of before."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tbupdate import subvolumes
from tbupdate.record import read as read_record
from tests import device
from tests.console import Device

pytestmark = pytest.mark.slow


def open_up(place: Path) -> None:
    subprocess.run(["btrfs", "property", "set", "-ts", str(place), "ro", "false"], check=True)


@pytest.mark.parametrize("closed_again", [True, False])
@pytest.mark.parametrize("change", ["added", "touched"])
def test_a_delta_over_a_base_that_was_changed_is_rejected(dev: Device, closed_again: bool, change: str) -> None:
    one, two = dev.tree("one"), dev.tree("two")
    base = dev.json("deploy", dev.image(None, one, "1.0"))["id"]
    dev("commit")
    place = dev.top / "snapshots" / base
    open_up(place)
    if change == "added":
        (place / "etc/evil").write_text("x")
    else:
        os.utime(place / "etc/system", (1, 1))
    if closed_again:
        subprocess.run(["btrfs", "property", "set", "-ts", str(place), "ro", "true"], check=True)
    before = device.names(dev.top)
    error = dev.json("deploy", dev.image(one, two, "2.0"), code=3)["error"]
    assert base in error["message"]
    assert "changed after it was deployed" in error["message"]
    assert device.names(dev.top) == before
    assert dev.status()["staged"] is None


def test_a_base_is_read_again_only_when_something_was_written_to_it(dev: Device) -> None:
    """Snapshots, flags, mounts, a balance do not count; a base that is as it was stays one, however it is known."""
    one = dev.tree("one")
    base = dev.json("deploy", dev.image(None, one, "1.0"))["id"]
    dev("commit")
    place, listing = dev.top / "snapshots" / base, dev.top / "tb-update" / base / "listing"
    assert subvolumes.seal(str(place)) == read_record(str(listing.parent)).seal  # type: ignore[union-attr]
    open_up(place)
    subprocess.run(["btrfs", "-q", "subvolume", "snapshot", str(place), str(dev.top / "other")], check=True)
    subprocess.run(["btrfs", "property", "set", "-ts", str(place), "ro", "true"], check=True)
    (dev.top / "other/etc/system").write_text("elsewhere")
    top = subprocess.run(["findmnt", "-no", "TARGET", str(dev.top)], capture_output=True, text=True).stdout.strip()
    subprocess.run(["btrfs", "-q", "balance", "start", "--full-balance", top], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["btrfs", "-q", "subvolume", "delete", str(dev.top / "other")], check=True)
    assert subvolumes.seal(str(place)) == read_record(str(listing.parent)).seal  # type: ignore[union-attr]
    dev("deploy", dev.image(one, dev.tree("two"), "2.0"))
    dev("verify")


@pytest.mark.parametrize("damage", ["gone", "empty", "garbage", "of another tree"])
def test_a_listing_that_cannot_be_used_is_read_from_the_tree(dev: Device, damage: str) -> None:
    first = dev.status()["default"]
    one = dev.tree("one")
    base = dev.json("deploy", dev.image(None, one, "1.0"))["id"]
    dev("commit")
    listing = dev.top / "tb-update" / base / "listing"
    if damage == "gone":
        listing.unlink()
    elif damage == "of another tree":
        listing.write_bytes((dev.top / "tb-update" / first / "listing").read_bytes())
    else:
        listing.write_bytes(b"" if damage == "empty" else b"garbage" * 100)
    assert "listing" in {one["name"] for one in dev.json("doctor", code=1)["findings"]}
    assert "no record of its tree" in dev.json("verify", code=3)["error"]["message"]
    dev("deploy", dev.image(one, dev.tree("two"), "2.0"))
    dev("verify")


def test_a_record_without_a_seal_is_a_base_all_the_same(dev: Device) -> None:
    one = dev.tree("one")
    base = dev.json("deploy", dev.image(None, one, "1.0"))["id"]
    dev("commit")
    path = dev.top / "tb-update" / base / "record.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "seal"}))
    dev("deploy", dev.image(one, dev.tree("two"), "2.0"))
    dev("verify")
