"""Local changes on real Btrfs: found by what Btrfs tells, carried to another root by the merge."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.console import Device, set_up
from tests.trees import build, directory, file, sock, symlink

ODD = b"odd\n\xff"


def root(device: Device) -> Path:
    return device.top / "snapshots/root"


def shown(device: Device, *more: str) -> dict[str, tuple[str, tuple[str, ...], str]]:
    found = device.json("changes", *more)["changes"]
    return {one["path"]: (one["kind"], tuple(one["what"]), one["fate"]) for one in found}


def test_a_root_that_nobody_changed_has_no_changes(dev: Device) -> None:
    assert dev.json("changes")["changes"] == []
    assert dev("changes").startswith("No local changes in snapshots/root")
    kept = dev.status()["default"]
    assert sorted(os.listdir(dev.top / "snapshots")) == sorted(["current", "root", kept])


def test_every_kind_of_change_is_found(dev: Device) -> None:
    build(
        {
            b"etc": directory(),
            b"etc/system": file(b"v1"),
            b"etc/mode": file(b"m"),
            b"etc/owner": file(b"o"),
            b"etc/attribute": file(b"a"),
            b"etc/touched": file(b"t"),
            b"etc/type": file(b"x"),
            b"etc/link": symlink(b"one"),
            b"etc/gone": directory(),
            b"etc/gone/inside": file(b"i"),
            b"etc/moved": directory(),
            b"etc/moved/inside": file(b"m"),
            b"etc/twin": file(b"twin", group="g"),
            b"etc/other-twin": file(b"twin", group="g"),
            b"var/log/old": file(b"log"),
            b"usr/same": file(b"same"),
            b"etc/apart": file(b"apart", group="a"),
            b"usr/apart": file(b"apart", group="a"),
        },
        dev.work / "t1",
    )
    dev("deploy", dev.image(None, dev.work / "t1", "2.0", device_types=("test",)))
    dev("commit")
    at = root(dev)
    (at / "etc/system").write_text("local")
    (at / "etc/mode").chmod(0o600)
    os.chown(at / "etc/owner", 7, 0)
    os.setxattr(at / "etc/attribute", "user.mine", b"1")
    os.utime(at / "etc/touched", ns=(5, 5))
    (at / "etc/type").unlink()
    (at / "etc/type").mkdir()
    (at / "etc/link").unlink()
    (at / "etc/link").symlink_to("two")
    (at / "etc/gone/inside").unlink()
    (at / "etc/gone").rmdir()
    (at / "etc/moved").rename(at / "etc/moved-away")
    (at / "etc/empty").mkdir()
    os.mkdir(os.fsencode(at) + b"/etc/" + ODD)
    (at / "etc/.hidden").write_text("dot")
    (at / "etc/twin").write_text("both")
    os.link(at / "etc/mode", at / "etc/mode-too")
    (at / "etc/apart").chmod(0o600)
    (at / "var/log/new").write_text("line")
    (at / "var/log/old").write_text("a new line")
    (at / "etc/shadow").write_text("root:x:1::::::\n")
    (at / "etc/passwd-").write_text("backup")
    build({b"socket": sock()}, at / "etc/run")
    found = shown(dev)
    carried = "carried"
    assert found == {
        "etc/system": ("changed", ("content", "time"), carried),
        "etc/mode": ("changed", ("mode", "links"), carried),
        "etc/mode-too": ("added", ("file",), carried),
        "etc/apart": ("changed", ("mode",), carried),
        "usr/apart": ("changed", ("mode",), "dropped"),
        "etc/owner": ("changed", ("owner",), carried),
        "etc/attribute": ("changed", ("attributes",), carried),
        "etc/touched": ("changed", ("time",), carried),
        "etc/type": ("changed", ("replaced by a directory",), carried),
        "etc/link": ("changed", ("target", "time"), carried),
        "etc/gone": ("removed", (), carried),
        "etc/moved": ("removed", (), carried),
        "etc/moved-away": ("added", ("directory",), carried),
        "etc/moved-away/inside": ("added", ("file",), carried),
        "etc/run": ("added", ("directory",), carried),
        "etc/empty": ("added", ("directory",), carried),
        "etc/odd\\n\\xff": ("added", ("directory",), carried),
        "etc/.hidden": ("added", ("file",), carried),
        "etc/twin": ("changed", ("content", "time"), carried),
        "etc/other-twin": ("changed", ("content", "time"), carried),
        "var/log/new": ("added", ("file",), "dropped"),
        "var/log/old": ("changed", ("content", "time"), "dropped"),
        "etc/shadow": ("added", ("file",), "both ways"),
        "etc/fstab": ("added", ("file",), carried),  # the installed system's, which the image has none of
        "etc/passwd-": ("added", ("file",), "dropped"),
    }


def test_a_subvolume_in_a_root_is_passed_over(dev: Device) -> None:
    subprocess.run(["btrfs", "-q", "subvolume", "create", root(dev) / "etc/machines"], check=True)
    (root(dev) / "etc/machines/inside").write_text("x")
    (root(dev) / "etc/mine").write_text("x")
    assert shown(dev) == {"etc/mine": ("added", ("file",), "carried")}


def test_a_deployment_that_was_written_to_is_read_as_it_is(dev: Device) -> None:
    kept = dev.top / "snapshots" / dev.status()["default"]
    (root(dev) / "etc/mine").write_text("x")
    subprocess.run(["btrfs", "property", "set", kept, "ro", "false"], check=True)
    (kept / "etc/theirs").write_text("x")
    expected = {"etc/mine": ("added", ("file",), "carried"), "etc/theirs": ("removed", (), "carried")}
    assert shown(dev) == expected, "read as a whole: it is writable, so Btrfs tells nothing"
    subprocess.run(["btrfs", "property", "set", kept, "ro", "true"], check=True)
    assert shown(dev) == expected


BASE = {
    b"etc": directory(),
    b"etc/same": file(b"same"),
    b"etc/text": file(b"one\ntwo\nthree\nfour\nfive\n"),
    b"etc/clash": file(b"old\n"),
    b"etc/binary": file(b"\0old"),
    b"etc/mode": file(b"m"),
    b"etc/gone-here": file(b"g"),
    b"etc/gone-there": file(b"g"),
    b"etc/gone-both": file(b"g"),
    b"etc/type": file(b"x"),
    b"etc/dir": directory(),
    b"etc/dir/a": file(b"a"),
    b"etc/dir/b": file(b"b"),
    b"etc/removed-dir": directory(),
    b"etc/removed-dir/f": file(b"f"),
    b"etc/becomes-link": directory(),
    b"etc/becomes-link/f": file(b"f"),
    b"etc/twin-1": file(b"twin", group="g"),
    b"etc/twin-2": file(b"twin", group="g"),
    b"etc/passwd": file(b"root:x:0:0:root:/root:/bin/sh\nbin:x:2:2:bin:/bin:/bin/sh\n"),
    b"etc/shadow": file(b"root:*:1::::::\nbin:*:1::::::\n", mode=0o640),
    b"etc/group": file(b"root:x:0:\naudio:x:29:\n"),
    b"usr/lib/program": file(b"1"),
}
IMAGE = {
    **BASE,
    b"etc/text": file(b"one\ntwo\nthree\nfour\nFIVE of the image\n"),
    b"etc/clash": file(b"of the image\n"),
    b"etc/binary": file(b"\0image", mode=0o640),
    b"etc/mode": file(b"of the image"),
    b"etc/gone-here": file(b"changed in the image"),
    b"etc/new-there": file(b"new"),
    b"etc/new-both": file(b"of the image"),
    b"etc/type": directory(),
    b"etc/removed-dir/new": file(b"new"),
    b"etc/becomes-link": symlink(b"dir"),
    b"etc/passwd": file(b"root:x:0:0:root:/root:/bin/sh\nbin:x:2:2:bin:/bin:/bin/sh\n_new:x:100:100::/:/bin/sh\n"),
    b"etc/shadow": file(b"root:*:1::::::\nbin:*:1::::::\n_new:!:2::::::\n", mode=0o640),
    b"etc/group": file(b"root:x:0:\naudio:x:29:\n_new:x:100:\n"),
    b"usr/lib/program": file(b"2"),
}
for gone in (b"etc/gone-there", b"etc/gone-both", b"etc/becomes-link/f"):
    del IMAGE[gone]


@pytest.fixture
def changed(dev: Device) -> Device:
    """A device that runs BASE, with local changes of every kind."""
    build(BASE, dev.work / "base")
    dev("deploy", dev.image(None, dev.work / "base", "2.0", device_types=("test",)))
    dev("commit")
    at = root(dev)
    (at / "etc/text").write_text("ONE of here\ntwo\nthree\nfour\nfive\n")
    (at / "etc/clash").write_text("of here\n")
    (at / "etc/binary").write_bytes(b"\0here")
    (at / "etc/mode").chmod(0o600)
    (at / "etc/gone-here").unlink()
    (at / "etc/gone-there").write_text("changed here")
    (at / "etc/gone-both").unlink()
    (at / "etc/new-both").write_text("of here")
    (at / "etc/type").unlink()
    (at / "etc/type").symlink_to("same")
    (at / "etc/dir").chmod(0o700)
    (at / "etc/dir/a").unlink()
    (at / "etc/dir/.new").write_text("dot")
    (at / "etc/removed-dir/f").unlink()
    (at / "etc/removed-dir").rmdir()
    (at / "etc/becomes-link/g").write_text("g")
    os.link(at / "etc/twin-1", at / "etc/twin-3")
    os.mkdir(os.fsencode(at) + b"/etc/" + ODD)
    os.setxattr(at / "etc/same", "user.mine", b"1")
    (at / "etc/same").chmod(0o4750)
    os.chown(at / "etc/same", 5, 6)
    (at / "etc/same").chmod(0o4750)
    os.mkfifo(at / "etc/fifo")
    (at / "etc/link").symlink_to("/nowhere")
    with (at / "etc/holes").open("wb") as sparse:
        sparse.truncate(1 << 20)
        sparse.seek(1 << 19)
        sparse.write(b"data")
    with (at / "etc/passwd").open("a") as passwd:
        passwd.write("me:x:1000:1000:Me:/home/me:/bin/bash\n")
    (at / "etc/shadow").write_text("root:$y$secret:9::::::\nbin:*:1::::::\nme:$y$mine:9::::::\n")
    (at / "etc/group").write_text("root:x:0:\naudio:x:29:me\nme:x:1000:\n")
    (at / "usr/lib/program").write_text("patched")
    return dev


def carried_over(at: Path) -> None:
    etc = at / "etc"
    assert (etc / "text").read_text() == "ONE of here\ntwo\nthree\nfour\nFIVE of the image\n"
    assert (etc / "clash").read_text() == "of here\n"
    assert (etc / "binary").read_bytes() == b"\0here"
    assert stat.S_IMODE((etc / "binary").stat().st_mode) == 0o644
    assert (etc / "mode").read_text() == "of the image"
    assert stat.S_IMODE((etc / "mode").stat().st_mode) == 0o600
    assert not (etc / "gone-here").exists()
    assert (etc / "gone-there").read_text() == "changed here"
    assert not (etc / "gone-both").exists()
    assert (etc / "new-both").read_text() == "of here"
    assert (etc / "new-there").read_text() == "new"
    assert (etc / "type").readlink() == Path("same")
    assert sorted(os.listdir(etc / "dir")) == [".new", "b"]
    assert stat.S_IMODE((etc / "dir").stat().st_mode) == 0o700
    assert not (etc / "removed-dir").exists()
    assert sorted(os.listdir(etc / "becomes-link")) == ["f", "g"]
    assert len({(etc / f"twin-{n}").stat().st_ino for n in (1, 2, 3)}) == 1
    assert os.path.isdir(os.fsencode(etc) + b"/" + ODD)
    assert os.getxattr(etc / "same", "user.mine") == b"1"
    status = (etc / "same").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (5, 6, 0o4750)
    assert stat.S_ISFIFO((etc / "fifo").stat().st_mode)
    assert (etc / "link").readlink() == Path("/nowhere")
    assert (etc / "holes").stat().st_size == 1 << 20
    assert (etc / "holes").stat().st_blocks * 512 < 1 << 17
    assert (etc / "passwd").read_text().splitlines()[-2:] == [
        "_new:x:100:100::/:/bin/sh",
        "me:x:1000:1000:Me:/home/me:/bin/bash",
    ]
    assert (etc / "shadow").read_text() == "root:$y$secret:9::::::\nbin:*:1::::::\n_new:!:2::::::\nme:$y$mine:9::::::\n"
    assert stat.S_IMODE((etc / "shadow").stat().st_mode) == 0o640
    assert (etc / "group").read_text() == "root:x:0:\naudio:x:29:me\n_new:x:100:\nme:x:1000:\n"
    assert (at / "usr/lib/program").read_text() == "2"


CONFLICTS = {
    "etc/clash": b"of the image\n",
    "etc/binary": b"\0image",
    "etc/gone-here": b"changed in the image",
    "etc/gone-there": None,
    "etc/new-both": b"of the image",
    "etc/type": None,
    "etc/removed-dir/new": b"new",
    "etc/becomes-link": None,
}


def test_local_changes_come_to_the_new_root(changed: Device) -> None:
    dev = changed
    base, target = dev.top / "snapshots/current", dev.work / "image"
    build(IMAGE, target)
    image = dev.image(base, target, "3.0", device_types=("test",))
    assert any("bring local changes" in step for step in dev.json("deploy", "--dry-run", image)["plan"])
    done = dev.json("deploy", image)
    carried_over(root(dev))
    record = dev.top / "tb-update" / done["id"]
    told = {one["path"]: one["stored"] for one in done["deployments"][0]["conflicts"]}
    assert told.keys() == CONFLICTS.keys()
    for path, content in CONFLICTS.items():
        assert (told[path] is None) == (content is None)
        assert content is None or (record / "conflicts" / told[path]).read_bytes() == content
        assert len([warning for warning in done["warnings"] if warning.startswith(f"/{path}: ")]) == 1
    assert "8 conflicts of local changes" in dev("status")
    assert "8 conflicts of local changes" in dev("list")
    assert set(dev.json("history")["events"][-1]["conflicts"]) == {f"/{path}" for path in CONFLICTS}
    assert "/etc/clash, " in dev("history")
    assert "conflict: /etc/clash: changed here and in the image" in dev("changes")
    assert shown(dev)["etc/clash"][2] == "carried", "they are local changes of the new root"
    assert dev.json("verify", "current")["whole"]
    assert (dev.top / "snapshots" / done["id"] / "etc/clash").read_text() == "of the image\n"
    assert [name for name in os.listdir(root(dev)) if name.startswith(".")] == []


def test_a_conflict_stops_the_deploy_where_the_configuration_says_so(changed: Device) -> None:
    dev = changed
    with (dev.work / "config.toml").open("a") as config:
        config.write('[local]\nconflict = "reject"\n')
    build(IMAGE, dev.work / "image")
    image = dev.image(None, dev.work / "image", "3.0", device_types=("test",))
    before = dev.status()["default"], sorted(os.listdir(dev.top / "snapshots"))
    refused = dev.run("deploy", image)
    assert refused.returncode == 3
    assert "local changes and the image disagree: /etc/becomes-link" in refused.stderr
    assert (dev.status()["default"], sorted(os.listdir(dev.top / "snapshots"))) == before


def test_what_is_changed_after_the_deploy_is_brought_before_it_boots(changed: Device) -> None:
    dev = changed
    build(IMAGE, dev.work / "image")
    new = dev.json("deploy", dev.image(None, dev.work / "image", "3.0", device_types=("test",)))["id"]
    old = next((dev.top / "snapshots").glob("2.0-*.root"))
    assert dev("carry") == dev("status")
    (old / "etc/late").write_text("late")
    (old / "etc/clash").write_text("later\n")
    (old / "etc/dir/.new").unlink()
    with (old / "etc/text").open("a") as text:
        text.write("six\n")
    for _ in range(2):
        dev("carry")
        assert (root(dev) / "etc/late").read_text() == "late"
        assert (root(dev) / "etc/clash").read_text() == "later\n"
        assert sorted(os.listdir(root(dev) / "etc/dir")) == ["b"]
    assert (root(dev) / "etc/text").read_text().startswith("ONE of here\n")
    # After a power cut nobody has called it: the commit, or the first command after the boot, does.
    (old / "etc/later-still").write_text("x")
    dev("commit")
    assert (root(dev) / "etc/later-still").exists()
    assert not (dev.top / "snapshots" / f"{new}.carried").exists()
    assert dev.run("carry").returncode == 4


def test_a_rollback_brings_the_old_changes_back_and_what_goes_both_ways_along(changed: Device) -> None:
    dev = changed
    (root(dev) / "etc/machine-id").write_text("a" * 32)
    (root(dev) / "etc/only-old").write_text("x")
    build(IMAGE, dev.work / "image")
    dev("deploy", dev.image(None, dev.work / "image", "3.0", device_types=("test",)))
    dev("commit")
    assert (root(dev) / "etc/machine-id").read_text() == "a" * 32
    (root(dev) / "etc/machine-id").write_text("b" * 32)
    (root(dev) / "etc/only-old").write_text("changed in the new one")
    shadow = (root(dev) / "etc/shadow").read_text()
    (root(dev) / "etc/shadow").write_text(shadow.replace("$y$secret", "$y$rotated"))
    dev("rollback")
    assert (root(dev) / "etc/only-old").read_text() == "x"
    assert (root(dev) / "etc/machine-id").read_text() == "b" * 32
    assert (root(dev) / "usr/lib/program").read_text() == "patched"
    assert "root:$y$rotated:9::::::\n" in (root(dev) / "etc/shadow").read_text()
    assert "me:$y$mine:9::::::\n" in (root(dev) / "etc/shadow").read_text()
    assert not [name for name in os.listdir(dev.top / "snapshots") if "carried" in name]


def test_what_is_the_machines_own_comes_along_from_an_installed_system(btrfs: Path, tmp_path: Path) -> None:
    own = {
        b"etc/machine-id": file(b"a" * 32),
        b"etc/ssh/ssh_host_key": file(b"mine", mode=0o600),
        b"etc/passwd": file(b"root:x:0:0::/root:/bin/sh\nold:x:1000:1000::/home/old:/bin/sh\n"),
        b"etc/shadow": file(b"root:$y$1:1::::::\nold:*:1::::::\n", mode=0o640),
        b"etc/motd": file(b"installed"),
    }
    build(own, btrfs)
    dev = set_up(btrfs, tmp_path)
    (root(dev) / "etc/shadow").write_text("root:$y$2:1::::::\nold:*:1::::::\n")
    image = {
        b"etc/machine-id": file(b""),
        b"etc/shadow": file(b"root:*:1::::::\nnew:*:1::::::\n", mode=0o640),
        b"etc/motd": file(b"of the image"),
    }
    build(image, dev.work / "image")
    done = dev.json("deploy", dev.image(None, dev.work / "image", "3.0", device_types=("test",)))
    etc = root(dev) / "etc"
    assert (etc / "machine-id").read_text() == "a" * 32
    assert (etc / "ssh/ssh_host_key").read_text() == "mine"
    assert stat.S_IMODE((etc / "ssh/ssh_host_key").stat().st_mode) == 0o600
    assert (etc / "shadow").read_text() == "root:$y$2:1::::::\nnew:*:1::::::\nold:*:1::::::\n"
    assert (etc / "motd").read_text() == "of the image"
    assert done["deployments"][0]["conflicts"] == []
    assert (etc / "ssh").is_dir()
