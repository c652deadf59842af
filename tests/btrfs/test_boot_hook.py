"""The hook of the initramfs, by itself: on a real Btrfs and a real /boot, under dash and under busybox."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tbupdate.boot import finder, place
from tbupdate.boot.chooser import Choice, Chooser, Entry
from tbupdate.bootvocabulary import DropTries, MakeTries
from tbupdate.site import Site
from tests import bootpart, device, loops
from tests.btrfs.test_enospc import fill_metadata
from tests.conftest import MakeBtrfs
from tests.device import TinyImage

HOOK = Path(__file__).parents[2] / "boot-hooks/boot"
PROGRAMS = (
    *(
        "cat",
        "cmp",
        "dd",
        "findfs",
        "mkdir",
        "mount",
        "mv",
        "readlink",
        "rm",
        "sed",
        "sha256sum",
        "sync",
        "umount",
        "uname",
    ),
)
KERNEL = os.uname().release


@dataclass
class Booting:
    """A device whose v2 is chosen for a trial of two tries, and what boots it."""

    top: Path
    boot: Path
    chooser: Chooser
    old: str
    new: str
    shell: list[str]
    bin: Path

    @property
    def source(self) -> str:
        return next(source for source, point in loops.mounts() if point == self.top)

    def run(self, deployment: str, more: str = "", code: int = 0) -> str:
        """Run the hook as the kernel's command line would let it run; what it said."""
        line = self.bin / "cmdline"
        line.write_text(f"root=x tb.id={deployment} tb.boot=UUID={place.uuid_of(str(self.boot))} {more}\n")
        (self.bin / "kmsg").write_text("")
        (self.bin / "console").write_text("")
        (self.bin / "restarted").unlink(missing_ok=True)
        script = (
            f"mount -t tmpfs none /run; mount --bind {line} /proc/cmdline; mount --bind {self.bin}/kmsg /dev/kmsg; "
            f"mount --bind {self.bin}/console /dev/console; "
            f"cd /; PATH={self.bin} exec {shlex.join(self.shell)} {HOOK} {self.source}"
        )
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script], capture_output=True, text=True
        )
        assert done.returncode == code, done.stdout + done.stderr
        return (self.bin / "kmsg").read_text() + done.stdout + done.stderr

    @property
    def restarted(self) -> bool:
        return (self.bin / "restarted").exists()

    @property
    def default(self) -> str:
        """What the default subvolume holds."""
        return device.boots(self.top)

    def tries(self) -> int:
        return len(list((self.top / "tb-update/tries" / self.new).glob("[0-9]*")))

    def choice(self) -> Choice | None:
        return self.chooser.choice()


def initramfs(programs: Path, name: str) -> tuple[Path, list[str]]:
    """What the hook finds in an initramfs of that shell: a directory of programs, and the shell."""
    programs.mkdir(parents=True)
    for program in PROGRAMS:
        there = shutil.which("busybox" if name == "busybox" else program)
        if there:
            (programs / program).symlink_to(there)
    (programs / "btrfs").symlink_to(shutil.which("btrfs") or "")
    for program, script in {"reboot": f"echo x >{programs}/restarted; exit 0", "sh": "echo rescue; exit 9"}.items():
        (programs / program).write_text(f"#!/bin/dash\n{script}\n")
        (programs / program).chmod(0o755)
    # It sleeps at the end only when it waits for a restart.
    (programs / "sleep").write_text(f"#!/bin/dash\ntest ! -e {programs}/restarted || kill -9 $PPID\n")
    (programs / "sleep").chmod(0o755)
    return programs, [shutil.which("dash") or ""] if name == "dash" else [shutil.which("busybox") or "", "sh"]


@pytest.fixture(params=["dash", "busybox"])
def booting(request: pytest.FixtureRequest, make_btrfs: MakeBtrfs, tmp_path: Path) -> Iterator[Booting]:
    with _booting("grub", request.param, make_btrfs(320 << 20), tmp_path) as made:
        yield made


@pytest.fixture(params=["dash", "busybox"])
def by_name(request: pytest.FixtureRequest, make_btrfs: MakeBtrfs, tmp_path: Path) -> Iterator[Booting]:
    """The same with systemd-boot, which has started the trial once."""
    with _booting("systemd-boot", request.param, make_btrfs(320 << 20), tmp_path) as made:
        count(made, 1)
        yield made


def count(booting: Booting, left: int) -> None:
    """Count as systemd-boot does, before it starts a kernel."""
    (entry,) = (booting.boot / "loader/entries").glob(f"tb-update-*-{booting.new}+*.conf")
    entry.rename(entry.with_name(f"{entry.name.partition('+')[0]}+{left}-{2 - left}.conf"))


@contextlib.contextmanager
def _booting(loader: str, kind: str, btrfs: Path, tmp_path: Path) -> Iterator[Booting]:
    folder = tmp_path / f"tb-test-{os.environ['TB_TEST_SESSION']}-hook"
    programs, shell = initramfs(folder / "bin", kind)
    system(btrfs)
    old = device.initialised(btrfs).marks.good
    assert old is not None
    with bootpart.partition(folder, loader, 16 << 20) as (boot, _):
        chooser = finder.find_chooser(loader, str(boot), running=False)
        assert chooser is not None
        if loader == "systemd-boot":
            chooser.add(entry(old))
        chooser.set_up(Choice(old))
        new = device.deploy(btrfs, TinyImage("second", "2.0", failure=system))
        site = Site(str(btrfs), chooser=chooser)
        from tbupdate import perform

        perform.do(MakeTries(new, 2), site)
        if loader == "systemd-boot":
            chooser.add(entry(new))
        chooser.choose(Choice(old, new, 2, old))
        yield Booting(btrfs, boot, chooser, old, new, shell, programs)


def entry(deployment: str) -> Entry:
    return Entry(deployment, deployment, "k-0", True, "", "quiet")


def system(tree: Path) -> None:
    """Enough of a system for the kernel that runs."""
    (tree / f"usr/lib/modules/{KERNEL}").mkdir(parents=True, exist_ok=True)
    (tree / "usr/lib/systemd").mkdir(parents=True, exist_ok=True)
    (tree / "usr/sbin").mkdir(parents=True, exist_ok=True)
    (tree / "usr/lib/systemd/systemd").write_text("#!")
    (tree / "usr/lib/systemd/systemd").chmod(0o755)
    for link, target in (("lib", "usr/lib"), ("sbin", "usr/sbin"), ("usr/sbin/init", "/lib/systemd/systemd")):
        if not os.path.lexists(tree / link):
            (tree / link).symlink_to(target)


def root_of(booting: Booting) -> Path:
    return booting.top / "snapshots/root"


def test_a_trial_spends_one_try_and_boots(booting: Booting) -> None:
    said = booting.run(booting.new)
    assert "on trial" in said
    assert (booting.tries(), booting.default, booting.restarted) == (1, "second", False)
    booting.run(booting.new)
    assert (booting.tries(), booting.restarted) == (0, False)


def test_without_tries_left_it_goes_back_and_says_so(booting: Booting) -> None:
    for _ in range(2):
        booting.run(booting.new)
    said = booting.run(booting.new, code=-9)
    assert "tries are used up" in said
    assert booting.restarted
    assert booting.choice() == Choice(booting.old)
    assert booting.chooser.note() == f"{booting.new}: its tries are used up"
    booting.run(booting.old)
    assert (booting.default, booting.restarted) == ("first", False)
    device.repair(booting.top)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("rm -r usr/lib/modules/*", "no modules for the running kernel"),
        ("rm usr/lib/systemd/systemd", "it has no init"),
        ("chmod -x usr/lib/systemd/systemd", "it has no init"),
        ("rm usr/sbin/init usr/lib/systemd/systemd; ln -s init usr/sbin/init", "it has no init"),
    ],
)
def test_a_root_that_does_not_fit_is_not_tried(booting: Booting, spoil: str, words: str) -> None:
    subprocess.run(["sh", "-ec", spoil], check=True, cwd=root_of(booting))
    assert words in booting.run(booting.new, code=-9)
    assert booting.tries() == 2
    assert booting.choice() == Choice(booting.old)


def test_a_deployment_that_is_gone(booting: Booting) -> None:
    assert "gone" in booting.run("9.9-abcdef", code=-9)
    assert booting.choice() == Choice(booting.old)


def test_the_entry_decides_whatever_the_default_subvolume_is(booting: Booting) -> None:
    """A cut between the switch and its mirrors; somebody who chose another entry in the menu."""
    for deployment, content in ((booting.old, "first"), (booting.new, "second"), (booting.old, "first")):
        booting.run(deployment)
        assert booting.default == content
    device.repair(booting.top)


def test_a_root_that_is_missing_is_made_again(booting: Booting) -> None:
    subprocess.run(["btrfs", "subvolume", "set-default", booting.top], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        ["btrfs", "subvolume", "delete", root_of(booting)], check=True, stdout=subprocess.DEVNULL, cwd=booting.top
    )
    booting.run(booting.new)
    assert booting.default == "second"


def test_what_was_committed_is_not_counted(booting: Booting) -> None:
    from tbupdate import perform

    perform.do(DropTries(booting.new), Site(str(booting.top), chooser=booting.chooser))
    for _ in range(4):
        assert "trial" not in booting.run(booting.new)
    assert not booting.restarted


def test_a_cut_while_tries_are_dropped_does_not_look_like_tries_that_are_used_up(booting: Booting) -> None:
    (booting.top / "tb-update/tries" / booting.new / "trial").unlink()
    for one in (booting.top / "tb-update/tries" / booting.new).iterdir():
        one.unlink()
    booting.run(booting.new)
    assert not booting.restarted


def test_assessment_can_be_switched_off(booting: Booting) -> None:
    for _ in range(4):
        booting.run(booting.new, "tb.noassess")
    assert booting.tries() == 2


def test_with_nothing_to_go_back_to_it_stops_for_a_person(booting: Booting) -> None:
    booting.chooser.choose(Choice(booting.new))
    subprocess.run(["rm", "-r", f"usr/lib/modules/{KERNEL}"], check=True, cwd=root_of(booting))
    said = booting.run(booting.new, code=9)
    assert "nothing to go back to" in said
    assert not booting.restarted


def test_without_a_boot_partition_it_starts_anew_while_there_are_tries_and_then_stops_for_a_person(
    booting: Booting,
) -> None:
    """A boot loader that counts goes back meanwhile."""
    subprocess.run(["rm", "-r", f"usr/lib/modules/{KERNEL}"], check=True, cwd=root_of(booting))
    for left in (1, 0):
        said = booting.run(booting.new, "tb.boot=UUID=none", code=-9)
        assert "the boot partition UUID=none cannot be mounted" in said
        assert (booting.restarted, booting.tries()) == (True, left)
    assert "cannot be mounted" in booting.run(booting.new, "tb.boot=UUID=none", code=9)
    assert not booting.restarted


def test_what_is_not_on_trial_is_not_started_anew_without_a_boot_partition(booting: Booting) -> None:
    subprocess.run(["rm", "-r", booting.top / f"snapshots/{booting.old}.root/usr/lib/modules"], check=True)
    assert "cannot be mounted" in booting.run(booting.old, "tb.boot=UUID=none", code=9)
    assert not booting.restarted


def test_a_boot_partition_that_cannot_be_written_costs_a_try(by_name: Booting) -> None:
    (root_of(by_name) / "usr/lib/systemd/systemd").unlink()
    subprocess.run(["chattr", "+i", by_name.boot / "loader/entries"], check=True)
    for left in (1, 0):
        assert "cannot be told" in by_name.run(by_name.new, code=-9)
        assert (by_name.restarted, by_name.tries()) == (True, left)
    assert "cannot be told" in by_name.run(by_name.new, code=9)
    subprocess.run(["chattr", "-i", by_name.boot / "loader/entries"], check=True)
    assert by_name.choice() == Choice(by_name.old, by_name.new, 1, by_name.old)


def test_where_names_say_what_boots_it_goes_back_at_once(by_name: Booting) -> None:
    (root_of(by_name) / "usr/lib/systemd/systemd").unlink()
    assert "no init: going back" in by_name.run(by_name.new, code=-9)
    assert by_name.restarted
    assert by_name.tries() == 2
    assert by_name.choice() == Choice(by_name.old, by_name.new, 0, by_name.old)
    assert by_name.chooser.note() == f"{by_name.new}: it has no init"
    by_name.run(by_name.old)
    assert (by_name.default, by_name.restarted) == ("first", False)
    device.repair(by_name.top)


def test_where_names_say_what_boots_a_full_disk_that_gave_no_try_back_does_not_end_in_a_shell(by_name: Booting) -> None:
    """A clean reboot gives the loader's try back, but the hook's only where there is room."""
    fill_metadata(by_name.top)
    for _ in range(2):
        by_name.run(by_name.new)
        count(by_name, 1)
    assert "tries are used up" in by_name.run(by_name.new, code=-9)
    assert by_name.restarted
    assert by_name.choice() == Choice(by_name.old, by_name.new, 0, by_name.old)


def test_where_names_say_what_boots_also_what_was_kept_is_left_when_it_cannot_start(by_name: Booting) -> None:
    by_name.chooser.choose(Choice(by_name.new, back=by_name.old))
    (root_of(by_name) / "usr/lib/systemd/systemd").unlink()
    by_name.run(by_name.new, code=-9)
    assert by_name.choice() == Choice(by_name.old, by_name.new, 0, by_name.old)
    # The one that is left has nowhere to go.
    subprocess.run(["rm", "-r", by_name.top / f"snapshots/{by_name.old}.root/usr/lib/modules"], check=True)
    assert "nothing to go back to" in by_name.run(by_name.old, code=9)


def entries(booting: Booting, deployment: str) -> tuple[Path, Path, Path]:
    """The file of a deployment's entry, and those that it is renamed to: kept, and given up."""
    (there,) = (booting.boot / "loader/entries").glob(f"tb-update-*-{deployment}*.conf")
    name = there.name.removesuffix(".conf").partition("+")[0]
    return there, there.with_name(f"{name}.conf"), there.with_name(f"{name}+0.conf")


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("twins", [True, False])
def test_where_names_say_what_boots_a_rename_that_was_cut_does_no_harm(
    by_name: Booting, twins: bool, kept: bool
) -> None:
    """FAT may keep the new name without content, or both names of one content: of a commit, or of this very act."""
    (root_of(by_name) / "usr/lib/systemd/systemd").unlink()
    there, plain, over = entries(by_name, by_name.new)
    new = plain if kept else over
    if twins:
        new.hardlink_to(there)
    else:
        new.touch()
    by_name.run(by_name.new, code=-9)
    assert by_name.restarted
    assert by_name.choice() == Choice(by_name.old, by_name.new, 0, by_name.old)
    assert over.stat().st_size > 0
    # Where blocks have two names, to take one away frees them.
    assert over.stat().st_nlink == (2 if twins else 1)
    assert [path for path in over.parent.glob(f"*{by_name.new}*.conf") if path.stat().st_size] == [over]


def test_where_names_say_what_boots_a_name_without_content_is_no_way_back(by_name: Booting) -> None:
    """Nothing would boot but what failed, for ever."""
    (root_of(by_name) / "usr/lib/systemd/systemd").unlink()
    there, _, _ = entries(by_name, by_name.old)
    there.write_text("")
    assert "nothing to go back to" in by_name.run(by_name.new, code=9)
    assert not by_name.restarted


@pytest.mark.parametrize("content", ["", "short"])
def test_where_names_say_what_boots_a_note_that_was_cut_is_written_again(by_name: Booting, content: str) -> None:
    (root_of(by_name) / "usr/lib/systemd/systemd").unlink()
    (by_name.boot / "tb-update/note").write_text(content)
    assert by_name.chooser.note() == ""
    by_name.run(by_name.new, code=-9)
    assert by_name.chooser.note() == f"{by_name.new}: it has no init"
    by_name.chooser.clear_note()
    assert by_name.chooser.note() == ""


def test_what_no_entry_of_ours_has_started_is_not_started_for_ever(by_name: Booting) -> None:
    assert "gone: going back" in by_name.run("9.9-abcdef", code=9)
    assert not by_name.restarted


def test_a_kernel_that_is_not_ours_is_left_alone(booting: Booting) -> None:
    (booting.bin / "other").write_text("")
    line = "root=x quiet"
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-ec",
            f"echo {line} >{booting.bin}/other; "
            f"mount --bind {booting.bin}/other /proc/cmdline; exec {shlex.join(booting.shell)} {HOOK} /dev/none",
        ],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_on_a_full_disk_tries_are_spent_and_it_goes_back(booting: Booting) -> None:
    fill_metadata(booting.top)
    for left in (1, 0):
        booting.run(booting.new)
        assert (booting.tries(), booting.default) == (left, "second")
    booting.run(booting.new, code=-9)
    assert booting.restarted
    assert booting.choice() == Choice(booting.old)
    booting.run(booting.old)
    assert (booting.default, booting.restarted) == ("first", False)


def test_where_the_loader_counts_the_hook_only_starts_anew_and_not_for_ever(booting: Booting) -> None:
    for name in ("choice", "back"):
        (booting.boot / "tb-update" / name).unlink()
    (root_of(booting) / "usr/lib/systemd/systemd").unlink()
    for left in (1, 0):
        booting.run(booting.new, code=-9)
        assert (booting.restarted, booting.tries()) == (True, left)
    assert "cannot be told" in booting.run(booting.new, code=9)
    assert not booting.restarted
