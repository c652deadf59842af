"""A command run in another system's tree: with mounts, processes and names of its own, of which nothing is left.

Not a wall: the command is root. What it does by the usual ways - files, services, mounts, the kernel's settings - stays
in the tree, or is gone with the last of its processes.
"""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tbdiff.errors import Failed
from tbupdate import syscalls
from tbupdate.boot.kernel import is_file, is_program, opened

SHELLS = ("bin/bash", "bin/sh")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What a person at a terminal, or whoever set up the network, has said.
_KEPT = ("TERM", "COLORTERM", "LANG", "LANGUAGE", "DEBIAN_FRONTEND", "http_proxy", "https_proxy", "no_proxy")
_OURS = {
    "PATH": PATH,
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    # systemctl changes files only, and systemd-tmpfiles makes directories where it would make subvolumes.
    "SYSTEMD_OFFLINE": "1",
    "SYSTEMD_TMPFILES_FORCE_SUBVOL": "0",
}
_POLICY = "usr/sbin/policy-rc.d"
_NO_SERVICES = b"#!/bin/sh\n# Put here by tb-update while a command runs: no service is started.\nexit 101\n"
# Neither modules nor the clock are the tree's. Nor is the machine: in a process namespace a reboot ends only that.
_LEFT_OUT = "-sys_module,-sys_time,-sys_boot"
# The first process of the namespace takes all the others with it; it ends when `unshare` does, and that when we do.
# Who became an orphan before that was arranged must not begin.
_START = '[ "$PPID" = "$0" ] && exec "$@"'
_NAMESPACES = ("--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--ipc", "--uts")
_ISOLATED = ("unshare", *_NAMESPACES, "sh", "-ec")


@dataclass(frozen=True)
class Mounted:
    """Something of the outside that is mounted in the tree: what at which point, read-only or not."""

    point: str
    source: str | None = None
    read_only: bool = False


def run(tree: str, command: Sequence[str], mounts: Sequence[Mounted], *, output: int | None = None) -> int:
    """Run `command` (nothing: a shell) in the system in `tree`; return its exit code, 128 and more for a signal's.

    What it prints goes to the descriptor `output`, if not to where ours goes. When this returns, or raises, all its
    processes have ended and all mounts are gone.
    """
    with opened(tree) as root:
        words = list(command) or [f"/{_shell(root)}"]
        lines = [*_base(tree, root), *_outside(root, mounts), *_resolver(root), *_covered_policy(tree, root)]
    variables = [f"{name}={value}" for name, value in _environment().items()]
    inside = ["env", "-i", *variables, "setpriv", f"--bounding-set={_LEFT_OUT}", "chroot", tree, *words]
    with _no_services(tree), tempfile.NamedTemporaryFile(prefix="tb-update-") as ready:
        lines += [f"echo ready >{shlex.quote(ready.name)}", "set +e", f"cd {shlex.quote(tree)}"]
        script = "\n".join([*lines, shlex.join(inside), "exit $?"])
        started = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", _START, str(os.getpid()), *_ISOLATED, script]
        process = subprocess.Popen(started, stdout=output)
        try:
            code = process.wait()
        except BaseException:
            _end(process)
            raise
        prepared = ready.read() == b"ready\n"
    if not prepared:
        raise Failed("what the command needs could not be mounted; nothing was changed", "See the lines before this.")
    return code if code >= 0 else 128 - code


def _end(process: subprocess.Popen[bytes]) -> None:
    """End all of it now, and wait until it has: `unshare` outlives the namespace."""
    try:
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            first = [int(child) for child in file.read().split()]
    except OSError:
        first = []
    for child in first:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if not first:
        process.kill()
    process.wait()


def _shell(root: int) -> str:
    found = next((path for path in SHELLS if is_program(root, path)), None)
    if found is None:
        raise Failed("there is no shell in the system; nothing was changed", "Name a COMMAND.")
    return found


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("LC_")}
    kept |= {name: value for name, value in os.environ.items() if name.lower() in _KEPT}
    return kept | _OURS


def _base(tree: str, root: int) -> Iterator[str]:
    """The mounts that every system has."""
    places = {name: shlex.quote(_inside(root, name)) for name in ("proc", "sys", "dev", "run", "tmp")}
    proc, sys, dev, run, tmp = places.values()
    top = shlex.quote(tree)
    yield f"mount --bind {top} {top}"
    # The top level is mounted with neither devices nor setuid programs; in a system that boots there are both.
    yield f"mount -o remount,bind,suid,dev,exec,noatime {top}"
    yield f"mount -t proc -o nosuid,nodev,noexec proc {proc}"
    yield f"mount --bind {proc}/sys {proc}/sys; mount -o remount,bind,ro {proc}/sys"
    yield f"mount -t sysfs -o ro,nosuid,nodev,noexec sysfs {sys}"
    # The same devices under names of its own: owners and modes that the system wants are set on those.
    # What appears or goes meanwhile (a loop device's node) is nobody's fault.
    yield f"mount -t tmpfs -o mode=755,nosuid,noexec tmpfs {dev}; cp -ax /dev/. {dev}/ 2>/dev/null || [ -c {dev}/null ]"
    yield f"mkdir -p {dev}/pts; if [ -d /dev/pts ]; then mount --bind /dev/pts {dev}/pts; fi"
    yield f"mkdir -p {dev}/shm; mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs {dev}/shm"
    yield f"mount -t tmpfs -o mode=755,nosuid,nodev tmpfs {run}; mkdir -m 1777 {run}/lock"
    # Who makes an initrd looks there for what the disks hold; without udev's socket nobody can talk to it.
    udev = "/run/udev/data"
    yield f"if [ -d {udev} ]; then mkdir -p {run}/udev/data; mount --bind -o ro {udev} {run}/udev/data; fi"
    yield f"mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs {tmp}"


def _outside(root: int, mounts: Sequence[Mounted]) -> Iterator[str]:
    for one in sorted(mounts, key=lambda one: one.point.count("/")):
        try:
            place = shlex.quote(_inside(root, one.point.lstrip("/")))
        except Failed:
            # It could not be mounted at boot either.
            continue
        if one.source is None:
            act = f"mount -t tmpfs -o {'ro,size=4k' if one.read_only else 'mode=1777'} tmpfs {place}"
        else:
            act = f"mount --bind {shlex.quote(one.source)} {place}"
            act += f"; mount -o remount,bind,noatime{',ro' if one.read_only else ''} {place}"
        # Within what was mounted before there may be no such directory, or a link that leads elsewhere.
        yield f'if [ -d {place} ] && [ "$(readlink -f {place})" = {place} ]; then {act}; fi'


def _inside(root: int, path: str) -> str:
    """The directory that a system finds at `path`, by its path out here: no link in it leads out of the tree."""
    try:
        descriptor = syscalls.open_inside(root, path)
    except OSError:
        raise Failed(f"the system has no directory /{path}; nothing was changed", "Make it in what runs.") from None
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise Failed(f"/{path} of the system is no directory; nothing was changed", "Make it one in what runs.")
        return os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _resolver(root: int) -> Iterator[str]:
    """Names are found as out here: where the table is a link into /run, it leads to nothing else there."""
    try:
        link = os.path.normpath(os.path.join("/etc", os.readlink("etc/resolv.conf", dir_fd=root)))
    except OSError:
        return
    link = link.removeprefix("/var") if link.startswith("/var/run/") else link
    if link.startswith("/run/") and os.path.isfile("/etc/resolv.conf"):
        place = shlex.quote(_inside(root, "run") + link.removeprefix("/run"))
        yield f"mkdir -p $(dirname {place}); cat /etc/resolv.conf >{place}"


def _covered_policy(tree: str, root: int) -> Iterator[str]:
    """Where a system has a policy of its own, ours is laid over it."""
    if is_file(root, _POLICY):
        cover = shlex.quote(_inside(root, "run") + "/tb-update-policy")
        yield f"printf '#!/bin/sh\\nexit 101\\n' >{cover}; chmod 755 {cover}"
        yield f"mount --bind {cover} {shlex.quote(os.path.join(tree, _POLICY))}"


@contextmanager
def _no_services(tree: str) -> Iterator[None]:
    """While the command runs, maintainer scripts are told to start no service; then the tree has no trace of it."""
    directory, name = os.path.split(os.path.join(tree, _POLICY))
    with opened(tree) as root:
        if is_file(root, _POLICY) or os.path.islink(directory) or not os.path.isdir(directory):
            yield
            return
    path = os.path.join(directory, name)
    before = os.stat(directory)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755), "wb") as file:
        file.write(_NO_SERVICES)
    os.chmod(path, 0o755)  # noqa: S103 - a program
    made = os.stat(directory)
    try:
        yield
    finally:
        _take_back(path, before, made)


def _take_back(path: str, before: os.stat_result, made: os.stat_result) -> None:
    try:
        now = os.stat(os.path.dirname(path))
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            ours = file.read(len(_NO_SERVICES) + 1) == _NO_SERVICES
    except OSError:
        return
    if ours:
        os.unlink(path)
        times = before if now.st_mtime_ns == made.st_mtime_ns else now
        os.utime(os.path.dirname(path), ns=(times.st_atime_ns, times.st_mtime_ns))
