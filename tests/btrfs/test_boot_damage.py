"""A boot partition that somebody else has been at: what is lost comes back or is said, and nothing is guessed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tbdiff.create import create_image
from tbdiff.errors import Failed, Rejected
from tbupdate import conversion, doctor
from tbupdate.boot import finder
from tbupdate.boot.chooser import MARK
from tbupdate.boot.uboot import UBoot
from tbupdate.config import Config
from tests import bootable, bootpart
from tests.bootable import Device
from tests.btrfs.test_deploy_boot import LOADERS, SECOND, a_device, settled
from tests.conftest import MakeBtrfs
from tests.device import TinyImage
from tests.rig import tb_update

pytestmark = pytest.mark.slow

IN_PLACE = pytest.mark.parametrize("dev", [name for name in LOADERS if name != "systemd-boot"], indirect=True)


@pytest.fixture(params=LOADERS)
def dev(request: pytest.FixtureRequest, make_btrfs: MakeBtrfs, tmp_path: Path) -> Iterator[Device]:
    with a_device(make_btrfs, tmp_path, request.param) as made:
        yield made


def findings(dev: Device) -> set[str]:
    site = dev.site()
    return {one.name for one in doctor.examine(site.survey(), site, str(dev.boot), Config()) if not one.notice}


def remove_kernels(dev: Device) -> None:
    for path in (dev.boot / "tb-update").glob("k-*"):
        shutil.rmtree(path)


def empty_kernels(dev: Device) -> None:
    for path in (dev.boot / "tb-update").glob("k-*/vmlinuz"):
        path.write_bytes(b"")


def remove_entries(dev: Device) -> None:
    for path in (dev.boot / "tb-update/entries").iterdir():
        path.unlink()


def spoil_entries(dev: Device) -> None:
    for number, path in enumerate(sorted((dev.boot / "tb-update/entries").iterdir())):
        said = {"deployment": path.stem, "title": "", "kernels": ["k-0", 5][number % 2], "initrd": True}
        path.write_text(MARK + json.dumps(said | {"devicetree": "", "options": ""}) + "\n")


@pytest.mark.parametrize("damage", [remove_kernels, empty_kernels])
def test_kernels_that_somebody_removed_come_back(dev: Device, damage: Callable[[Device], None]) -> None:
    lost_and_back(dev, damage)


@IN_PLACE
@pytest.mark.parametrize("damage", [remove_entries, spoil_entries])
def test_entries_that_somebody_removed_come_back(dev: Device, damage: Callable[[Device], None]) -> None:
    lost_and_back(dev, damage)


def lost_and_back(dev: Device, damage: Callable[[Device], None]) -> None:
    dev.deploy(SECOND)
    damage(dev)
    assert "entry" in findings(dev)
    dev.repair()
    assert dev.boots() == "second"
    assert dev.boots("back") == "first"
    assert "entry" not in findings(dev)
    settled(dev)


def test_what_is_not_ours_among_our_entries_is_passed_over(dev: Device) -> None:
    inside = dev.boot / ("loader/entries" if dev.chooser.name == "systemd-boot" else "tb-update/entries")
    for number, suffix in enumerate((".conf", ".cfg", ".env")):
        for name in (f"x{suffix}", f"tb-update-00000{number + 5}-x{suffix}"):
            os.mkfifo(inside / f"f{name}")
            (inside / f"d{name}").mkdir()
            (inside / f"l{name}").symlink_to("/nowhere")
    assert "entry" not in findings(dev)
    dev.deploy(SECOND)
    assert dev.survey().default == dev.survey().staged
    dev.run(dev.plan_rollback())
    assert not findings(dev) & {"entry", "default"}


@IN_PLACE
def test_a_way_back_that_somebody_removed_is_written_again(dev: Device) -> None:
    dev.deploy(SECOND)
    (dev.boot / "tb-update/back").unlink()
    dev.run(dev.plan_commit())
    assert dev.boots() == "second"
    assert dev.boots("back") == "first"


@IN_PLACE
def test_a_choice_that_is_no_file_is_damaged(dev: Device, tmp_path: Path) -> None:
    choice = dev.boot / "tb-update/choice"
    block = choice.read_bytes()
    choice.unlink()
    choice.mkdir()
    with pytest.raises(Failed, match="choice is damaged"):
        dev.survey()
    choice.rmdir()
    # A link, which a boot loader does not follow to another file system.
    (tmp_path / "elsewhere").write_bytes(block)
    choice.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Failed, match="choice is damaged"):
        dev.survey()


def test_our_directory_elsewhere_is_refused(dev: Device, tmp_path: Path) -> None:
    ours = dev.boot / "tb-update"
    shutil.copytree(ours, tmp_path / "elsewhere")
    shutil.rmtree(ours)
    for stands_for_it in (lambda: ours.symlink_to(tmp_path / "elsewhere"), lambda: ours.write_text("")):
        stands_for_it()
        with pytest.raises(Rejected, match=r"is no directory.*nothing was changed"):
            bootpart.chooser(dev.boot)
        ours.unlink()


def test_files_of_another_boot_loader_change_nothing(dev: Device) -> None:
    bootpart.install(dev.boot, "systemd-boot" if dev.chooser.name == "grub" else "grub")
    assert len(finder.found(str(dev.boot), None)) > 1
    assert bootpart.chooser(dev.boot) == dev.chooser
    if dev.chooser.name != "systemd-boot":
        choice = dev.boot / "tb-update/choice"
        choice.write_bytes(b"x" * 1024)
        with pytest.raises(Failed, match="damaged"):
            bootpart.chooser(dev.boot).choice()


def lose_choice(dev: Device) -> None:
    (dev.boot / "tb-update/choice").unlink()


def lose_entries(dev: Device) -> None:
    for path in (dev.boot / "loader/entries").glob("tb-update-*"):
        path.unlink()


@pytest.mark.parametrize(("loader", "lose"), [("grub", lose_choice), ("systemd-boot", lose_entries)])
def test_without_a_choice_nothing_is_deployed_past_the_boot_loader(
    make_btrfs: MakeBtrfs, tmp_path: Path, loader: str, lose: Callable[[Device], None]
) -> None:
    with a_device(make_btrfs, tmp_path, loader) as dev:
        lose(dev)
        bootable.bootable("6.1.0-2")(tmp_path / "tree")
        create_image(None, tmp_path / "tree", tmp_path / "image")
        config = tmp_path / "config.toml"
        config.write_text(f'keys = "{tmp_path}"\n')
        deploy = ("deploy", tmp_path / "image", "--allow-unsigned", "--allow-downgrade", "--boot", dev.boot)
        ended = tb_update(dev.top, *deploy, config=config)
        assert ended.code == 3
        assert "does not know of tb-update; nothing was changed" in ended.err
        assert tb_update(dev.top, "init", "--yes", "--boot", dev.boot, config=config).code == 0
        assert tb_update(dev.top, *deploy, config=config).code == 0


def test_doctor_finds_a_boot_partition_that_is_read_only(make_btrfs: MakeBtrfs, tmp_path: Path) -> None:
    with a_device(make_btrfs, tmp_path, "grub") as dev:
        assert "boot-read-only" not in findings(dev)
        subprocess.run(["mount", "-o", "remount,ro", dev.boot], check=True)
        assert "boot-read-only" in findings(dev)
        with pytest.raises(Failed):
            dev.deploy(SECOND)
        subprocess.run(["mount", "-o", "remount,rw", dev.boot], check=True)
        dev.repair()
        assert dev.boots() == "first"
        settled(dev)


def test_an_undo_that_cannot_take_our_files_away_fails(dev: Device) -> None:
    """Where they stay, the boot loader goes on booting what is gone then."""
    subprocess.run(["mount", "-o", "remount,ro", dev.boot], check=True)
    with pytest.raises(Failed, match=r"as it was before|cannot be written"):
        dev.run(conversion.plan_undo(dev.survey(), conversion.TOP))
    subprocess.run(["mount", "-o", "remount,rw", dev.boot], check=True)
    assert dev.boots() == "first"
    settled(dev)


@pytest.mark.parametrize("dev", ["u-boot"], indirect=True)
def test_without_its_environment_a_counter_that_runs_is_not_forgotten(dev: Device) -> None:
    """U-Boot may still read what Linux cannot: a commit past the counter would be undone by it in the end."""
    dev.deploy(SECOND)
    where = bootpart.environment(dev.boot)
    kept = (dev.boot / bootpart.ENVIRONMENTS[0]).read_bytes()
    (dev.boot / bootpart.ENVIRONMENTS[0]).unlink()
    found = finder.find_chooser("auto", str(dev.boot), running=False, environment=where)
    assert found == dev.chooser
    assert "cannot be read" in found.coverage.sentence
    with pytest.raises(Failed, match="nothing can be read there"):
        dev.run(dev.plan_commit())
    assert dev.survey().pending is not None
    (dev.boot / bootpart.ENVIRONMENTS[0]).write_bytes(kept)
    dev.run(dev.plan_commit())
    assert dev.survey().pending is None
    assert isinstance(dev.chooser, UBoot)
    assert (dev.chooser.environment.read() or {})["upgrade_available"] == "0"


@pytest.mark.parametrize("dev", ["u-boot"], indirect=True)
def test_an_environment_that_only_seems_to_be_written_is_found_out(
    dev: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fw_setenv").write_text("#!/bin/sh\n")
    (tmp_path / "fw_setenv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(Failed, match="it is not what was written to it"):
        dev.deploy(SECOND)
    assert dev.boots() == "first"
    settled(dev)


@pytest.mark.parametrize("dev", ["u-boot"], indirect=True)
@pytest.mark.parametrize("lost", ["usr/bin/fw_setenv", "usr/bin/fw_printenv", "etc/fw_env.config"])
def test_a_system_that_could_not_stop_the_counter_is_rejected(dev: Device, lost: str) -> None:
    """Kept, it would be left again, as soon as U-Boot has counted often enough."""
    first = dev.survey().current
    assert first is not None
    assert (dev.top / "snapshots" / first.id / lost).exists()

    def without(tree: Path) -> None:
        bootable.bootable("6.1.0-2")(tree)
        (tree / lost).unlink()

    image = TinyImage("second", "2.0", failure=without)
    with pytest.raises(Rejected, match=r"could not stop U-Boot's counter.*nothing was changed"):
        dev.deploy(image)
    assert dev.boots() == "first"
    settled(dev)


@pytest.mark.parametrize("dev", ["u-boot"], indirect=True)
def test_a_configuration_that_is_a_local_change_need_not_be_in_the_image(dev: Device, tmp_path: Path) -> None:
    trees = []
    for name in ("here", "image"):
        bootable.bootable("6.1.0-2")(tmp_path / name)
        (tmp_path / name / "etc/fw_env.config").unlink()
        trees.append(os.open(tmp_path / name, os.O_RDONLY))
    try:
        dev.chooser.require_tools(trees[1], trees[0])
        (tmp_path / "here/etc/fw_env.config").touch()
        with pytest.raises(Rejected, match="could not stop"):
            dev.chooser.require_tools(trees[1], trees[0])
    finally:
        for tree in trees:
            os.close(tree)
