"""Tarballs deployed by tb-update: a full system, a layer over it, signed and not."""

from __future__ import annotations

from pathlib import Path

from tbdiff.tar.signing import sign_tarball
from tests import device
from tests.console import Device
from tests.tarballs import GNU_TARS, PACKINGS, Raw, archive, directory, gnu_tar

LAYER = archive(directory(b"etc"), Raw(b"etc/new", b"d"), Raw(b"etc/.wh.gone"))


def packed(dev: Device) -> Path:
    image = gnu_tar(dev.tree("one", gone="b"), dev.work / "one.tar", *GNU_TARS["pax"])
    image.write_bytes(PACKINGS["tar.zst"](image.read_bytes()))
    return image


def test_a_signed_system_and_a_layer(dev: Device) -> None:
    full, layer = packed(dev), dev.work / "layer"
    sign_tarball(full, dev.work / "builder", name="demo", release="1.0", device_types=("test",))
    layer.write_bytes(LAYER)
    sign_tarball(layer, dev.work / "builder", name="demo", release="1.1", delta=True)
    first = dev.json("deploy", str(full))
    assert (dev.top / "snapshots/root/etc/gone").read_text() == "b"
    dev("deploy", str(full), code=4)
    dev("commit")
    with layer.open("rb") as pipe:
        dev("deploy", "-", stdin=pipe, code=3)
    with layer.open("rb") as pipe:
        dev("deploy", "-", "--signature", f"{layer}.sig", stdin=pipe)
    new = dev.status()["deployments"][0]
    assert (new["release"], new["base"], new["signed"], new["signers"]) == ("1.1", first["id"], True, ["builder"])
    assert (dev.top / "snapshots/root/etc/new").read_text() == "d"
    assert not (dev.top / "snapshots/root/etc/gone").exists()
    assert (dev.top / f"snapshots/{first['id']}/etc/gone").read_text() == "b"
    dev("verify")


def test_unsigned(dev: Device) -> None:
    full, layer = packed(dev), dev.work / "layer"
    layer.write_bytes(LAYER)
    dev("deploy", str(full), code=3)
    assert "unsigned" in dev("deploy", str(full), "--allow-unsigned", "--dry-run") + "unsigned"
    dev("deploy", str(full), "--allow-unsigned")
    dev("commit")
    dev("deploy", str(layer), "--allow-unsigned", code=3)
    dev("deploy", str(layer), "--allow-unsigned", "--delta")
    for kept in dev.status()["deployments"][:2]:
        assert kept["signed"] is False
        assert len(kept["image_digest"]) == 64
    assert [len(event.get("image_digest", "")) for event in dev.json("history")["events"][1:]] == [64, 0, 0, 64]
    assert (dev.top / "snapshots/root/etc/new").read_text() == "d"


def test_a_bad_one_leaves_no_trace(dev: Device) -> None:
    before = device.names(dev.top)
    bad = dev.work / "bad"
    for data in (archive(directory(), Raw(b"a", b"1"), Raw(b"../x", b"2")), archive(directory(), Raw(b"a"), end=b"")):
        bad.write_bytes(data)
        error = dev.json("deploy", str(bad), "--allow-unsigned", code=3)["error"]
        assert error["kind"] == "rejected"
        assert "Traceback" not in error["message"]
        device.check_settled(dev.top)
        assert device.names(dev.top) == before
