"""A command in a new root: a deployment if it succeeds, nothing if it fails or is cut; none of it runs on."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tbdiff.errors import Failed, NothingToDo, Rejected
from tbdiff.tree import read_tree
from tbupdate import planning
from tbupdate.rootsteps import CommandFailed
from tbupdate.steps import Plan, SetDefault
from tbupdate.system import survey
from tests import device, loops, systems
from tests.console import Device, set_up
from tests.device import TinyImage, boots, check_settled, deploy, run, run_first

WAITING = 20
_counter = itertools.count(1)


@pytest.fixture
def top(btrfs: Path) -> Path:
    systems.initialised(btrfs)
    return btrfs


@pytest.fixture
def dev(btrfs: Path, tmp_path: Path) -> Device:
    systems.give_shell(btrfs)
    return set_up(btrfs, tmp_path)


def shell(top: Path, script: str, **more: object) -> Plan:
    return systems.plan_run(top, "sh", "-c", script, **more)


def mounts_below(top: Path) -> list[Path]:
    return [point for _, point in loops.mounts() if top in point.parents]


def test_what_a_command_makes_boots_next_with_the_local_changes(top: Path) -> None:
    first = survey(str(top)).marks.good
    (top / "snapshots/root/etc/mine").write_text("local")
    plan = shell(top, "echo second >/etc/system; rm /etc/fstab; cat /etc/mine >/etc/copy")
    assert run(top, plan) == ()
    system = check_settled(top)
    assert boots(top) == "second\n"
    assert (system.staged.id, system.previous.id) == (plan.deployment, first)  # type: ignore[union-attr]
    tree, known = top / "snapshots" / str(plan.deployment), system.staged.record  # type: ignore[union-attr]
    assert known is not None
    assert read_tree(tree).digest.hex() == known.tree
    assert (known.base, known.made_by[:2]) == (first, ("run", "sh"))
    assert (tree / "etc/copy").read_text() == "local"
    assert not (tree / "usr/sbin/policy-rc.d").exists()
    device.rollback(top)
    assert (top / "snapshots/root/etc/mine").read_text() == "local"
    assert (top / "snapshots/root/etc/fstab").exists()


@pytest.mark.parametrize(
    ("script", "code"), [("exit 7", 7), ("nosuch", 127), ("kill -9 $$", 137), ("touch /etc/x; false", 1)]
)
def test_a_command_that_fails_leaves_nothing(top: Path, script: str, code: int) -> None:
    names, before = device.names(top), survey(str(top))
    with pytest.raises(CommandFailed, match=f"exit code {code}") as failed:
        run(top, shell(top, script))
    assert failed.value.code == code
    assert device.names(top) == names
    assert check_settled(top).default == before.default
    assert mounts_below(top) == []


def test_a_command_that_changes_nothing_is_nothing_to_do(top: Path) -> None:
    (top / "snapshots/root/etc/mine").write_text("local")
    (top / "snapshots/root/var/log").mkdir(parents=True, exist_ok=True)
    names = device.names(top)
    for script in ("true", "echo x >/tmp/x", "echo x >/var/log/x", "echo x >/run/x; echo x >/dev/shm/x"):
        with pytest.raises(NothingToDo, match="changed nothing"):
            run(top, shell(top, script))
    assert device.names(top) == names


def test_it_sees_nothing_of_the_outside_and_changes_nothing_there(top: Path, tmp_path: Path) -> None:
    name, control = os.uname().nodename, os.stat("/dev/loop-control")
    script = f"""
    set -e
    test $$ != 1; test "$(ps | wc -l)" -lt 9
    test -d /proc/self; test -c /dev/null; test -z "$(ls /tmp)"; test ! -e {tmp_path}
    test "$(/usr/sbin/policy-rc.d; echo $?)" = 101
    ! touch /sys/x 2>/dev/null; ! echo 1 2>/dev/null >/proc/sys/vm/swappiness
    mknod /dev/tb-test c 1 3; echo x >/dev/tb-test; chown 7:7 /dev/loop-control; chmod 640 /dev/null
    hostname tb-other; test "$(hostname)" = tb-other
    mkdir /mnt; mount -t tmpfs none /mnt; echo x >/mnt/x; echo x >/dev/null
    test -z "$TB_TEST_SESSION"; test "$HOME" = /root; cd; echo ok >result
    """
    assert run(top, shell(top, script)) == ()
    tree = top / "snapshots/root"
    assert (tree / "root/result").read_text() == "ok\n"
    assert os.listdir(tree / "mnt") == []
    assert os.uname().nodename == name
    assert not os.path.exists("/dev/tb-test")
    assert os.stat("/dev/null").st_mode & 0o777 == 0o666
    assert os.stat("/dev/loop-control").st_uid == control.st_uid
    assert mounts_below(top) == []


def test_daemons_end_with_it(top: Path, mark: str) -> None:
    started = time.monotonic()
    run(
        top,
        shell(top, f"setsid sh -c 'trap : TERM HUP; sleep {mark} & wait; sleep {mark}' & echo x >/etc/x; sleep 0.2"),
    )
    assert time.monotonic() - started < WAITING
    assert not processes(mark)
    check_settled(top)


def test_two_commands_one_over_the_other(top: Path) -> None:
    first = shell(top, "touch /etc/one")
    run(top, first)
    with pytest.raises(NothingToDo):
        run(top, shell(top, "true", over_staged=True))
    second = shell(top, "touch /etc/two", over_staged=True)
    assert "made over" in second.notes[0]
    run(top, second)
    system = check_settled(top)
    assert system.staged.record.base == first.deployment  # type: ignore[union-attr]
    assert {"one", "two"} <= set(os.listdir(top / "snapshots/root/etc"))
    # Without it, it is made out of what was committed, and takes the place of what is staged.
    run(top, shell(top, "touch /etc/three"))
    assert not {"one", "two"} & set(os.listdir(top / "snapshots/root/etc"))
    device.commit(top)
    with pytest.raises(Rejected, match="nothing is staged"):
        shell(top, "true", over_staged=True)


def test_subvolumes_that_a_command_makes_are_refused_and_cleared(top: Path) -> None:
    names = device.names(top)
    plan = shell(top, "true")
    site = device.site.Site(str(top))
    from tbupdate import perform
    from tbupdate.rootvocabulary import RunCommand

    tree = top / "snapshots" / f"{plan.deployment}.partial"
    for step in plan.steps[:4]:
        perform.do(step, site)
    for name in ("var/lib", "var/lib/deep/in"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name in ("var/lib/machines", "var/lib/deep/in/there", "var/lib/machines/a"):
        subprocess.run(["btrfs", "-q", "subvolume", "create", tree / name], check=True)
    with pytest.raises(Failed, match="/var/lib/deep/in/there"):
        perform.do(next(step for step in plan.steps if isinstance(step, RunCommand)), site)
    device.repair(top)
    assert device.names(top) == names
    check_settled(top)


def test_run_cut_after_every_step(top: Path) -> None:
    for count in range(100):
        before = boots(top)
        plan = shell(top, f"echo {count} >/etc/system")
        if count > len(plan.every_step):
            return
        run_first(top, plan, count)
        switch = next(n for n, step in enumerate(plan.steps) if isinstance(step, SetDefault))
        device.repair(top)
        system = check_settled(top)
        assert boots(top) == (f"{count}\n" if count > switch else before)
        assert (system.get(plan.deployment) is not None) == (count > switch)
        if count > switch:
            device.commit(top)
            run(top, planning.plan_rollback(survey(str(top)), None, device.NOW, "test"))
    raise AssertionError("a plan of a hundred steps")


# --- data outside of the root --------------------------------------------------------------------------------------


def with_data(top: Path, *points: str) -> Path:
    """A device with subvolumes of their own, each with a file of the user's."""
    table = device.FSTAB + "tmpfs /var/tmp tmpfs size=1m 0 0\n/dev/nothing /mnt ext4 defaults 0 0\n"
    for point in points:
        name = "@" + point.strip("/").replace("/", "-")
        subprocess.run(["btrfs", "-q", "subvolume", "create", top / name], check=True)
        (top / name / "mine").write_text("user data")
        table += f"LABEL=system {point} btrfs subvol={'/' * (point == '/srv')}{name} 0 0\n"
    systems.initialised(top, table)
    for name in ("mnt", "var/tmp"):
        (top / "snapshots/root" / name).mkdir(parents=True, exist_ok=True)
    return top


def test_a_command_sees_the_users_data_and_cannot_harm_it(btrfs: Path) -> None:
    top = with_data(btrfs, "/home", "/srv")
    script = "set -e; cat /home/mine /srv/mine >/etc/seen; rm /home/mine; echo x >/home/new; echo x >/var/tmp/x"
    place = device.site.Site(str(top))
    from tbupdate import perform

    plan = shell(top, script)
    said = perform.perform(plan, place, device.NOW)
    assert [remark for remark in said if "/home" in remark and "lost" in remark]
    assert not [remark for remark in said if "/srv" in remark]
    assert (top / "@home/mine").read_text() == "user data"
    assert os.listdir(top / "@home") == ["mine"]
    root = top / "snapshots/root"
    assert (root / "etc/seen").read_text() == "user datauser data"
    assert os.listdir(root / "home") == os.listdir(root / "var/tmp") == []
    check_settled(top)


def test_what_is_mounted_from_elsewhere_is_read_only(btrfs: Path) -> None:
    top = with_data(btrfs, "/home")
    with pytest.raises(CommandFailed):
        run(top, shell(top, "echo x >/mnt/x"))
    assert os.listdir(top / "snapshots/root/mnt") == []


def test_packages_whose_database_is_outside_of_the_root_are_not_updated_so(btrfs: Path) -> None:
    top = with_data(btrfs, "/var")
    (top / "@var/lib/dpkg").mkdir(parents=True)
    (top / "@var/lib/dpkg/status").write_text("Package: one\n")
    names = device.names(top)
    with pytest.raises(Failed, match="no part of the root"):
        run(top, shell(top, "echo x >/etc/x; echo 'Package: two' >>/var/lib/dpkg/status"))
    assert (top / "@var/lib/dpkg/status").read_text() == "Package: one\n"
    assert device.names(top) == names
    assert run(top, shell(top, "cat /var/lib/dpkg/status >/etc/x")) == ()


# --- ended by force --------------------------------------------------------------------------------------------------


def processes(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said = path.read_bytes()
        except OSError:
            continue
        if mark.encode() in said.replace(b"\0", b" ") and int(path.parts[2]) != os.getpid():
            found.append(int(path.parts[2]))
    return found


@pytest.fixture
def mark() -> Iterator[str]:
    """How long commands sleep, by which they are known; what is left of them when a test fails is ended."""
    seconds = f"9{os.getpid()}{next(_counter)}"
    yield seconds
    for process in processes(seconds):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ended_in_the_middle_of_the_command(dev: Device, number: signal.Signals, mark: str) -> None:
    before, names = dev.status(), device.names(dev.top)
    script = f"echo x >/etc/x; setsid sleep {mark} & touch /root/there; sleep {mark}"
    command = dev.command("run", "--", "sh", "-c", script)
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE)
    limit = time.monotonic() + WAITING
    while not list(dev.top.glob("snapshots/*.partial/root/there")):
        assert time.monotonic() < limit, process.poll()
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate()
    assert b"Traceback" not in said
    if number != signal.SIGKILL:
        assert process.returncode == 1
        assert not processes(f"sleep {mark}")
        assert device.names(dev.top) == names
    while processes(f"sleep {mark}"):
        # After a kill it is the kernel that ends them, a moment later.
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert mounts_below(dev.top) == []
    dev("prune", code=4)
    assert device.names(dev.top) == names
    assert dev.status()["default"] == before["default"]
    check_settled(dev.top)


# --- as a person has it ----------------------------------------------------------------------------------------------


def test_the_command_line(dev: Device) -> None:
    planned = dev.json("run", "--dry-run", "--", "touch", "/etc/new file")
    assert any("touch '/etc/new file'" in step for step in planned["plan"])
    said = dev.json("run", "--", "sh", "-c", "echo talk; exit 3", code=1)["error"]
    assert (said["kind"], said["exit_code"]) == ("failed", 3)
    assert "exit code 3" in said["message"]
    assert "exit code 3" in dev.run("run", "sh", "-c", "exit 3").stderr
    dev("run", "--release", "a b", "--", "touch", "/etc/no", code=2)
    assert dev.json("run", "--", "true", code=4)["error"]["kind"] == "nothing-to-do"
    made = dev.json("run", "--name", "tried", "--", "sh", "-c", "echo talk; touch /etc/new")
    assert (made["done"], made["staged"]) == ("run", made["id"])
    assert made["deployments"][0]["made_by"][:2] == ["run", "sh"]
    long = "x" * 100_000
    made = dev.json("run", "--", "sh", "-c", "echo talk; touch /etc/x", b"\xff", long)  # type: ignore[arg-type]
    told = made["deployments"][0]["made_by"]
    assert told[:5] == ["run", "sh", "-c", "echo talk; touch /etc/x", "\\udcff"]
    assert len(told[5]) < len(long)
    for arguments in (["sh", "-c", "exit 1", long], ["true", *[long] * 12]):
        assert len(dev.json("run", "--", *arguments, code=1)["error"]["message"]) < 1000
    assert "talk" in dev.run("run", "--", "sh", "-c", "echo talk; touch /etc/x").stdout
    dev("run", code=2)
    dev("run", "--shell", "true", code=2)
    made = dev.json("run", "--shell", "--continue", input="touch /etc/by-hand\nexit\n")
    assert (dev.top / "snapshots/root/etc/by-hand").exists()
    dev("run", "--shell", input="touch /etc/no\nexit 1\n", code=1)
    events = dev.json("history")["events"]
    assert (events[-1]["event"], events[-1]["result"]) == ("run", "failed")
    assert events[-2]["command"] == [] if "command" in events[-2] else events[-2]["id"] == made["id"]


def test_upgrade_by_packages(dev: Device) -> None:
    dev("upgrade", "--continue", code=2)
    assert "apt-get" in dev.run("upgrade", "--packages").stderr
    dev("upgrade", "--packages", code=3)
    tool = dev.top / "snapshots/root/usr/bin/dnf"
    tool.parent.mkdir(parents=True)
    tool.write_text('#!/bin/sh\necho "$@" >/etc/asked\n')
    tool.chmod(0o755)
    assert dev.json("upgrade", "--packages")["done"] == "upgrade"
    assert (dev.top / "snapshots/root/etc/asked").read_text() == "-y upgrade --refresh\n"


def test_what_runs_on_trial_must_be_judged_first(top: Path) -> None:
    deploy(top, TinyImage("second", "2.0"))
    system = survey(str(top))
    from dataclasses import replace

    from tbupdate import freezing

    running = replace(system, booted_id=system.default_id)
    for plan in (freezing.plan_run, freezing.plan_snapshot):
        with pytest.raises(Rejected, match="runs on trial"):
            plan(running, freezing.Wish("x-000000", device.NOW))
    elsewhere = replace(system, booted_id=5)
    with pytest.raises(Rejected, match="root of no deployment"):
        freezing.plan_run(elsewhere, freezing.Wish("x-000000", device.NOW))
