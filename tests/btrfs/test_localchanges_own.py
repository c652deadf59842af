"""A device that an installer set up gets its first image that was not built from it: what is its own stays its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.console import Device, set_up
from tests.device import names
from tests.trees import Tree, build, directory, file, symlink

FSTAB = b"UUID=1 / btrfs defaults 0 0\nUUID=2 /boot ext4 defaults 0 2\nUUID=1 /home btrfs subvol=@home 0 0\n"
INSTALLED: Tree = {
    b"etc/fstab": file(FSTAB),
    b"etc/hostname": file(b"mine\n"),
    b"etc/hosts": file(b"127.0.1.1 mine\n"),
    b"etc/resolv.conf": symlink(b"../run/systemd/resolve/stub-resolv.conf"),
    b"etc/localtime": symlink(b"/usr/share/zoneinfo/Europe/Berlin"),
    b"etc/network/interfaces": file(b"iface eth0 inet static\n"),
    b"etc/NetworkManager/system-connections/wlan.nmconnection": file(b"psk=x", mode=0o600),
    b"etc/tb-update/keys/builder.pub": file(b"key"),
    b"etc/machine-id": file(b"a" * 32),
    b"etc/motd": file(b"installed"),
    b"etc/passwd": file(b"root:x:0:0::/root:/bin/sh\nsshd:x:101:1::/:/bin/false\nme:x:1000:1000::/home/me:/bin/bash\n"),
    b"etc/shadow": file(b"root:$y$root:1::::::\nsshd:*:1::::::\nme:$y$me:1::::::\n", mode=0o640),
    b"etc/group": file(b"root:x:0:\nsudo:x:27:me\n_ssh:x:102:\nme:x:1000:\n"),
    b"etc/gshadow": file(b"root:*::\nsudo:*::me\n_ssh:!::\nme:!::\n", mode=0o640),
    b"etc/subuid": file(b"me:100000:65536\n"),
}
IMAGE: Tree = {
    b"etc/fstab": file(b"# nothing\n"),
    b"etc/hostname": file(b"build-host\n"),
    b"etc/resolv.conf": file(b"nameserver 192.0.2.1\n"),
    b"etc/localtime": symlink(b"/usr/share/zoneinfo/Etc/UTC"),
    b"etc/machine-id": file(b""),
    b"etc/motd": file(b"image"),
    b"etc/passwd": file(b"root:x:0:0::/root:/bin/bash\n_chrony:x:101:1::/:/bin/false\n"),
    b"etc/shadow": file(b"root:*:2::::::\n_chrony:!:2::::::\n", mode=0o640),
    b"etc/group": file(b"root:x:0:\nsudo:x:27:\n_chrony:x:102:\n"),
    b"etc/gshadow": file(b"root:*::\nsudo:*::\n_chrony:!::\n", mode=0o640),
    b"home": directory(),
}


def etc(dev: Device, name: str) -> str:
    return (dev.top / "snapshots/root/etc" / name).read_text()


@pytest.fixture
def dev(btrfs: Path, tmp_path: Path) -> Device:
    """An installed system, after `init`."""
    dev = set_up(btrfs, tmp_path)
    dev("init", "--undo", "--yes")
    shutil.rmtree(btrfs / "etc")
    build(INSTALLED, btrfs)
    dev("init", "--yes")
    return dev


@pytest.fixture
def image(dev: Device) -> str:
    build(IMAGE, dev.work / "image")
    return dev.image(None, dev.work / "image", "3.0")


def test_the_machine_stays_itself(dev: Device, image: str) -> None:
    done = dev.json("deploy", image)
    assert etc(dev, "fstab") == FSTAB.decode()
    assert etc(dev, "hostname") == "mine\n"
    assert etc(dev, "hosts") == "127.0.1.1 mine\n"
    assert etc(dev, "network/interfaces") == "iface eth0 inet static\n"
    assert etc(dev, "NetworkManager/system-connections/wlan.nmconnection") == "psk=x"
    assert etc(dev, "tb-update/keys/builder.pub") == "key"
    assert etc(dev, "machine-id") == "a" * 32
    assert etc(dev, "motd") == "image"
    assert etc(dev, "resolv.conf") == "nameserver 192.0.2.1\n", "a link to what other programs make is not carried"
    assert (dev.top / "snapshots/root/etc/localtime").readlink() == Path("/usr/share/zoneinfo/Europe/Berlin")
    assert done["deployments"][0]["conflicts"] == []
    told = [said for said in done["warnings"] if said.startswith("this machine's own stay")]
    assert told == ["this machine's own stay, where the image has others: /etc/fstab, /etc/hostname, /etc/localtime"]


def test_people_stay_and_the_systems_accounts_are_the_images(dev: Device, image: str) -> None:
    dev("deploy", image)
    assert etc(dev, "passwd").splitlines() == [
        "root:x:0:0::/root:/bin/bash",
        "_chrony:x:101:1::/:/bin/false",
        "me:x:1000:1000::/home/me:/bin/bash",
    ]
    assert etc(dev, "shadow").splitlines() == ["root:$y$root:1::::::", "_chrony:!:2::::::", "me:$y$me:1::::::"]
    assert etc(dev, "group").splitlines() == ["root:x:0:", "sudo:x:27:me", "_chrony:x:102:", "me:x:1000:"]
    assert etc(dev, "gshadow").splitlines() == ["root:*::", "sudo:*::me", "_chrony:!::", "me:!::"]
    assert etc(dev, "subuid") == "me:100000:65536\n"


def test_it_stays_so_with_the_next_image(dev: Device, image: str) -> None:
    dev("deploy", image)
    dev("commit")
    build(IMAGE | {b"etc/motd": file(b"newer")}, dev.work / "next")
    done = dev.json("deploy", dev.image(dev.work / "image", dev.work / "next", "4.0"))
    assert (etc(dev, "motd"), etc(dev, "hostname"), etc(dev, "fstab")) == ("newer", "mine\n", FSTAB.decode())
    assert "me:x:1000:1000::/home/me:/bin/bash" in etc(dev, "passwd")
    assert done["warnings"] == []


def test_an_image_that_starts_from_it_knows_better(dev: Device) -> None:
    installed = dev.top / "snapshots/current"
    dev_tree = INSTALLED | {b"etc/hosts": file(b"better"), b"etc/system": file(b"2"), b"sbin/new": file(b"x")}
    build(dev_tree, dev.work / "built")
    dev("deploy", dev.image(installed, dev.work / "built", "3.0"))
    assert etc(dev, "hosts") == "better"


def test_two_people_with_one_number_are_told(dev: Device) -> None:
    passwd = file(b"root:x:0:0::/root:/bin/bash\npi:x:1000:1000::/home/pi:/bin/bash\n")
    build(IMAGE | {b"etc/passwd": passwd}, dev.work / "pi")
    done = dev.json("deploy", dev.image(None, dev.work / "pi", "3.0"))
    assert [one["path"] for one in done["deployments"][0]["conflicts"]] == ["etc/passwd"]
    assert any("pi and me (both have number 1000)" in said for said in done["warnings"])


def test_that_stops_no_deploy(dev: Device, image: str) -> None:
    with (dev.work / "config.toml").open("a") as config:
        config.write('[local]\nconflict = "reject"\n')
    dev("deploy", image)
    assert etc(dev, "hostname") == "mine\n"


def test_what_is_own_is_said_by_the_configuration(dev: Device, image: str) -> None:
    with (dev.work / "config.toml").open("a") as config:
        config.write('[local]\nown = ["/etc/motd", "/etc/fstab", "/etc/passwd"]\n')
    dev("deploy", image)
    assert (etc(dev, "motd"), etc(dev, "hostname")) == ("installed", "build-host\n")


@pytest.mark.parametrize("carry", ['["/etc"]', "[]\nboth_ways = []"])
def test_neither_disks_nor_people_are_lost_because_the_list_is_empty(dev: Device, image: str, carry: str) -> None:
    before = names(dev.top)
    with (dev.work / "config.toml").open("a") as config:
        config.write(f"[local]\nown = []\ncarry = {carry}\n")
    error = dev.json("deploy", image, code=3)["error"]
    assert error["message"] == (
        "[local] own in config.toml leaves out what makes this machine itself: /etc/fstab of the image does not mount "
        "/boot, /home and /etc/passwd of the image has nobody in the place of me; nothing was changed"
    )
    assert names(dev.top) == before
    build(IMAGE | {b"etc/fstab": file(FSTAB)}, dev.work / "mounts")
    mounting = dev.image(None, dev.work / "mounts", "3.1")
    assert "/etc/fstab" not in dev.json("deploy", mounting, code=3)["error"]["message"]
    passwd = file(b"root:x:0:0::/root:/bin/bash\npi:x:1000:1000::/home/pi:/bin/bash\n")
    build(IMAGE | {b"etc/fstab": file(FSTAB), b"etc/passwd": passwd}, dev.work / "whole")
    dev("deploy", dev.image(None, dev.work / "whole", "3.2"))
    dev("rollback")
    config = (dev.work / "config.toml").read_text()
    (dev.work / "config.toml").write_text(config + 'drop = ["/etc/fstab", "/etc/passwd"]\n')
    dev("deploy", image)
    assert etc(dev, "fstab") == "# nothing\n"


def test_data_that_is_part_of_the_installed_root_is_told(dev: Device, image: str) -> None:
    root = dev.top / "snapshots/root"
    (root / "home/me").mkdir(parents=True)
    (root / "home/me/letter").write_text("x")
    (root / "srv/www").mkdir(parents=True)
    (root / "srv/www/index.html").write_text("x")
    (root / "var/log").mkdir(parents=True)
    told = dev.json("deploy", image)["warnings"]
    assert [said for said in told if said.startswith("what is in /srv stays behind")], "/home is mounted from elsewhere"
