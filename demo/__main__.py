"""The story, told by the commands themselves: `python -m demo`, as root. It changes nothing but its own directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from demo import systems
from demo.stage import Device, WentWrongError, chapter, say, type_in

INSIDE = "TB_DEMO_NAMESPACE"
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Tell it; the exit code."""
    if os.geteuid() != 0:
        print("The demo mounts a Btrfs of its own on a loop device, and needs root for it.", file=sys.stderr)
        return 1
    missing = [
        tool for tool in ("mkfs.btrfs", "unshare", "chroot", "dpkg-query", "rsync") if shutil.which(tool) is None
    ]
    if missing:
        print(f"The demo needs {', '.join(missing)}: see `make setup`.", file=sys.stderr)
        return 1
    if INSIDE not in os.environ:
        # In a mount namespace of its own, every mount is gone with the last process, however that ends.
        os.environ[INSIDE] = "1"
        os.execvp(  # noqa: S606
            "unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "demo", *sys.argv[1:]]
        )
    for number in ENDS:
        signal.signal(number, _stop)
    _let_go_of_others()
    begun = time.monotonic()
    try:
        with _ground():
            _tell()
    except WentWrongError as error:
        print(f"\nThe demo FAILED: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped, and cleaned up.", file=sys.stderr)
        return 1
    print(f"\nThat took {time.monotonic() - begun:.0f} seconds. Nothing is left of it on this machine.")
    return 0


def _let_go_of_others() -> None:
    """The namespace began as a copy: what others mounted from files must not stay in use when they unmount it."""
    needed = [Path(place).resolve() for place in (sys.prefix, Path.cwd(), os.environ.get("TMPDIR", "/var/tmp"))]  # noqa: S108
    for line in reversed(Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()):
        before, _, after = line.partition(" - ")
        point, device = Path(before.split(" ")[4]), after.split(" ")[1]
        if device.startswith("/dev/loop") and not any(place.is_relative_to(point) for place in needed):
            subprocess.run(["umount", "--lazy", point], check=False, stderr=subprocess.DEVNULL)


def _stop(number: int, frame: object) -> None:
    # Whoever is impatient and says it twice must not stop the cleaning up.
    for one in ENDS:
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def _ground() -> Iterator[None]:
    """A directory with everything in it, which goes at the end; the programs of this environment are found by name."""
    before = Path.cwd()
    place = Path(tempfile.mkdtemp(prefix="tb-update-demo-", dir=os.environ.get("TMPDIR", "/var/tmp")))  # noqa: S108
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["LC_ALL"] = "C.UTF-8"
    os.chdir(place)
    try:
        yield
    finally:
        os.chdir(before)
        for mount in ("slash", "device"):
            if (place / mount).is_mount():
                subprocess.run(["umount", "--recursive", place / mount], check=True)
        shutil.rmtree(place)


def _tell() -> None:
    _build_images()
    device = _install()
    _refuse()
    _update(device)
    _cut_the_power(device)
    _break_it(device)
    _check()
    device.power_off()


def _build_images() -> None:
    chapter("On the build host: images out of trees")
    say("Four releases of a small system, as directories. 1.3 will turn out to be broken. This takes a moment.")
    Path("build").mkdir()
    for release in ("1.0", "1.1", "1.2", "1.3"):
        systems.build(release, Path("build", release))
    type_in("du -sh build/1.0 build/1.1 build/1.2 build/1.3")
    say("A key to sign with. The public half goes to the devices.")
    type_in("tbdiff keygen release.key")
    say("A full image to install from; then only what changes from one release to the next.")
    type_in("tbdiff create --full build/1.0 -o demo-1.0.tbdiff --name Demo --release 1.0 --key release.key")
    for old, new in (("1.0", "1.1"), ("1.1", "1.2"), ("1.2", "1.3")):
        type_in(
            f"tbdiff create build/{old} build/{new} -o demo-{new}.tbdiff --name Demo --release {new} --key release.key"
        )
    type_in("tbdiff show demo-1.1.tbdiff --keys release.key.pub")


def _install() -> Device:
    chapter("On the device: from an empty disk to the layout")
    device = Device(Path("disk.img"), Path("device"), 1 << 30)
    type_in("mkfs.btrfs --label system disk.img", silent=True)
    say("The top level of its file system is mounted at `device`. (On a running device, leave --top out everywhere.)")
    device.power_on()
    type_in("btrfs subvolume create device/@")
    type_in("btrfs subvolume create device/@home")
    Path("device/@home/letter.txt").write_text("Dear Ana, nobody may touch this.\n")
    type_in("tbdiff apply demo-1.0.tbdiff device/@ --keys release.key.pub")
    say("Which keys to trust. The kernel is managed elsewhere in this demonstration.")
    Path("trusted").mkdir()
    shutil.copy("release.key.pub", "trusted/release.pub")
    Path("config.toml").write_text('keys = "trusted"\n\n[boot]\nchooser = "none"\n')
    type_in("cat config.toml")
    type_in("tb-update --top device --yes init --root @")
    type_in("ls device/snapshots")
    device.boot()
    return device


def _refuse() -> None:
    chapter("An image that nobody signed is refused")
    type_in("tbdiff create build/1.0 build/1.1 -o unsigned.tbdiff --name Demo --release 1.1")
    type_in("tb-update --top device --config config.toml deploy unsigned.tbdiff", ends=3)


def _update(device: Device) -> None:
    chapter("An update")
    type_in("tb-update --top device --config config.toml deploy --dry-run demo-1.1.tbdiff")
    type_in("tb-update --top device --config config.toml deploy demo-1.1.tbdiff")
    device.boot()
    say("It is good, so keep it. The one before is still there.")
    type_in("tb-update --top device --config config.toml commit")
    type_in("tb-update --top device list")


def _cut_the_power(device: Device) -> None:
    chapter("A power cut in the middle of the next one")
    device.cut_power_during("tb-update --top device --config config.toml -v deploy demo-1.2.tbdiff", "apply the image")
    say("The disk is now what it was at that moment; all that was in memory only is lost.")
    type_in("tb-update --top device status")
    device.boot()
    say("The old system, whole. The next command clears what was left half done; nothing special is to be done.")
    type_in("ls device/snapshots")
    type_in("tb-update --top device --config config.toml deploy demo-1.2.tbdiff")
    device.boot()
    type_in("tb-update --top device --config config.toml commit")


def _break_it(device: Device) -> None:
    chapter("A broken release, and the way back")
    type_in("tb-update --top device --config config.toml deploy demo-1.3.tbdiff")
    device.boot(fails=True)
    type_in("tb-update --top device rollback --reason 'the shell does not start'")
    device.boot()
    type_in("tb-update --top device list")
    type_in("tb-update --top device history")


def _check() -> None:
    chapter("Is it really exactly the old system?")
    say("Every file, owner, mode, time and attribute, against what was signed on the build host:")
    type_in("tbdiff verify demo-1.2.tbdiff device/snapshots/root --keys release.key.pub")
    type_in("tbdiff verify demo-1.1.tbdiff device/snapshots/previous --keys release.key.pub")
    type_in("tb-update --top device verify current")
    type_in("rsync --archive --hard-links --acls --xattrs --checksum --delete --dry-run --itemize-changes "
            "build/1.2/ device/snapshots/root/", nothing=True)  # fmt: skip
    say("(rsync, which knows nothing of tb-update, found no difference either.) And the user's data:")
    type_in("cat device/@home/letter.txt")


if __name__ == "__main__":
    sys.exit(main())
