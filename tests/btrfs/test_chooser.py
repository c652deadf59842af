"""What every boot chooser must do, on a real boot partition, as the boot loader itself reads it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tbdiff.errors import Failed, Rejected
from tbupdate.boot import finder
from tbupdate.boot.chooser import Choice, Chooser, Entry
from tests import bootpart

LOADERS = ("grub", "extlinux", "systemd-boot")
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
        return found.decode()


IN_PLACE = pytest.mark.parametrize("part", ["grub", "extlinux"], indirect=True)


@pytest.fixture(params=LOADERS)
def part(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Part]:
    if os.geteuid() != 0:
        pytest.fail("this test mounts an ext4 image and needs root")
    folder = tmp_path / f"tb-test-{os.environ['TB_TEST_SESSION']}-part"
    folder.mkdir()
    with bootpart.partition(folder, request.param) as (directory, image):
        chooser = finder.find_chooser("auto", str(directory), running=False)
        assert chooser is not None
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
    assert TWO in part.read(f"tb-update/entries/{TWO}{'.cfg' if chooser.name == 'grub' else '.conf'}")
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
    path = part.directory / ("grub/custom.cfg" if part.chooser.name == "grub" else "extlinux/extlinux.conf")
    os.chown(path, 3, 4)
    before, state = path.read_bytes(), path.stat()
    chooser = ready(part)
    after = path.read_bytes()
    assert after.startswith(before)
    assert len(after.splitlines()) == len(before.splitlines()) + 1
    assert (path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) == (state.st_mode, 3, 4)
    chooser.set_up(Choice(ONE))
    assert path.read_bytes() == after


def test_it_can_all_be_taken_back(part: Part) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes().rstrip(b"\n") for path in part.directory.rglob("*") if path.is_file()}

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


def test_the_chooser_is_found_or_none(part: Part, tmp_path: Path) -> None:
    where = str(part.directory)
    assert finder.find_chooser("none", where, running=False) is None
    assert finder.find_chooser(part.chooser.name, where, running=False) == part.chooser
    other = next(name for name in LOADERS if name != part.chooser.name)
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
    """What systemd-boot takes: tries left first, then our sort-key, then the highest version."""
    found = []
    for path in (part.directory / "loader/entries").glob("*.conf"):
        text = path.read_text()
        key = re.search(r"^sort-key (.*)$", text, re.MULTILINE)
        version = re.search(r"^version (\d+)$", text, re.MULTILINE)
        spent = "+0" in path.name
        order = (spent, key is None, key[1] if key else "", -int(version[1]) if version else 0)
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
def test_a_fixed_default_of_systemd_boot_is_refused(part: Part) -> None:
    (part.directory / "loader/loader.conf").write_text("timeout 3\ndefault debian.conf\n")
    part.chooser.add(entry(ONE))
    with pytest.raises(Rejected, match="names a default"):
        part.chooser.set_up(Choice(ONE))
