"""tb-update as it is run: real images, exit codes, JSON, the lock, signals, a full disk, a live system."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tbdiff.kept import HEAD
from tbupdate.system import survey
from tests import device, schemas
from tests.console import REPOSITORY, Device
from tests.unit.test_download import Site, served


def test_the_way_of_an_update(dev: Device) -> None:
    one, two = dev.tree("one", changed="a", gone="b"), dev.tree("two", changed="c", new="d")
    full, delta = dev.image(None, one, "1.0"), dev.image(one, two, "2.0")
    assert "THE SWITCH" in dev("deploy", full, "--dry-run")
    assert dev.status()["staged"] is None
    first = dev.json("deploy", full)
    assert first["staged"] == first["default"] == first["current"] == first["id"]
    dev("commit")
    with open(delta, "rb") as pipe:
        dev("deploy", "-", stdin=pipe)
    status = dev.status()
    assert (status["previous"], status["trial"], status["booted"]) == (first["id"], None, None)
    new = status["deployments"][0]
    assert (new["release"], new["state"], new["signers"]) == ("2.0", "staged", ["builder"])
    assert (dev.top / "snapshots/root/etc/new").read_text() == "d"
    assert not (dev.top / "snapshots/root/etc/gone").exists()
    dev("commit")
    dev("commit", code=4)
    dev("deploy", delta, code=4)
    dev("deploy", full, code=3)
    dev("rollback", first["id"])
    assert dev.status()["default"] == first["id"]
    events = dev.json("history")["events"]
    assert [event["event"] for event in events] == ["init", "deploy", "commit", "deploy", "commit", "rollback"]


def test_what_is_rejected_changes_nothing(dev: Device) -> None:
    tree = dev.tree("one")
    before = dev.status()
    unsigned = dev.image(None, tree, "1.0", signed=False)
    other = dev.image(None, tree, "1.1", device_types=("other",))
    delta = dev.image(dev.tree("elsewhere"), tree, "1.2")
    (dev.work / "junk").write_bytes(b"junk" * 1000)
    for image in (unsigned, other, delta, str(dev.work / "junk")):
        error = dev.json("deploy", image, code=3)["error"]
        assert error["kind"] == "rejected"
        assert error["message"]
    assert dev.status() | {"free": 0} == before | {"free": 0}
    assert [event["event"] for event in dev.json("history")["events"]] == ["init"]
    dev("deploy", unsigned, "--allow-unsigned")
    assert "unsigned" in dev("list")
    assert "unsigned" in dev("history")


def test_a_damaged_image_leaves_no_trace(dev: Device) -> None:
    image = Path(dev.image(None, dev.tree("one", big=os.urandom(1 << 20).hex()), "1.0"))
    raw = bytearray(image.read_bytes())
    raw[-1000] ^= 1
    image.write_bytes(raw)
    before = device.names(dev.top)
    assert dev.run("deploy", str(image)).returncode in (1, 3)
    device.check_settled(dev.top)
    assert device.names(dev.top) == before
    assert dev.json("history")["events"][-1]["result"] == "failed"


def test_a_killed_deploy_fetches_only_the_rest_the_next_time(dev: Device) -> None:
    image = Path(dev.image(None, dev.tree("one", big=os.urandom(1 << 20).hex()), "1.0")).read_bytes()
    site = Site(body=image, cut=len(image) // 8)
    with served(site) as url:
        first = subprocess.Popen(dev.command("deploy", url), cwd=REPOSITORY)
        # It waits a second after each of the eight cuts.
        while site.sent < len(image) // 2 and first.poll() is None:
            time.sleep(0.01)
        time.sleep(0.2)
        first.kill()
        assert first.wait() == -signal.SIGKILL
        (part,) = (dev.top / "tb-update/fetched").glob("*.part")
        held = part.stat().st_size - HEAD
        assert 0 < held < len(image)
        site.cut = None
        site.asked.clear()
        dev("deploy", url)
    assert site.asked == [(f"bytes={held - 1}-", '"one"')]
    assert list((dev.top / "tb-update/fetched").iterdir()) == []
    device.check_settled(dev.top)


def test_exit_codes_and_where_options_stand(dev: Device) -> None:
    top = str(dev.top)
    plain = [sys.executable, "-m", "tbupdate"]
    for arguments, code in (
        ([], 0),
        (["--help"], 0),
        (["--top", top, "status"], 0),
        (["status", "--top", top], 0),
        (["--top", "/nowhere", "--json", "status", "--top", top], 0),
        (["status", "--top", "/nowhere"], 3),
        (["status", "--top", top + "/snapshots"], 3),
        (["status", "--no-such"], 2),
        (["nothing"], 2),
        (["rollback", "--top", top], 3),
        (["commit", "--top", top], 4),
        (["prune", "--top", top], 4),
        (["rollback", "no-such", "--top", top], 3),
        (["status", "--top", top, "--config", "/nowhere"], 0),
        (["doctor", "--top", top, "--config", "/nowhere"], 1),
    ):
        done = subprocess.run([*plain, *arguments], capture_output=True, text=True, cwd=REPOSITORY)
        assert done.returncode == code, (arguments, done.stderr)
        assert "Traceback" not in done.stderr


def test_a_typo_in_the_configuration_is_named(dev: Device) -> None:
    (dev.work / "config.toml").write_text("kep = 3\n")
    error = dev.json("prune", code=1)["error"]
    assert "kep" in error["message"]


def test_another_run_is_busy(dev: Device) -> None:
    descriptor = os.open(dev.top / "snapshots", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        image = dev.image(None, dev.tree("one"), "1.0")
        for arguments in (["deploy", image], ["rollback"], ["commit"], ["prune"], ["init", "--yes"]):
            assert dev.json(*arguments, code=75)["error"]["kind"] == "busy"
        dev.status()
    finally:
        os.close(descriptor)


def test_verify_names_what_differs(dev: Device) -> None:
    dev("deploy", dev.image(None, dev.tree("one"), "1.0"))
    dev("verify")
    current = dev.status()["current"]
    place = dev.top / "snapshots" / current
    subprocess.run(["btrfs", "property", "set", "-ts", str(place), "ro", "false"], check=True)
    (place / "etc/system").write_text("spoiled")
    assert "writable" in [finding["name"] for finding in dev.json("doctor", code=1)["findings"]]
    dev("verify")  # `current` is a snapshot of its own
    found = dev.json("verify", current, code=1)
    assert not found["whole"]
    assert "etc/system" in [one["path"] for one in found["differences"]]
    assert "etc/system" in dev("verify", current, code=1)


def test_diff(dev: Device) -> None:
    dev("deploy", dev.image(None, dev.tree("one", new="x"), "1.0"))
    paths = {change["path"]: change["kind"] for change in dev.json("diff")["changes"]}
    assert paths["etc/new"] == "added"
    assert "etc/new" in dev("diff")


def test_doctor_finds_what_defeats_an_update(dev: Device) -> None:
    assert dev.json("doctor")["healthy"]
    root = dev.top / "snapshots/root"
    (root / "etc/fstab").write_text("# a comment\nLABEL=x / btrfs defaults,subvol=@ 0 0\n")
    subprocess.run(["btrfs", "-q", "subvolume", "create", str(root / "docker")], check=True)
    (root / "docker/layer").mkdir()
    boot = dev.work / "boot"
    (boot / "loader/entries").mkdir(parents=True)
    (boot / "loader/entries/a.conf").write_text("options root=LABEL=x rootflags=noatime,subvol=@ rw\n")
    found = {one["name"]: one for one in dev.json("doctor", "--boot", str(boot), code=1)["findings"]}
    assert {"fstab", "nested", "boot-options"} <= set(found)
    assert all(one["remedy"] for one in found.values())
    top = subprocess.run(["findmnt", "-no", "TARGET", str(dev.top)], capture_output=True, text=True).stdout.strip()
    subprocess.run(["btrfs", "subvolume", "set-default", "5", top], check=True)
    assert "default" in {one["name"] for one in dev.json("doctor", code=1)["findings"]}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cleans_up(dev: Device, number: signal.Signals) -> None:
    """The image comes through a pipe that stops in the middle: the run waits there, and is told to end."""
    image = Path(dev.image(None, dev.tree("one", big=os.urandom(2 << 20).hex()), "1.0")).read_bytes()
    before = device.names(dev.top)
    with subprocess.Popen(
        dev.command("deploy", "-"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=REPOSITORY,
    ) as run:
        assert run.stdin is not None
        assert run.stderr is not None
        run.stdin.write(image[: len(image) // 2])
        run.stdin.flush()
        wait(lambda: any(name.endswith(".partial") for name in device.names(dev.top)))
        time.sleep(0.2)
        run.send_signal(number)
        said = run.stderr.read().decode()
        assert run.wait(30) == 1
    assert "interrupted" in said
    assert "Traceback" not in said
    device.check_settled(dev.top)
    assert device.names(dev.top) == before


def test_a_kill_is_cleared_by_the_next_command(dev: Device) -> None:
    image = Path(dev.image(None, dev.tree("one", big=os.urandom(2 << 20).hex()), "1.0"))
    with subprocess.Popen(dev.command("deploy", "-"), stdin=subprocess.PIPE, cwd=REPOSITORY) as run:
        assert run.stdin is not None
        run.stdin.write(image.read_bytes()[: image.stat().st_size // 2])
        run.stdin.flush()
        wait(lambda: any(name.endswith(".partial") for name in device.names(dev.top)))
        run.kill()
        run.wait()
    assert dev.status()["interrupted"]
    assert "interrupted" in {one["name"] for one in dev.json("doctor", code=1)["findings"]}
    dev("deploy", str(image))
    device.check_settled(dev.top)
    assert "repair" in {event["event"] for event in dev.json("history")["events"]}


def wait(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit, "it did not come to that"
        time.sleep(0.02)


def test_progress_as_json(dev: Device) -> None:
    done = dev.run("deploy", dev.image(None, dev.tree("one"), "1.0"), "--progress", "json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {"phase", "done", "total", "format_version"} <= set(lines[0])
    assert dev.run("rollback").stderr == ""


def test_remove_and_pin(dev: Device) -> None:
    dev("deploy", dev.image(None, dev.tree("one"), "1.0"))
    bad = dev.status()["staged"]
    dev("rollback")
    dev("pin", bad)
    dev("remove", bad, code=3)
    dev("pin", bad, "--off")
    dev("pin", bad, "--off", code=4)
    dev("remove", bad)
    assert len(dev.status()["deployments"]) == 1
    dev("remove", "current", code=3)
    device.check_settled(dev.top)


@pytest.mark.slow
def test_status_and_rollback_on_a_full_file_system(make_btrfs: Callable[..., Path], tmp_path: Path) -> None:
    top = make_btrfs(300 << 20)
    device.initialised(top)
    device.deploy(top, device.TinyImage("second", "2.0"), reserve=0)
    small = Device(top, tmp_path)
    (tmp_path / "config.toml").write_text("")
    fill(top)
    assert small.status()["staged"]
    done = small.run("rollback")
    assert done.returncode == 0, done.stderr
    assert "follow with the next command" in done.stderr
    assert device.boots(top) == "first"
    assert survey(str(top)).pending is None
    small("doctor", code=1)
    for name in os.listdir(top):
        if name.startswith("fill"):
            (top / name).unlink()
    os.sync()
    small("prune", "--keep", "1")
    device.check_settled(top)
    events = small.json("history")["events"]
    assert [event["event"] for event in events][-3:] == ["rollback", "repair", "prune"]
    assert events[-3]["id"] == survey(str(top)).default.id  # type: ignore[union-attr]
    assert not survey(str(top)).marks.late


def fill(top: Path) -> None:
    """With data, then with metadata: until not even an empty file finds room."""
    for size in (1 << 20, 1 << 14, 2000, 0):
        for number in range(1_000_000):
            try:
                with open(top / f"fill-{size}-{number}-{'x' * 200}", "wb") as file:
                    file.write(os.urandom(size))
                    file.flush()
                    if size == 1 << 20:
                        os.fsync(file.fileno())
            except OSError:
                break


@pytest.mark.slow
def test_a_live_system(dev: Device) -> None:
    """Chrooted into the mounted default subvolume, before and after a reboot: / is the device's own, without --top."""
    for directory in MOUNT_POINTS:
        (dev.top / "snapshots/root" / directory).mkdir()
    tree = dev.tree("one")
    for directory in MOUNT_POINTS:
        (tree / directory).mkdir()
    image = dev.image(None, tree, "1.0")
    dev.image(None, dev.tree("two"), "2.0")
    (dev.work / "live.sh").write_text(LIVE)
    (dev.work / "bin").mkdir()
    (dev.work / "bin/reboot").write_text("#!/bin/sh\necho once >>/work/restarted\n")
    (dev.work / "bin/reboot").chmod(0o755)
    with (dev.work / "config.toml").open("a") as file:
        file.write("[health]\nattempts = 1\n")
    arguments = [str(dev.work / "live.sh"), str(dev.top), str(dev.work), str(REPOSITORY), sys.prefix, image]
    done = subprocess.run(["unshare", "--mount", "--fork", "sh", "-eux", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = [json.loads(part) for part in done.stdout.split("---\n")]
    watch = ("health", "--watch")
    ran = (("deploy",), ("commit",), ("status",), ("deploy",), ("commit",), watch, watch, ("rollback",), watch)
    for words, part in zip(ran, parts, strict=True):
        schemas.hold("tb-update", words, part)
    staged, too_early, trial, refused, committed, well, back, again, unwell = parts
    assert staged["staged"] == staged["default"] == staged["id"]
    assert staged["booted"] == staged["previous"] != staged["id"]
    assert staged["reboot_needed"]
    assert "reboot" in too_early["error"]["remedy"].lower()
    assert trial["trial"] == trial["booted"] == staged["id"]
    assert trial["staged"] is None
    assert "trial" in refused["error"]["message"]
    assert committed["trial"] is None
    assert committed["committed"] == staged["id"]
    # Long after the commit, a check finds out.
    assert well["healthy"]
    assert back["done"] == "rollback"
    bad = next(one["bad"] for one in back["deployments"] if one["id"] == staged["id"])
    assert bad == "the required check memory failed: it leaks"
    assert (dev.work / "restarted").read_text() == "once\n"
    assert "left already" in again["error"]["message"]
    assert "gone back to" in unwell["error"]["message"]
    assert back["default"] == staged["booted"]
    assert back["booted"] == staged["id"]
    assert back["reboot_needed"]


MOUNT_POINTS = ("proc", "dev", "run", "usr", "lib", "lib64", "bin", "work", "repo", "venv", "tmp", "var")
LIVE = """
top=$1 work=$2 repo=$3 venv=$4 image=$5
device=$(findmnt -no SOURCE --nofsroot "$top")
sed -i "s,$work,/work," "$work/config.toml"
boot() {
    new=$work/$1; mkdir "$new"
    mount "$device" "$new"
    for d in usr lib lib64 bin dev tmp var; do mount --rbind /$d "$new/$d"; done
    mount --bind "$repo" "$new/repo"; mount --bind "$venv" "$new/venv"; mount --bind "$work" "$new/work"
    mount -t tmpfs none "$new/run"; mount -t proc none "$new/proc"
}
run() {
    chroot "$new" sh -c '
        PATH=/work/bin:$PATH; cd /repo && exec /venv/bin/python -m tbupdate "$@" --json --config /work/config.toml
    ' sh "$@"
}
boot before
run deploy "/work/${image##*/}"; echo ---
run commit || test $? = 3; echo ---
test -z "$(ls -A "$new/run/tb-update/top")"
boot after
run status; echo ---
run deploy /work/2.0.tbdiff || test $? = 3; echo ---
run commit; echo ---
run health --watch; echo ---
spoil() {
    mkdir -p "$new/etc/tb-update/required.d"
    printf '#!/bin/sh\\necho it leaks\\nexit 1\\n' >"$new/etc/tb-update/required.d/memory"
    chmod 755 "$new/etc/tb-update/required.d/memory"
}
spoil
# What it would start anew is this computer.
test -x "$work/bin/reboot"
run health --watch; echo ---
run rollback --unattended --reboot || test $? = 4; echo ---
boot last
spoil
run health --watch || test $? = 3
"""


def test_init_is_undone_and_done_again(dev: Device) -> None:
    assert "remove the directories" in dev("init", "--undo", "--dry-run")
    assert dev.json("init", "--undo", "--yes")["done"] == "undo"
    assert sorted(os.listdir(dev.top)) == ["etc"]
    dev("init", "--undo", "--yes", code=4)
    dev("init", "--yes")
    dev("deploy", dev.image(None, dev.tree("v2"), "2.0"))
    dev("init", "--undo", "--yes", code=3)


def test_an_epoch_is_never_forgotten(dev: Device) -> None:
    first = dev.status()["default"]
    withdrawn = dev.image(None, dev.tree("old"), "9.0")
    dev("deploy", dev.image(None, dev.tree("one"), "1.0", epoch=3))
    assert dev.status()["epoch"] == 0
    dev("commit")
    assert dev.status()["epoch"] == 3
    dev("rollback", first)
    assert "epoch" in dev.json("deploy", withdrawn, code=3)["error"]["message"]
    for kept in dev.status()["deployments"]:
        (dev.top / "tb-update" / kept["id"] / "record.json").write_text("")
    assert "epoch" in dev.json("deploy", withdrawn, code=3)["error"]["message"]
    later = dev.image(None, dev.tree("two"), "2.0", epoch=3)
    assert "record" in dev.json("deploy", later, code=3)["error"]["message"]
    dev("deploy", later, "--allow-downgrade")


def test_checks_are_for_the_running_system(dev: Device) -> None:
    for option in ([], ["--passed"], ["--failed"], ["--decide"], ["--ends"]):
        dev("health", *option, code=3)
    # Nobody is held up in the middle of a boot, or from going back, by a typo.
    (dev.work / "config.toml").write_text('keep = "many"\n')
    for said, code in (("--failed", 3), ("--decide", 3), ("--ends", 3), ("--passed", 1), ("--watch", 1)):
        dev("health", said, code=code)
    (dev.top / "snapshots/root/etc/system").write_text("spoilt")
    dev("reset", "--yes")
    assert (dev.top / "snapshots/root/etc/system").read_text() != "spoilt"
