"""What every boot chooser must do, on a real boot partition, as the boot loader itself reads it."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tbdiff.errors import Failed, Rejected
from tbupdate.boot import chooser as boot_chooser
from tbupdate.boot import finder, flash_kernel, place
from tbupdate.boot.chooser import Choice, Chooser, Entry
from tbupdate.boot.inplace import InPlace
from tbupdate.boot.uboot import Environment, UBoot
from tests import bootpart

LOADERS = ("grub", "extlinux", "u-boot", "flash-kernel", "systemd-boot")
ONE, TWO, THREE = "1.0-000001", "2.0-000002", "3.0-000003"


@dataclass
class Part:
    chooser: Chooser
    directory: Path
    image: Path

    def read(self, path: str) -> str:
        """As the boot loader reads it."""
        found = bootpart.as_loader(self.image, path)
        assert found is not None, path
        return found.decode(errors="replace")


IN_PLACE = pytest.mark.parametrize("part", ["grub", "extlinux", "u-boot", "flash-kernel"], indirect=True)


@pytest.fixture(params=LOADERS)
def part(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Part]:
    if os.geteuid() != 0:
        pytest.fail("this test mounts an ext4 image and needs root")
    folder = tmp_path / f"tb-test-{os.environ['TB_TEST_SESSION']}-part"
    folder.mkdir()
    with bootpart.partition(folder, request.param) as (directory, image):
        chooser = bootpart.chooser(directory)
        assert chooser.name == request.param
        yield Part(chooser, directory, image)


def entry(deployment: str) -> Entry:
    return Entry(deployment, f"Demo {deployment}", "k-0", True, "", f"root=UUID=x ro quiet tb.id={deployment}")


def ready(part: Part) -> Chooser:
    part.chooser.add(entry(ONE))
    part.chooser.set_up(Choice(ONE))
    part.chooser.add(entry(TWO))
    return part.chooser


def test_nothing_is_chosen_before_it_is_set_up(part: Part) -> None:
    before = {path: path.read_bytes() for path in part.directory.rglob("*") if path.is_file()}
    assert part.chooser.choice() is None
    assert part.chooser.entries() == {}
    part.chooser.add(entry(ONE))
    assert part.chooser.choice() is None
    assert all(path.read_bytes() == content for path, content in before.items())


def test_what_was_written_is_read_again(part: Part) -> None:
    chooser = ready(part)
    assert chooser.choice() == Choice(ONE)
    assert chooser.entries() == {ONE: entry(ONE), TWO: entry(TWO)}
    for choice in (Choice(ONE, TWO, 3, ONE), Choice(ONE, TWO, 0, ONE), Choice(TWO, back=ONE), Choice(ONE)):
        chooser.choose(choice)
        assert chooser.choice() == choice
    chooser.choose(Choice(ONE))
    chooser.forget(TWO)
    chooser.forget(TWO)
    assert chooser.entries() == {ONE: entry(ONE)}


@IN_PLACE
def test_the_loader_sees_each_step_when_it_returns(part: Part) -> None:
    chooser = ready(part)
    assert isinstance(chooser, InPlace)
    assert TWO in part.read(f"tb-update/entries/{TWO}{chooser.dialect.suffix}")
    chooser.choose(Choice(ONE, TWO, 3, ONE))
    assert TWO in part.read("tb-update/choice")
    assert TWO not in part.read("tb-update/back")
    chooser.choose(Choice(TWO, back=ONE))
    assert ONE in part.read("tb-update/back")


@IN_PLACE
def test_the_choice_never_moves_and_never_changes_its_length(part: Part) -> None:
    chooser = ready(part)
    places = set()
    for choice in (Choice(ONE), Choice(ONE, TWO, 9, ONE), Choice(TWO, THREE, 1, TWO), Choice("l" * 80 + "-000001")):
        chooser.choose(choice)
        assert (part.directory / "tb-update/choice").stat().st_size == 1024
        said = subprocess.run(
            ["filefrag", "-v", part.directory / "tb-update/choice"], check=True, capture_output=True, text=True
        ).stdout
        extents = re.findall(r"^ +\d+: .*?(\d+)\.\. +\d+: +(\d+):", said, re.MULTILINE)
        assert len(extents) == 1
        assert extents[0][1] == "1"
        places.add(extents[0])
    assert len(places) == 1


@IN_PLACE
def test_the_longest_ids_fit(part: Part) -> None:
    chooser = ready(part)
    long = [c * 80 + "-000001" for c in "abc"]
    chooser.choose(Choice(long[0], long[1], 9, long[2]))
    assert chooser.choice() == Choice(long[0], long[1], 9, long[2])


@IN_PLACE
def test_what_others_wrote_stays(part: Part) -> None:
    if part.chooser.name == "flash-kernel":
        before = (part.directory / "boot.scr").read_bytes()
        ready(part)
        assert (part.directory / "boot.scr").read_bytes() == before
        return
    path = part.directory / ("grub/custom.cfg" if part.chooser.name == "grub" else "extlinux/extlinux.conf")
    os.chown(path, 3, 4)
    before, state = path.read_bytes(), path.stat()
    chooser = ready(part)
    after = path.read_bytes()
    assert after.startswith(before)
    mine = after.partition(b"\0")[0].splitlines()[len(before.splitlines()) :]
    assert [line for line in mine if not line.startswith(b"#")] == [b"INCLUDE /tb-update/choice"] or len(mine) == 1
    assert (path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) == (state.st_mode, 3, 4)
    chooser.set_up(Choice(ONE))
    assert path.read_bytes() == after


@pytest.mark.parametrize("part", ["grub", "extlinux"], indirect=True)
def test_a_configuration_that_is_a_link_stays_one(part: Part) -> None:
    path = part.directory / ("grub/custom.cfg" if part.chooser.name == "grub" else "extlinux/extlinux.conf")
    held = path.rename(path.with_name("held"))
    path.symlink_to("held")
    before = held.read_bytes()
    chooser = ready(part)
    assert path.is_symlink()
    assert chooser.leads()
    chooser.take_down()
    assert path.is_symlink()
    assert held.read_bytes().rstrip() == before.rstrip()


@pytest.mark.parametrize("part", ["grub"], indirect=True)
def test_a_link_without_its_file_stays_one_too(part: Part) -> None:
    path = part.directory / "grub/custom.cfg"
    path.unlink()
    path.symlink_to("held")
    ready(part).take_down()
    assert path.is_symlink()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("part", ["grub", "extlinux"], indirect=True)
def test_a_configuration_off_the_boot_partition_is_refused(part: Part, tmp_path: Path) -> None:
    path = part.directory / ("grub/custom.cfg" if part.chooser.name == "grub" else "extlinux/extlinux.conf")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    with pytest.raises(Rejected, match="leads off the boot partition"):
        ready(part)
    assert elsewhere.read_bytes() == before
    assert path.is_symlink()
    assert part.chooser.choice() is None


def test_what_somebody_has_written_anew_is_led_to_ours_again(part: Part) -> None:
    chooser = ready(part)
    assert chooser.leads()
    if chooser.name == "grub":
        (part.directory / "grub/custom.cfg").unlink()
    elif chooser.name == "flash-kernel":
        bootpart.write_script(part.directory, part=False)
    elif chooser.name != "systemd-boot":
        (part.directory / "extlinux/extlinux.conf").write_text(bootpart.EXTLINUX_CONF)
    assert chooser.leads() == (chooser.name == "systemd-boot")
    if chooser.name == "flash-kernel":
        bootpart.write_script(part.directory)
    chooser.choose(Choice(ONE, TWO, 2, ONE))
    choice = chooser.choice()
    assert choice is not None
    chooser.set_up(choice)
    assert chooser.leads()
    assert chooser.choice() == Choice(ONE, TWO, 2, ONE)


def test_it_can_all_be_taken_back(part: Part) -> None:
    def files() -> dict[Path, bytes]:
        found = {path: path.read_bytes().rstrip(b"\n") for path in part.directory.rglob("*") if path.is_file()}
        if isinstance(part.chooser, UBoot):
            # Which of the two copies counts, and how often it was written, is not for us to undo.
            said = str(part.chooser.environment.read()).encode()
            found |= {part.directory / name: said for name in bootpart.ENVIRONMENTS}
        return found

    before = files()
    ready(part).take_down()
    assert files() == before
    assert part.chooser.choice() is None
    part.chooser.take_down()


@IN_PLACE
def test_a_damaged_choice_is_said_and_not_guessed(part: Part) -> None:
    chooser = ready(part)
    (part.directory / "tb-update/choice").write_bytes(b"#" * 1024)
    with pytest.raises(Failed, match="damaged"):
        chooser.choice()
    (part.directory / "tb-update/choice").unlink()
    chooser.set_up(Choice(ONE))
    assert chooser.choice() == Choice(ONE)


@IN_PLACE
def test_the_hook_can_go_back_with_one_block(part: Part) -> None:
    """What the hook does: it puts `back` over `choice`, and leaves a note."""
    chooser = ready(part)
    chooser.choose(Choice(ONE, TWO, 3, ONE))
    ours = part.directory / "tb-update"
    (ours / "choice").write_bytes((ours / "back").read_bytes())
    (ours / "note").write_bytes(f"{TWO}: it has no init".ljust(1023).encode() + b"\n")
    # U-Boot's counter runs on, until the next command.
    assert chooser.choice() == Choice(ONE, tries=3 if chooser.name == "u-boot" else 0)
    chooser.choose(Choice(ONE))
    assert chooser.choice() == Choice(ONE)
    assert chooser.note() == f"{TWO}: it has no init"
    chooser.clear_note()
    assert chooser.note() == ""


def test_scripts_of_grub_are_valid(part: Part) -> None:
    if part.chooser.name == "grub":
        ready(part)
        for script in ("grub.cfg", f"entries/{ONE}.cfg"):
            subprocess.run(["grub-script-check", part.directory / "tb-update" / script], check=True)


def test_a_grub_that_does_not_read_custom_cfg_is_refused(part: Part) -> None:
    if part.chooser.name == "grub":
        (part.directory / "grub/grub.cfg").write_text("set default=0\n")
        part.chooser.add(entry(ONE))
        with pytest.raises(Rejected, match=r"custom\.cfg"):
            part.chooser.set_up(Choice(ONE))
        assert part.chooser.choice() is None


def test_the_chooser_is_found_or_none(part: Part, tmp_path: Path) -> None:
    where = str(part.directory)
    assert finder.find_chooser("none", where, running=False) is None
    assert bootpart.chooser(part.directory, part.chooser.name) == part.chooser
    other = "grub" if part.chooser.name != "grub" else "systemd-boot"
    with pytest.raises(Rejected, match=other):
        finder.find_chooser(other, where, running=False)
    bootpart.install(part.directory, other)
    assert finder.find_chooser("auto", where, running=False) is None
    # A directory of the root itself goes and comes with the root.
    bootpart.install(tmp_path, "grub")
    assert finder.find_chooser("auto", str(tmp_path), running=False) is None
    with pytest.raises(Rejected, match="file system of its own"):
        finder.find_chooser("grub", str(tmp_path), running=False)
    assert finder.find_chooser("auto", None, running=False) is None


# --- systemd-boot -----------------------------------------------------------------------------------------------------

SYSTEMD_BOOT = pytest.mark.parametrize("part", ["systemd-boot"], indirect=True)


def first_seen(part: Part) -> str:
    """What systemd-boot takes: tries left first, then our sort-key, then what is the highest by its name."""
    found = []
    for path in (part.directory / "loader/entries").glob("*.conf"):
        text = path.read_text()
        if "linux " not in text:
            continue
        key = re.search(r"^sort-key (.*)$", text, re.MULTILINE)
        assert not re.search(r"^(version|machine-id) ", text, re.MULTILINE), "that would come before the name"
        number = re.match(r"tb-update-(\d+)-", path.name)
        spent = "+0" in path.name
        order = (spent, key is None, key[1] if key else "", -int(number[1]) if number else 0)
        found.append((order, re.search(r"^options .*tb\.id=(\S+)", text, re.MULTILINE)))
    best = min(found, key=lambda one: one[0])[1]
    return best[1] if best else "somebody else's"


@SYSTEMD_BOOT
def test_systemd_boot_takes_what_was_chosen(part: Part) -> None:
    chooser = part.chooser
    assert first_seen(part) == "somebody else's"
    ready(part)
    chooser.add(entry(THREE))
    assert first_seen(part) == ONE
    for choice, takes in (
        (Choice(ONE, TWO, 3, ONE), TWO),
        (Choice(TWO, back=ONE), TWO),
        (Choice(TWO, THREE, 2, TWO), THREE),
        (Choice(TWO, back=ONE), TWO),
        (Choice(ONE, back=TWO), ONE),
        (Choice(THREE, ONE, 1, THREE), ONE),
        (Choice(THREE), THREE),
    ):
        chooser.choose(choice)
        assert first_seen(part) == takes
        assert chooser.choice() == choice
        assert set(chooser.entries()) == {ONE, TWO, THREE}


@SYSTEMD_BOOT
def test_systemd_boot_can_be_told_everything_on_a_full_partition(part: Part) -> None:
    chooser = ready(part)
    filler = part.directory / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 1024)
    with pytest.raises(OSError, match="No space left"):
        chooser.add(entry(THREE))
    for choice in (
        Choice(ONE, TWO, 3, ONE),
        Choice(TWO, back=ONE),
        Choice(ONE, back=TWO),
        Choice(TWO, ONE, 1, TWO),
        Choice(TWO, back=ONE),
        Choice(ONE),
    ):
        chooser.choose(choice)
        assert chooser.choice() == choice
        assert first_seen(part) == (choice.trial or choice.default)


# What FAT may keep of a rename that is cut: nothing; the new name without content; neither name, or the new one without
# content alone; both with the same content (of which a link is the likeness: it shows by its count who removes one).
CUTS: dict[str, Callable[[str, str], None]] = {
    "not begun": lambda old, new: None,
    "empty": lambda old, new: Path(new).touch(),
    "neither": lambda old, new: os.unlink(old),
    "only empty": lambda old, new: (os.unlink(old), Path(new).touch())[0],
    "twins": os.link,
}


def cut_rename(count: int, way: str, act: Callable[[], None]) -> bool:
    """Do it until the rename after the first `count`, which is cut in one of the ways; whether all of it was done."""
    left, rename = count, os.rename

    def renames(old: str, new: str) -> None:
        nonlocal left
        if left == 0:
            CUTS[way](old, new)
            raise InterruptedError
        left -= 1
        # Two links of one file are not renamed over each other, but on FAT they are two files.
        assert not os.path.exists(new) or not os.path.samefile(old, new)
        rename(old, new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", renames)
        try:
            act()
        except InterruptedError:
            return False
    return True


def ours(part: Part) -> list[Path]:
    return sorted((part.directory / "loader/entries").glob("tb-up*"))


def check_twins(part: Part, there: list[Path]) -> None:
    """Nobody has removed one of two names of the same blocks; what boots has blocks of its own."""
    inodes = [path.stat().st_ino for path in ours(part)]
    for path in ours(part):
        if path.suffix == ".partial":
            continue
        assert path.stat().st_nlink == inodes.count(path.stat().st_ino), there
        assert path.suffix != ".conf" or path.stat().st_nlink == 1, (there, ours(part))


def repair(part: Part, first: bool) -> None:
    """As fsck.fat does: of twins the second (who that is, is by chance) is without content then."""
    for path in ours(part) if first else ours(part)[::-1]:
        if path.stat().st_nlink > 1:
            path.unlink()
            path.touch()


@SYSTEMD_BOOT
@pytest.mark.parametrize("way", CUTS)
def test_every_cut_of_a_systemd_boot_choice_boots_what_was_meant_and_is_mended(part: Part, way: str) -> None:
    chooser = ready(part)
    choices = (Choice(ONE, TWO, 3, ONE), Choice(TWO, back=ONE), Choice(ONE, back=TWO), Choice(TWO, ONE, 1, TWO))
    done = 0
    for before, after in itertools.pairwise(choices):
        cut, whole = 0, False
        while not whole:
            for deployment in (ONE, TWO):
                chooser.add(entry(deployment))
            chooser.choose(before)
            assert chooser.choice() == before
            whole = cut_rename(cut, way, lambda after=after: chooser.choose(after))  # type: ignore[misc]
            there = ours(part)
            assert first_seen(part) in {before.trial, before.default, after.trial, after.default}
            assert any("+" not in path.name and path.stat().st_size for path in there if path.suffix == ".conf")
            said = chooser.choice()
            assert said is not None
            assert first_seen(part) == (said.trial or said.default), there
            # Some systems repair it before anything else is done.
            for repaired in (None, True, False)[cut % 3 :]:
                if repaired is not None:
                    repair(part, repaired)
                for deployment in (ONE, TWO):
                    chooser.add(entry(deployment))
                chooser.choose(after)
                assert chooser.choice() == after, (there, ours(part))
                assert first_seen(part) == (after.trial or after.default), there
                check_twins(part, there)
            repair(part, True)
            chooser.choose(after)
            assert len(ours(part)) == 2, ours(part)
            done += 1
            cut += 1
    assert done >= 6


@SYSTEMD_BOOT
@pytest.mark.parametrize("way", CUTS)
def test_an_entry_that_was_cut_is_written_again(part: Part, way: str) -> None:
    chooser = ready(part)
    assert not cut_rename(0, way, lambda: chooser.add(entry(THREE)))
    chooser.add(entry(THREE))
    assert chooser.entries()[THREE] == entry(THREE)
    chooser.choose(Choice(ONE, THREE, 3, ONE))
    assert first_seen(part) == THREE
    check_twins(part, [])
    chooser.choose(Choice(ONE))
    chooser.forget(THREE)
    assert set(chooser.entries()) == {ONE, TWO}
    check_twins(part, [])
    repair(part, True)
    chooser.choose(Choice(ONE))
    # What was never finished is not looked into: who does that on a damaged FAT can write no more.
    assert len([path for path in ours(part) if path.suffix != ".partial"]) == 2


@SYSTEMD_BOOT
def test_a_short_name_that_is_left_of_a_long_one_is_a_twin(part: Part) -> None:
    """Firmware renames too, and a long name may lie in two blocks."""
    chooser = ready(part)
    chooser.choose(Choice(ONE, TWO, 2, ONE))
    (trial,) = (part.directory / "loader/entries").glob("*+2*.conf")
    short = trial.with_name("tb-upd~1.con")
    short.hardlink_to(trial)
    for choice in (Choice(TWO, back=ONE), Choice(ONE)):
        chooser.choose(choice)
        assert chooser.choice() == choice
        check_twins(part, [])
        assert short.stat().st_nlink == 2


@SYSTEMD_BOOT
def test_room_for_entries_is_made_again_where_a_cut_has_left_what_made_it(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that only were to let the directory grow would fill it."""
    monkeypatch.setattr(place, "_is_fat", lambda boot: True)
    folder = part.directory / "loader/entries"
    removed: list[str] = []
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(os, "unlink", lambda path: removed.append(path) if len(removed) < 3 else cut())
        place.make_room(str(part.directory), str(folder))
    assert len(list(folder.iterdir())) > 3
    place.make_room(str(part.directory), str(folder))
    assert [path.name for path in folder.iterdir()] == ["debian.conf"]
    assert folder.stat().st_size >= place.ROOM


def cut() -> None:
    raise InterruptedError


@SYSTEMD_BOOT
def test_twins_boot_on_a_full_partition(part: Part) -> None:
    """There is no room for a new file: one of them boots, and the other is not removed."""
    chooser = ready(part)
    chooser.choose(Choice(ONE, TWO, 2, ONE))
    (trial,) = (part.directory / "loader/entries").glob("*+2*.conf")
    plain = trial.with_name(trial.name.partition("+")[0] + ".conf")
    plain.hardlink_to(trial)
    filler = part.directory / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 1024)
    assert chooser.choice() == Choice(TWO, back=ONE)
    for choice in (Choice(TWO, back=ONE), Choice(ONE, back=TWO), Choice(TWO, ONE, 1, TWO), Choice(ONE, TWO, 2, ONE)):
        chooser.choose(choice)
        assert chooser.choice() == choice
        assert first_seen(part) == (choice.trial or choice.default)
        assert [path.stat().st_nlink for path in ours(part)].count(2) == 2
    chooser.forget(TWO)
    assert [path.stat().st_nlink for path in ours(part)].count(2) == 2
    assert set(chooser.entries()) == {ONE}


@SYSTEMD_BOOT
def test_what_systemd_boot_counts_is_read(part: Part) -> None:
    chooser = ready(part)
    chooser.choose(Choice(ONE, TWO, 3, ONE))
    (counted,) = (part.directory / "loader/entries").glob("*+3.conf")
    spent = counted.rename(counted.with_name(counted.name.replace("+3", "+2-1")))
    assert chooser.choice() == Choice(ONE, TWO, 2, ONE)
    gone = spent.rename(spent.with_name(spent.name.replace("+2-1", "+0-3")))
    assert chooser.choice() == Choice(ONE, TWO, 0, ONE)
    assert first_seen(part) == ONE
    # What systemd-bless-boot does.
    gone.rename(gone.with_name(gone.name.replace("+0-3", "")))
    assert first_seen(part) == TWO
    choice = chooser.choice()
    assert choice is not None
    assert choice.default == TWO


@SYSTEMD_BOOT
def test_a_name_without_content_is_no_entry(part: Part) -> None:
    """What a power cut in the middle of a rename leaves on FAT: the old name as it was, and the new one, empty."""
    chooser = ready(part)
    chooser.add(entry(TWO))
    chooser.choose(Choice(ONE, TWO, 2, ONE))
    (trial,) = (part.directory / "loader/entries").glob("*+2*.conf")
    plain = trial.with_name(trial.name.partition("+")[0] + ".conf")
    plain.touch()
    assert chooser.choice() == Choice(ONE, TWO, 2, ONE)
    chooser.choose(Choice(TWO, back=ONE))
    assert chooser.choice() == Choice(TWO, back=ONE)
    assert not trial.exists()
    assert f"tb.id={TWO}" in plain.read_text()


@SYSTEMD_BOOT
def test_a_fixed_default_of_systemd_boot_is_refused(part: Part) -> None:
    (part.directory / "loader/loader.conf").write_text("timeout 3\ndefault debian.conf\n")
    part.chooser.add(entry(ONE))
    with pytest.raises(Rejected, match="names a default"):
        part.chooser.set_up(Choice(ONE))


# --- U-Boot -----------------------------------------------------------------------------------------------------------

UBOOT = pytest.mark.parametrize("part", ["u-boot"], indirect=True)


def environment(part: Part) -> dict[str, str]:
    assert isinstance(part.chooser, UBoot)
    said = part.chooser.environment.read()
    assert said is not None
    return said


@UBOOT
def test_uboot_counts_and_then_takes_the_way_back(part: Part) -> None:
    chooser = ready(part)
    assert "upgrade_available" not in environment(part)
    chooser.choose(Choice(ONE, TWO, 2, ONE))
    for left in (1, 0):
        assert bootpart.next_block(chooser) == "choice"
        bootpart.count(chooser)
        assert chooser.choice() == Choice(ONE, TWO, left, ONE)
    assert bootpart.next_block(chooser) == "back"
    assert f"DEFAULT tb-{ONE}\n" in part.read("tb-update/back")
    # Each of the three ways that altbootcmd tries leads there.
    assert f"FALLBACK tb-{ONE}\n" in part.read("tb-update/choice")
    assert environment(part)["tb_good"] == f"tb-{ONE}"
    assert f"LABEL tb-{ONE}\n" in part.read(f"tb-update/entries/{ONE}.conf")
    assert f"INCLUDE /tb-update/entries/{ONE}.conf" in part.read("tb-update/choice")
    said = environment(part)["altbootcmd"]
    assert "boot_syslinux_conf tb-update/back;" in said
    assert "pxe_label_override ${tb_good};" in said
    assert said.endswith("; run bootcmd")
    bootpart.count(chooser)
    assert chooser.choice() == Choice(ONE, TWO, 0, ONE)
    chooser.choose(Choice(ONE))
    assert bootpart.next_block(chooser) == "choice"
    assert chooser.choice() == Choice(ONE)


@UBOOT
def test_a_try_that_is_given_back_counts_again(part: Part) -> None:
    chooser = ready(part)
    chooser.choose(Choice(ONE, TWO, 3, ONE))
    for _ in range(3):
        bootpart.count(chooser)
    chooser.choose(Choice(ONE, TWO, 1, ONE))
    assert bootpart.next_block(chooser) == "choice"
    bootpart.count(chooser)
    assert bootpart.next_block(chooser) == "back"


@UBOOT
@pytest.mark.parametrize("kept", [True, False])
def test_every_cut_of_a_uboot_choice_boots_what_was_meant(part: Part, kept: bool) -> None:
    """Cut before each write to the environment or to a block, on the way to a trial and on the way out of it."""
    chooser = ready(part)
    trial, after = Choice(ONE, TWO, 2, ONE), Choice(TWO, back=ONE) if kept else Choice(ONE)
    for start, to, good in ((Choice(ONE), trial, {ONE, TWO}), (trial, after, {TWO} if kept else {ONE, TWO})):
        cut, whole = 0, False
        while not whole:
            chooser.choose(start)
            if start == trial:
                bootpart.count(chooser)
            whole = cut_at(cut, lambda to=to: chooser.choose(to))  # type: ignore[misc]
            booted = re.findall(
                r"^DEFAULT tb-(.*?)(?:-trial)?$", part.read(f"tb-update/{bootpart.next_block(chooser)}"), re.M
            )
            assert booted[0] in good, (cut, to)
            # A kernel that dies is given up, wherever the cut was; only of one that is to be kept nobody says that.
            counted = environment(part).get("upgrade_available") == "1"
            assert (
                counted or "-trial" not in part.read("tb-update/choice").split("INCLUDE")[0] or (kept and to == after)
            )
            for _ in range(4):
                bootpart.count(chooser)
            assert bootpart.next_block(chooser) == ("back" if counted else "choice"), (cut, to)
            found = chooser.choice()
            assert found is not None
            chooser.choose(Choice(found.default, back=found.back))
            assert bootpart.next_block(chooser) == "choice"
            cut += 1
        assert cut > 4


def cut_at(count: int, act: Callable[[], None]) -> bool:
    """Do it until the write after the first `count`; whether all of it was done."""
    left = count

    class Cut(Exception):
        pass

    def counted(write: Callable[..., object]) -> Callable[..., object]:
        def writes(*arguments: object, **more: object) -> object:
            nonlocal left
            if not left:
                raise Cut
            left -= 1
            return write(*arguments, **more)

        return writes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "write_block", counted(place.write_block))
        patch.setattr(Environment, "_set", counted(Environment._set))
        try:
            act()
        except Cut:
            return False
    return True


@UBOOT
def test_doctor_learns_from_a_trial_whether_uboot_counts(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    chooser = ready(part)
    assert chooser.coverage.counts
    assert "the first trial will show" in chooser.coverage.sentence
    chooser.choose(Choice(ONE, TWO, 3, ONE))
    # Committed without a boot, it has shown nothing.
    chooser.choose(Choice(TWO, back=ONE))
    assert "the first trial will show" in chooser.coverage.sentence
    started = part.image.with_name("cmdline")
    started.write_bytes(b"quiet name=\xff tb.id=%s panic=10\n" % TWO.encode())
    monkeypatch.setattr(boot_chooser, "STARTED_WITH", str(started))
    chooser.choose(Choice(ONE, TWO, 3, ONE))
    chooser.choose(Choice(TWO, back=ONE))
    assert not chooser.coverage.counts
    assert "did not count" in chooser.coverage.sentence
    chooser.choose(Choice(TWO, ONE, 3, TWO))
    bootpart.count(chooser)
    chooser.choose(Choice(ONE))
    assert chooser.coverage.counts
    assert "as the last trial has shown" in chooser.coverage.sentence
    assert isinstance(chooser, UBoot)
    chooser.environment.write({"altbootcmd": "run recovery"})
    assert "altbootcmd" in chooser.coverage.sentence
    assert not chooser.coverage.counts


@UBOOT
def test_an_environment_of_one_copy_is_said(part: Part) -> None:
    assert "no second copy" not in ready(part).coverage.sentence
    (part.directory / bootpart.ENVIRONMENTS[1]).unlink()
    bootpart.make_environment(part.directory, bootpart.ENVIRONMENTS[0])
    chooser = bootpart.chooser(part.directory)
    chooser.set_up(Choice(ONE))
    assert "no second copy" in chooser.coverage.sentence
    assert chooser.choice() == Choice(ONE)


@UBOOT
def test_without_a_readable_environment_it_is_extlinux(part: Part) -> None:
    config = bootpart.environment(part.directory)
    where = str(part.directory)
    found = finder.find_chooser("extlinux", where, running=False, environment=config)
    assert found is not None
    assert found.name == "extlinux"
    for name in bootpart.ENVIRONMENTS:
        (part.directory / name).write_bytes(bytes(bootpart.ENVIRONMENT_SIZE))
    assert bootpart.chooser(part.directory).name == "extlinux"
    with pytest.raises(Rejected, match="u-boot"):
        finder.find_chooser("u-boot", where, running=False, environment=config)


@UBOOT
def test_an_environment_that_cannot_be_written_is_said(part: Part) -> None:
    chooser = ready(part)
    assert isinstance(chooser, UBoot)
    with pytest.raises(Failed, match="cannot be written"):
        chooser.environment.write({"tb_x": "x" * bootpart.ENVIRONMENT_SIZE})
    assert chooser.choice() == Choice(ONE)


def test_uboot_gets_room_for_what_is_included_and_extlinux_does_not(part: Part) -> None:
    """(What U-Boot makes of it: test_uboot.)"""
    path = part.directory / "extlinux/extlinux.conf"
    if not path.exists():
        return
    chooser = ready(part)
    text = path.read_bytes()
    assert text.count(b"\0") == 1
    assert 32000 < len(text) < 65536
    assert b"INCLUDE /tb-update/choice\n" in text.partition(b"\0")[0]
    # Somebody adds to the end of the file; set up again, it is in front of the room.
    path.write_bytes(text + b"LABEL mine\n")
    chooser.set_up(Choice(ONE))
    assert b"LABEL mine\n" in path.read_bytes().partition(b"\0")[0]
    chooser.take_down()
    assert path.read_bytes() == bootpart.EXTLINUX_CONF.encode() + b"LABEL mine\n"
    (part.directory / "extlinux/ldlinux.sys").touch()
    chooser.set_up(Choice(ONE))
    assert b"\0" not in path.read_bytes()


@UBOOT
def test_uboot_finds_device_trees_by_their_directory(part: Part) -> None:
    part.chooser.add(replace(entry(ONE), devicetree="dtbs"))
    assert "FDTDIR /tb-update/k-0/dtbs\n" in part.read(f"tb-update/entries/{ONE}.conf")


# --- flash-kernel -----------------------------------------------------------------------------------------------------

FLASH_KERNEL = pytest.mark.parametrize("part", ["flash-kernel"], indirect=True)


@FLASH_KERNEL
def test_flash_kernel_is_run_where_its_script_lacks_our_part(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    bootpart.write_script(part.directory, part=False)
    part.chooser.add(entry(ONE))
    with pytest.raises(Rejected, match="does not boot what tb-update chooses"):
        part.chooser.set_up(Choice(ONE))
    assert part.chooser.choice() is None
    # Its double: there is none for every machine that tests run on.
    programs = part.image.with_name("bin")
    programs.mkdir()
    bootpart.write_script(programs, part=True)
    double = programs / "flash-kernel"
    double.write_text(f"#!/bin/sh\ncp {programs}/boot.scr {part.directory}/\n")
    double.chmod(0o755)
    monkeypatch.setattr(flash_kernel, "USUAL", str(part.directory))
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    part.chooser.set_up(Choice(ONE))
    assert part.chooser.choice() == Choice(ONE)
    assert flash_kernel.PART.decode() in part.read("boot.scr")
    double.write_text("#!/bin/sh\necho 'Unsupported platform' >&2\nexit 1\n")
    bootpart.write_script(part.directory, part=False)
    with pytest.raises(Rejected, match="flash-kernel failed: Unsupported platform"):
        part.chooser.set_up(Choice(ONE))
    # It knew of us before, so what it was told stays.
    assert part.chooser.choice() == Choice(ONE)


@FLASH_KERNEL
def test_a_boot_script_of_somebody_else_is_none_of_ours(part: Part) -> None:
    bootpart.write_script(part.directory, part=False)
    assert finder.found(str(part.directory), None) == []


@FLASH_KERNEL
def test_with_an_environment_uboot_counts_also_for_flash_kernel(part: Part) -> None:
    bootpart.make_environment(part.directory, *bootpart.ENVIRONMENTS)
    part.chooser = bootpart.chooser(part.directory)
    assert part.chooser.name == "flash-kernel"
    chooser = ready(part)
    assert chooser.coverage.counts
    chooser.choose(Choice(ONE, TWO, 1, ONE))
    bootpart.count(chooser)
    assert bootpart.next_block(chooser) == "back"
    assert chooser.choice() == Choice(ONE, TWO, 0, ONE)
    assert "setenv tb_notrial 1;" in environment(part)["altbootcmd"]
