"""Data of an installed root that `init` gives subvolumes of its own: whole, cut after every step, and live."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tbdiff.errors import NothingToDo, Rejected
from tbupdate import carrying, conversion, fstab, moving, planning, upkeep
from tbupdate.datavocabulary import Move
from tbupdate.record import Record
from tbupdate.steps import Plan
from tbupdate.system import System, survey
from tests import device
from tests.console import Device, set_up
from tests.device import NOW, TinyImage, run, run_first
from tests.honest import differences
from tests.trees import Noise, Tree, acl, build, directory, file, sock, sparse, symlink

FSTAB = "# installed\nUUID=1 / btrfs noatime,compress=zstd,subvol=@ 0 0\nUUID=2 /boot ext4 defaults 0 2"
DATA: Tree = {
    b"": directory(mode=0o755),
    b"me": directory(mode=0o700, uid=1000, gid=1000),
    b"me/letter": file(b"dear", mode=0o600, uid=1000, xattrs=((b"user.mine", b"1"), acl(0o600, (7, 4)))),
    b"me/one": file(b"linked", group="g"),
    b"me/two": file(b"linked", group="g"),
    b"me/holes": sparse(1_000_000, Noise(500_000, 5000, 1)),
    b"me/link": symlink(b"/etc/passwd"),
    b"me/socket": sock(),
    b"me/big": sparse(3_000_000, Noise(0, 3_000_000, 2)),
    b"etc": directory(mode=0o750, gid=5),
    b"etc/odd\n\xff": file(b"a name that the root has, too"),
    b"home": directory(),
    b"home/home": file(b"x"),
}
SYSTEM: Tree = {
    b"etc/fstab": file(FSTAB.encode()),
    b"etc/system": file(b"first"),
    b"usr/bin/program": file(b"p", mode=0o4755),
    b"var/log": directory(mode=0o2775, gid=4),
    b"var/log/syslog": file(b"line"),
    b"var/lib/dpkg/status": file(b"Package: x"),
    b"srv": directory(),
}
MOVES = (Move("home", "@home"), Move("var/log", "@var-log"))


@pytest.fixture
def installed(btrfs: Path) -> Path:
    """A Btrfs whose subvolume @ is an installed system with data."""
    root = btrfs / "@"
    subprocess.run(["btrfs", "-q", "subvolume", "create", root], check=True)
    build(SYSTEM, root)
    build(DATA, root / "home")
    subprocess.run(["cp", "-a", root, btrfs.parent / "as-installed"], check=True)
    subprocess.run(["btrfs", "-q", "subvolume", "snapshot", "-r", root, btrfs / "kept"], check=True)
    return btrfs


def plan_init(top: Path, system: System | None = None, moves: tuple[Move, ...] = MOVES) -> Plan:
    system = system or survey(str(top))
    source = conversion.find_source(system, "@", [])
    return conversion.plan_init(system, source, Record(id=device.fresh_id(), created=NOW), NOW, moves)


def live(top: Path) -> System:
    """As if the installed root were what runs."""
    system = survey(str(top))
    return replace(system, booted_id=next(place.id for place in system.elsewhere if place.path == "@"))


def moved_out(top: Path) -> None:
    assert differences(top / "kept/home", top / "@home") == []
    assert differences(top / "kept/var/log", top / "@var-log") == []
    for name in ("root", "current"):
        tree = top / "snapshots" / name
        assert os.listdir(tree / "home") == []
        assert os.listdir(tree / "var/log") == []
        was = (top / "kept/var/log").stat()
        now = (tree / "var/log").stat()
        assert (now.st_mode, now.st_gid, now.st_mtime_ns) == (was.st_mode, was.st_gid, was.st_mtime_ns)
        assert (tree / "usr/bin/program").read_text() == "p"
    assert differences(top / "kept", top / "@") == [], "the installed root is as it was"


def mounts(top: Path) -> dict[str, tuple[str | None, tuple[str, ...]]]:
    table = fstab.read(str(top / "snapshots/root"))
    return {line.point: (fstab.subvolume_of(line), line.options) for line in table}


def shared(path: Path, other: Path) -> bool:
    extents = [
        subprocess.run(["filefrag", "-v", one], check=True, capture_output=True, text=True) for one in (path, other)
    ]
    one, two = ([line.split()[3] for line in said.stdout.splitlines()[3:-1]] for said in extents)
    return one == two


def test_data_is_taken_out_and_mounted_again(installed: Path) -> None:
    top = installed
    assert run(top, plan_init(top)) == ()
    device.check_settled(top)
    moved_out(top)
    assert shared(top / "kept/home/me/big", top / "@home/me/big"), "nothing was copied"
    assert mounts(top) == {
        "/": (None, ("noatime", "compress=zstd")),
        "/boot": (None, ("defaults",)),
        "/home": ("@home", ("noatime", "compress=zstd", "subvol=@home")),
        "/var/log": ("@var-log", ("noatime", "compress=zstd", "subvol=@var-log")),
    }
    uuid = subprocess.run(["findmnt", "-no", "UUID", top], check=True, capture_output=True, text=True).stdout.strip()
    assert f"UUID={uuid} /home btrfs " in (top / "snapshots/root/etc/fstab").read_text()
    assert (top / "snapshots/root/etc/fstab").read_text().startswith("# installed\nUUID=1 / btrfs noatime,")


def test_a_program_finds_its_data_where_fstab_says(installed: Path) -> None:
    run(installed, plan_init(installed))
    root = installed / "snapshots/root"
    subprocess.run(
        ["mount", "--all", "--fstab", root / "etc/fstab", "--target-prefix", root, "-t", "btrfs"], check=False
    )
    try:
        assert (root / "home/me/letter").read_text() == "dear"
        assert (root / "var/log/syslog").read_text() == "line"
    finally:
        subprocess.run(["umount", root / "home", root / "var/log"], check=False)


def test_init_cut_after_every_step(installed: Path) -> None:
    for count in range(100):
        plan = plan_init(installed)
        assert count <= len(plan.every_step) or count > 10
        if count > len(plan.every_step):
            return
        run_first(installed, plan, count)
        system = survey(str(installed))
        if not system.initialised:
            device.repair(installed)
        if not survey(str(installed)).initialised:
            left = sorted(set(os.listdir(installed)) - {"@", "kept", "snapshots", "tb-update"})
            assert left == [], count
            assert survey(str(installed)).subvolumes == {}
            assert run(installed, plan_init(installed)) == ()
        else:
            device.repair(installed)
        device.check_settled(installed)
        moved_out(installed)
        run(installed, conversion.plan_undo(survey(str(installed)), "@"))
        assert sorted(os.listdir(installed)) == ["@", "kept"], count
    raise AssertionError("a plan of a hundred steps")


def test_a_strangers_subvolume_is_never_replaced_nor_removed(installed: Path) -> None:
    plan = plan_init(installed)
    subprocess.run(["btrfs", "-q", "subvolume", "create", installed / "@home"], check=True)
    (installed / "@home/theirs").write_text("x")
    with pytest.raises(Exception, match="File exists"):
        run(installed, plan)
    assert (installed / "@home/theirs").read_text() == "x"
    assert not survey(str(installed)).initialised
    assert sorted(os.listdir(installed)) == ["@", "@home", "kept", "snapshots", "tb-update"]
    assert survey(str(installed)).marks.moved == {}


def test_what_is_locked_is_moved_all_the_same(installed: Path) -> None:
    locked = [
        installed / "@/home/me",
        installed / "@/home/me/letter",
        installed / "@/usr/bin/program",
        installed / "@/usr",
        installed / "@/etc/fstab",
    ]
    subprocess.run(["chattr", "+i", *locked], check=True)
    nocow = installed / "@/home/vm"
    nocow.mkdir()
    subprocess.run(["chattr", "+C", nocow], check=True)
    (nocow / "disk").write_bytes(b"x" * 10000)
    try:
        run(installed, plan_init(installed))
        said = subprocess.run(
            ["lsattr", "-d", *(installed / "@home" / name for name in ("me", "me/letter", "vm/disk"))],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert ["i" in line.split()[0] for line in said.splitlines()] == [True, True, False]
        assert "C" in said.splitlines()[2].split()[0]
        assert not (installed / "@home/usr").exists()
        table = installed / "snapshots/root/etc/fstab"
        assert "subvol=@home" in table.read_text()
        assert "i" in subprocess.check_output(["lsattr", table], text=True).split()[0]
    finally:
        subprocess.run(["chattr", "-R", "-f", "-i", installed / "@home", installed / "@"], check=False)


# --- undo ------------------------------------------------------------------------------------------------------------


def test_undo_takes_it_back_but_nothing_that_was_written_since(installed: Path) -> None:
    run(installed, plan_init(installed))
    (installed / "@home/me/new").write_text("written after init")
    subprocess.run(["sync", "-f", installed], check=True)
    plan = conversion.plan_undo(survey(str(installed)), "@")
    assert [note.split()[0] for note in plan.notes] == ["@home"]
    run(installed, plan)
    assert sorted(os.listdir(installed)) == ["@", "@home", "kept"]
    assert (installed / "@home/me/new").exists()
    assert differences(installed / "kept", installed / "@") == []
    with pytest.raises(Rejected, match="@home is there already"):
        moving.find_moves(str(installed / "@"), ["/home"], os.listdir(installed))


# --- a system that runs meanwhile -------------------------------------------------------------------------------------


def write(top: Path) -> None:
    """What goes on in the installed root after `init`."""
    (top / "@/home/me/late").write_text("written while the installed root still ran")
    (top / "@/home/me/letter").unlink()
    (top / "@/etc/hosts").write_text("late")


def started(top: Path, finish: Callable[[System], System]) -> None:
    """What the first command after the boot does."""
    plan = upkeep.plan_repair(finish(survey(str(top))), NOW)
    if plan.every_step:
        run(top, plan)


def in_new_root(system: System) -> System:
    return replace(system, booted_id=system.default_id)


def test_what_is_written_until_the_reboot_comes_along(installed: Path) -> None:
    top = installed
    plan = plan_init(top, live(top))
    assert any("tb-update-carry.service" in note for note in plan.notes)
    run(top, plan)
    write(top)
    for refused in (
        lambda: planning.plan_deploy(live(top), TinyImage("second", "2.0").manifest, device.offer()),
        lambda: planning.refuse_during_trial(live(top)),
    ):
        with pytest.raises(Rejected, match="follows at the reboot"):
            refused()
    assert upkeep.plan_repair(live(top), NOW).every_step == (), "nobody stops waiting for it"
    for _ in range(2):
        assert run(top, carrying.plan_carry(live(top))) == ()
        assert differences(top / "@/home", top / "@home") == []
        assert differences(top / "@/var/log", top / "@var-log") == []
        assert (top / "snapshots/root/etc/hosts").read_text() == "late"
    assert mounts(top)["/"] == (None, ("noatime", "compress=zstd"))
    started(top, in_new_root)
    assert survey(str(top)).marks.installed is None
    device.check_settled(top)
    with pytest.raises(NothingToDo):
        carrying.plan_carry(in_new_root(survey(str(top))))
    device.deploy(top, TinyImage("second", "2.0"))


def test_the_carriage_at_shutdown_cut_after_every_step(installed: Path) -> None:
    top = installed
    run(top, plan_init(top, live(top)))
    for count in range(40):
        (top / "@/home/me/late").write_text(f"{count}")
        plan = carrying.plan_carry(live(top))
        if count > len(plan.every_step):
            return
        run_first(top, plan, count)
        late = (top / "@home/me/late").read_text() if (top / "@home/me/late").exists() else None
        assert late in (None, *(str(n) for n in range(count + 1)))
        assert (top / "@home/me/big").stat().st_size == 3_000_000
        system = live(top)
        plan = upkeep.plan_repair(system, NOW)
        if plan.every_step:
            run(top, plan)
        run(top, carrying.plan_carry(live(top)))
        assert differences(top / "@/home", top / "@home") == [], count
    raise AssertionError("a plan of forty steps")


def test_what_a_power_cut_kept_from_coming_along_is_told(installed: Path) -> None:
    top = installed
    run(top, plan_init(top, live(top)))
    write(top)
    plan = upkeep.plan_repair(in_new_root(survey(str(top))), NOW)
    told = run(top, plan)
    assert [said for said in told if "written to /home between `init` and the boot" in said and "in @, " in said]
    assert not [said for said in told if "/var/log" in said]
    assert (top / "snapshots/root/etc/hosts").read_text() == "late"
    assert differences(top / "kept/home", top / "@home") == [], "what is in use is left alone"


def test_what_somebody_has_used_already_is_not_replaced(installed: Path) -> None:
    top = installed
    run(top, plan_init(top, live(top)))
    write(top)
    (top / "@home/me/here").write_text("by hand")
    subprocess.run(["sync", "-f", top], check=True)
    told = run(top, carrying.plan_carry(live(top)))
    assert [said for said in told if "written to /home" in said]
    assert (top / "@home/me/here").exists()


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def dev(btrfs: Path, tmp_path: Path) -> Device:
    dev = set_up(btrfs, tmp_path)
    dev("init", "--undo", "--yes")
    shutil.rmtree(btrfs / "etc")
    build(SYSTEM, btrfs)
    build(DATA, btrfs / "home")
    return dev


def test_who_says_just_init_is_told(dev: Device) -> None:
    shown = dev.json("init", "--dry-run")
    assert any("tb-update init --move /home --move /var/log" in note for note in shown["notes"])
    assert not any("/srv" in note for note in shown["notes"]), "nothing is in it"
    nothing = "There is no system in it yet: deploy a full image next."
    assert nothing not in shown["notes"]
    subprocess.run(["btrfs", "--quiet", "subvolume", "create", dev.top / "empty"], check=True)
    assert nothing in dev.json("init", "--dry-run", "--root", "empty")["notes"]
    subprocess.run(["btrfs", "--quiet", "subvolume", "delete", dev.top / "empty"], check=True)
    dev("init", "--yes")
    assert (dev.top / "snapshots/root/home/me/letter").exists()
    assert "--move is for making it" in dev.run("init", "--yes", "--move", "/home").stderr


def test_all_that_is_usual(dev: Device) -> None:
    said = dev("init", "--dry-run", "--move", "all", "--move", "/opt=@opt", code=3)
    (dev.top / "opt").mkdir()
    said = dev("init", "--yes", "--move", "all", "--move", "/opt=@programs")
    for name in ("@home", "@srv", "@var-log", "@programs"):
        assert (dev.top / name).is_dir()
        assert name in said
    assert dev("doctor").count("of its own beside") == 0


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (["/etc"], "belongs to the system"),
        (["/usr/local"], "belongs to the system"),
        (["/"], "no directory that could be moved out"),
        (["home"], "no directory that could be moved out"),
        (["/home/../etc"], "no directory that could be moved out"),
        (["/home=a/b"], "cannot be the name"),
        (["/home=snapshots"], "cannot be the name"),
        (["/home=@data"], "there already"),
        (["/home", "/srv=@home"], "there already"),
        (["/home", "/home/me"], "is within /home"),
        (["/home", "/home=@other"], "or is it"),
        (["/none"], "is no directory"),
        (["/link"], "is no directory"),
        (["/link/me"], "is no directory"),
        (["/inner"], "is no directory"),
        (["/var"], "/var/lib/dpkg, which says what is installed"),
        (["/var/lib"], "/var/lib/dpkg, which says what is installed"),
        (["/data"], "mounted from elsewhere"),
        (["/data/below"], "mounted from elsewhere"),
    ],
)
def test_what_cannot_be_moved_out(dev: Device, wanted: list[str], why: str) -> None:
    for name in ("@data", "inner"):
        subprocess.run(["btrfs", "-q", "subvolume", "create", dev.top / name], check=True)
    (dev.top / "link").symlink_to("home")
    (dev.top / "data/below").mkdir(parents=True)
    with (dev.top / "etc/fstab").open("a") as table:
        table.write("\nLABEL=data /data ext4 defaults 0 0\n")
    before = sorted(os.listdir(dev.top))
    refused = dev.run("init", "--yes", *(word for place in wanted for word in ("--move", place)))
    assert (refused.returncode, why in refused.stderr) == (3, True), refused.stderr
    assert "nothing was changed" in refused.stderr
    assert sorted(os.listdir(dev.top)) == before


def test_a_foreign_image_finds_the_data_where_it_is(dev: Device) -> None:
    """The image has a /home of its own, and no line for it: the device's table stays, and what is hidden is told."""
    dev("init", "--yes", "--move", "/home")
    image = {b"etc/fstab": file(b"# of the image\n"), b"home/kiosk/.profile": file(b"x"), b"etc/system": file(b"2")}
    build(image, dev.work / "image")
    done = dev.json("deploy", dev.image(None, dev.work / "image", "3.0"))
    assert "subvol=@home" in (dev.top / "snapshots/root/etc/fstab").read_text()
    assert any("brings 2 files and directories below /home" in said for said in done["warnings"])
    assert (dev.top / "@home/me/letter").read_text() == "dear"
    assert not (dev.top / "@home/kiosk").exists()
