"""The loop devices and mounts that tests make: how to let go of them, and how to find what was left over."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from pathlib import Path

SECONDS_TO_LET_GO = 20
CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18


def leave_mount_namespace() -> None:
    """Give this process mounts of its own.

    They vanish with it, however it ends. And no mount namespace that is made elsewhere meanwhile gets copies of them,
    which would keep their devices busy for as long as it lives.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "cannot get a mount namespace")


def mounts() -> list[tuple[str, Path]]:
    """All (source, mount point) of this mount namespace, in the order in which they were mounted."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        found.append((after.split(" ")[1], Path(point)))
    return found


def devices(mark: str) -> dict[str, str]:
    """The loop devices whose backing file has `mark` in its path: device -> backing file."""
    found = {}
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = entry.read_text(errors="surrogateescape").strip()
        except OSError:  # let go of in this moment
            continue
        if mark in backing:
            found[f"/dev/{entry.parts[3]}"] = backing
    return found


def release(image: Path) -> None:
    """Unmount everything that is mounted from `image` or on it; the loop device goes with its last mount."""
    limit = time.monotonic() + SECONDS_TO_LET_GO
    while True:
        held = devices(os.fspath(image))
        tops = [point for source, point in mounts() if source in held]
        below = [point for _, point in mounts() if any(top in (point, *point.parents) for top in tops)]
        if not held:
            return
        failure = "" if below else "its loop device stays"
        if not below:
            # It goes by itself after the last unmount, but not at once; whoever mounts the file again meanwhile would
            # get the old device with what it has in memory.
            for device in held:
                subprocess.run(["losetup", "-d", device], capture_output=True)
        for point in reversed(below):
            done = subprocess.run(["umount", os.fspath(point)], capture_output=True, text=True)
            failure = failure or done.stderr.strip()
        if failure and time.monotonic() > limit:
            for point in reversed(below):
                subprocess.run(["umount", "-l", os.fspath(point)], capture_output=True)
            raise RuntimeError(f"a test left its file system in use: {failure}; used by {users(tops)}")
        if failure:
            time.sleep(0.02)


def users(tops: list[Path]) -> str:
    """The processes that have something open below one of the mount points."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for link in (process / "cwd", process / "root", *process.glob("fd/*")):
            try:
                there = Path(os.readlink(link))
            except OSError:
                continue
            if any(top in (there, *there.parents) for top in tops):
                found.append(f"process {process.name} ({link.parent.name}/{link.name} is {there})")
    return "; ".join(found) or "a process of another namespace"


def leftovers(session: str) -> list[str]:
    """What the tests of one run left behind, a line each."""
    held = devices(f"tb-test-{session}-")
    lines = [f"loop device {device} on {backing}" for device, backing in held.items()]
    for source, point in mounts():
        if source in held or f"tb-test-{session}-" in os.fspath(point):
            lines.append(f"{source} mounted on {point}")
    return lines


def sweep(session: str) -> None:
    """Clear what `leftovers` found."""
    for source, point in reversed(mounts()):
        if source in devices(f"tb-test-{session}-") or f"tb-test-{session}-" in os.fspath(point):
            subprocess.run(["umount", "-l", os.fspath(point)])
    for device in devices(f"tb-test-{session}-"):
        subprocess.run(["losetup", "-d", device], capture_output=True)
