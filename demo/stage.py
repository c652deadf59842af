"""The stage: commands shown as a person types them, a disk that is a file, and its power."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

WIDTH = 100


class WentWrongError(Exception):
    """Something did not go as the demonstration promises."""


def _style(text: str, codes: str) -> str:
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR")
    return text if plain else f"\033[{codes}m{text}\033[0m"


def chapter(title: str) -> None:
    """A heading."""
    print(f"\n{_style(f'== {title} ', '1;36')}{_style('=' * max(0, WIDTH - len(title) - 4), '36')}", flush=True)


def say(text: str) -> None:
    """What is about to happen, and why."""
    print()
    for line in textwrap.wrap(" ".join(text.split()), WIDTH - 2):
        print(_style(f"# {line}", "2"), flush=True)


def type_in(command: str, *, ends: int = 0, silent: bool = False, nothing: bool = False) -> None:
    """Run a command as it stands there, show what it says unless `silent`, and expect its exit code (and `nothing`)."""
    print(f"{_style('$', '1;32')} {_style(command, '1')}", flush=True)
    done = subprocess.run(
        shlex.split(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if not silent or done.returncode != ends:
        for line in done.stdout.splitlines():
            print(f"  {line}")
    if done.returncode != ends:
        raise WentWrongError(f"`{command}` ended with {done.returncode}, not with {ends}")
    if nothing and done.stdout:
        raise WentWrongError(f"`{command}` had something to say")
    if ends:
        print(_style(f"  (exit code {ends})", "2"))
    sys.stdout.flush()


class Device:
    """A disk that is a file, mounted in the mount namespace of this process: nothing is left of it when that ends."""

    def __init__(self, disk: Path, top: Path, size: int) -> None:
        self.disk = disk
        self.top = top
        top.mkdir()
        with disk.open("wb") as file:
            file.truncate(size)

    def power_on(self) -> None:
        """Mount the top level of its file system."""
        subprocess.run(["mount", "-o", "loop,noatime,subvolid=5", self.disk, self.top], check=True)

    def power_off(self) -> None:
        """Unmount it, as in an orderly shutdown."""
        subprocess.run(["umount", self.top], check=True)

    def boot(self, *, fails: bool = False) -> None:
        """Mount what a kernel would mount, by no other name than the device's, and start its init."""
        loop = subprocess.run(
            ["findmnt", "--noheadings", "--nofsroot", "--output", "SOURCE", self.top],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        slash = self.top.with_name("slash")
        slash.mkdir()
        print(_style("[the device boots: its default subvolume is mounted as /, and /sbin/init started]", "33"))
        subprocess.run(["mount", loop, slash], check=True)
        try:
            up = subprocess.run(["chroot", slash, "/sbin/init"], check=False, capture_output=True, text=True)
        finally:
            subprocess.run(["umount", slash], check=True)
            slash.rmdir()
        print(f"  {(up.stdout + up.stderr).strip()}", flush=True)
        if (up.returncode != 0) != fails:
            raise WentWrongError("the device booted" if fails else "the device did not boot")

    def cut_power_during(self, command: str, moment: str) -> None:
        """Start a command, and pull the plug a little after it says `moment`.

        The process gets SIGKILL; and the disk goes on as it was at that moment: what the kernel had in memory only is
        lost, as it is when the power goes.
        """
        print(f"{_style('$', '1;32')} {_style(command, '1')}", flush=True)
        process = subprocess.Popen(shlex.split(command), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        try:
            for line in process.stderr or ():
                print(f"  {line.rstrip()}", flush=True)
                if moment in line:
                    time.sleep(0.1)
                    break
        finally:
            process.kill()
        after = self.disk.with_suffix(".after")
        subprocess.run(["cp", "--sparse=always", self.disk, after], check=True)
        if process.wait() != -signal.SIGKILL:
            raise WentWrongError("the command was done before the power was cut")
        print(_style("  *** THE POWER IS GONE ***", "1;31"), flush=True)
        self.power_off()
        shutil.move(after, self.disk)
        self.power_on()
