"""System calls that Python has no name for: renameat2, syncfs, unshare, setns, mount, umount2, openat2, prctl."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_MNT_DETACH = 2

_PR_SET_NO_NEW_PRIVS = 38
_OPENAT2 = 437
_RESOLVE_IN_ROOT = 0x10

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, *names: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *names[:1])


def rename(directory: int, old: str, new: str) -> None:
    """Rename within an open directory; an existing `new` is never replaced."""
    _rename(directory, old, new, _RENAME_NOREPLACE, new)


def exchange(directory: int, one: str, other: str) -> None:
    """Let two names in an open directory change places, in one act."""
    _rename(directory, one, other, _RENAME_EXCHANGE, one)


def _rename(directory: int, old: str, new: str, flags: int, named: str) -> None:
    arguments = (directory, os.fsencode(old), directory, os.fsencode(new), flags)
    if _libc.renameat2(*arguments) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EBUSY:
        number = _without_mounts(lambda: 0 if _libc.renameat2(*arguments) == 0 else ctypes.get_errno())
    if number:
        raise OSError(number, os.strerror(number), named)


def _without_mounts(act: Callable[[], int]) -> int:
    """What `act` returns, 0..255, where nothing is mounted on anything.

    A service with name spaces of its own has / mounted on / by systemd, and what is a mount point here keeps its name.
    """
    process = os.fork()
    if process == 0:
        number = errno.EBUSY
        try:
            leave_mount_namespace()
            if _libc.umount2(b"/", _MNT_DETACH) == 0:
                number = act()
        finally:
            os._exit(number)
    ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return ended if ended >= 0 else errno.EBUSY


def syncfs(descriptor: int) -> None:
    """Make the whole file system durable, data and metadata."""
    _check(_libc.syncfs(descriptor))


def sync(directory: str) -> None:
    """Bring everything that was written to the file system that holds `directory` to its disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(descriptor)
    finally:
        os.close(descriptor)


def leave_mount_namespace() -> None:
    """Give this process mounts of its own: none of them is seen by others, and all vanish with it."""
    _check(_libc.unshare(CLONE_NEWNS))
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """Mount `source` on `target`."""
    _check(
        _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode()),
        source,
    )


def bind_read_only(source: str, target: str) -> None:
    """Let `source` be seen at `target` as well, where nothing of it can be written."""
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(MS_BIND), None), source)
    make_read_only(target)


def make_read_only(target: str) -> None:
    """Let nothing be written through the mount at `target`; its devices and setuid programs are none."""
    flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV
    _check(_libc.mount(None, os.fsencode(target), None, ctypes.c_ulong(flags), None), target)


def leave_network_namespace() -> None:
    """Give this process a network of its own, in which there is nobody."""
    _check(_libc.unshare(CLONE_NEWNET))


def enter_network_namespace(descriptor: int) -> None:
    """Come back to the network whose namespace is open as `descriptor`."""
    _check(_libc.setns(descriptor, CLONE_NEWNET))


def allow_no_new_privileges() -> None:
    """Let neither this process nor any that it starts gain rights by a program."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def open_inside(root: int, path: str, *, follow: bool = True) -> int:
    """Open what a system whose / is the directory `root` would find at `path`: no link leads out of it.

    Unless `follow`, the last name may be no link.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    how = struct.pack("QQQ", flags, 0, _RESOLVE_IN_ROOT)
    found = _libc.syscall(_OPENAT2, root, os.fsencode(path), how, len(how))
    if found < 0:
        _check(found, path)
    return int(found)
