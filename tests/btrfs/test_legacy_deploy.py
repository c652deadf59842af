"""A stream of the legacy format deployed by tb-update, over what boots next."""

from __future__ import annotations

from tbdiff.legacy.commands import EVERYTHING, Delete, Enter, Leave, MakeFile, PatchFile, Stated
from tests import device
from tests.console import Device
from tests.unit.test_legacy_wire import stream

PLAIN = Stated(0o644, 0, 0, 1_600_000_000)
CHANGE = stream(Enter(b"etc"), MakeFile(b"new", PLAIN, 1), b"d", Leave(1_600_000_000))
MISFIT = stream(Enter(b"etc"), MakeFile(b"new", PLAIN, 1), b"d", PatchFile(b"none", EVERYTHING, PLAIN, 0, 0, 0))
ESCAPE = stream(Enter(b"etc"), Leave(0), Leave(0), Delete(b"current"))


def test_deployed_over_what_boots_next(dev: Device) -> None:
    image = dev.work / "old.tbd"
    image.write_bytes(CHANGE)
    assert "legacy" in dev.json("deploy", str(image), code=3)["error"]["message"]
    first = dev.status()["default"]
    dev("deploy", str(image), "--allow-unsigned")
    assert (dev.top / "snapshots/root/etc/new").read_text() == "d"
    assert not (dev.top / f"snapshots/{first}/etc/new").exists()
    new = dev.status()["deployments"][0]
    assert (new["base"], new["signed"], len(new["image_digest"])) == (first, False, 64)
    dev("commit")
    dev("verify")
    dev("rollback")
    assert not (dev.top / "snapshots/root/etc/new").exists()


def test_a_bad_one_leaves_no_trace(dev: Device) -> None:
    before = device.names(dev.top)
    bad = dev.work / "bad"
    for data in (MISFIT, ESCAPE, CHANGE[:-1]):
        bad.write_bytes(data)
        error = dev.json("deploy", str(bad), "--allow-unsigned", code=3)["error"]
        assert error["kind"] == "rejected"
        device.check_settled(dev.top)
        assert device.names(dev.top) == before
