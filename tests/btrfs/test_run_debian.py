"""A real Debian is changed by its own package manager in a new root: a package comes, an upgrade, and every cut."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tbdiff.tree import read_tree
from tbupdate import planning
from tbupdate.steps import SetDefault
from tbupdate.system import survey
from tests import device, systems
from tests.conftest import btrfs_maker
from tests.console import Device
from tests.corpus.debian import Corpus
from tests.device import check_settled, run_first

PACKAGE = "tree"


@pytest.fixture(scope="module")
def debian(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """A Debian as a device, with a repository of its own that holds one package."""
    with btrfs_maker() as make:
        top, work = make(6 << 30), tmp_path_factory.mktemp("debian")
        subprocess.run(["btrfs", "-q", "subvolume", "create", top / "@"], check=True)
        subprocess.run(["cp", "-a", f"{corpus.point_v1}/.", top / "@"], check=True)
        (top / "@/root/repository").mkdir()
        (top / "@/etc/apt/sources.list").write_text("deb [trusted=yes] file:/root/repository ./\n")
        (top / "@/etc/apt/apt.conf.d/00test").write_text('APT::Sandbox::User "root";\nAPT::Install-Recommends "0";\n')
        offer(top / "@/root/repository", fetched(work))
        (work / "config.toml").write_text("")
        made = Device(top, work)
        made("init", "--root", "@", "--yes")
        yield made


def fetched(work: Path) -> Path:
    """A small real package, from where this machine has its own."""
    done = subprocess.run(["apt-get", "download", "-q", PACKAGE], cwd=work, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"there is no package to be had: {done.stderr}")
    return next(work.glob(f"{PACKAGE}_*.deb"))


def offer(repository: Path, package: Path) -> None:
    """Make a package all that a repository holds."""
    content = package.read_bytes()
    told = subprocess.run(["dpkg-deb", "-f", package], capture_output=True, text=True, check=True).stdout
    told += f"Filename: ./{package.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
    for old in repository.iterdir():
        old.unlink()
    (repository / package.name).write_bytes(content)
    (repository / "Packages").write_text(told)


def newer(package: Path, work: Path) -> Path:
    """The next version of it, which starts a service when it is configured and leaves its traces if that was done."""
    tree = work / "newer"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace("Version: ", "Version: 99:"))
    (tree / "etc/init.d").mkdir(parents=True)
    (tree / "etc/init.d/tree").write_text("#!/bin/sh\necho started >/etc/started\n")
    (tree / "etc/init.d/tree").chmod(0o755)
    (tree / "DEBIAN/postinst").write_text("#!/bin/sh\nset -e\nsystemd-tmpfiles --create\ninvoke-rc.d tree start\n")
    (tree / "DEBIAN/postinst").chmod(0o755)
    made = work / f"{PACKAGE}_99.deb"
    subprocess.run(["dpkg-deb", "-b", tree, made], check=True, capture_output=True)
    return made


def installed(tree: Path) -> str:
    asked = ["dpkg-query", f"--admindir={tree}/var/lib/dpkg", "-W", "-f", "${db:Status-Abbrev}${Version}", PACKAGE]
    return subprocess.run(asked, capture_output=True, text=True).stdout


def test_a_package_is_installed_and_an_upgrade_follows(debian: Device) -> None:
    top = debian.top
    made = debian.json("run", "--", "sh", "-c", f"apt-get -q update && apt-get -q -y install {PACKAGE}")
    tree = top / "snapshots" / made["id"]
    assert installed(tree).startswith("ii ")
    assert (tree / "usr/bin/tree").exists()
    assert read_tree(tree).digest.hex() == made["deployments"][0]["tree"]
    assert not installed(top / "snapshots" / f"{made['committed']}.root")
    assert installed(top / "snapshots/root").startswith("ii ")
    check_settled(top)
    debian("commit")
    debian("upgrade", "--packages", code=4)
    offer(top / "snapshots/root/root/repository", newer(fetched(debian.work), debian.work))
    (top / "snapshots/root/etc/hostname").write_text("mine\n")
    made = debian.json("upgrade", "--packages")
    root = top / "snapshots/root"
    assert installed(root).startswith("ii 99:")
    assert (root / "etc/hostname").read_text() == "mine\n"
    assert not (root / "etc/started").exists(), "a service was started"
    assert not (root / "usr/sbin/policy-rc.d").exists()
    assert read_tree(top / "snapshots" / made["id"]).digest.hex() == made["deployments"][0]["tree"]
    debian("rollback")
    assert not installed(root).startswith("ii 99:")
    check_settled(top)


def test_an_installation_cut_after_every_step(debian: Device) -> None:
    top = debian.top
    script = "dpkg -i /root/repository/*.deb && touch /etc/done"
    for count in range(100):
        plan = systems.plan_run(top, "sh", "-c", script)
        if count > len(plan.every_step):
            return
        before = survey(str(top)).default
        run_first(top, plan, count)
        switch = next(n for n, step in enumerate(plan.steps) if isinstance(step, SetDefault))
        device.repair(top)
        system = check_settled(top)
        assert before is not None
        assert system.default is not None
        assert system.default.id == (plan.deployment if count > switch else before.id)
        if count > switch:
            known = system.default.record
            assert known is not None
            assert read_tree(top / "snapshots" / system.default.id).digest.hex() == known.tree
            device.run(top, planning.plan_rollback(system, None, device.NOW, "test"))
    raise AssertionError("a plan of a hundred steps")
