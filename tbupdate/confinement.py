"""The confinement of a process that talks to strangers: no rights, little room, and only the files that it needs."""

from __future__ import annotations

import logging
import os
import pwd
import resource

from tbdiff.errors import Failed
from tbupdate import syscalls

log = logging.getLogger(__name__)

# No file is written, nothing is dumped; a few processes with a few files each, and some memory.
LIMITS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: 64,
    resource.RLIMIT_NPROC: 256,
    resource.RLIMIT_AS: 1 << 29,
}
# Programs, certificates, and what a C library asks to find a name.
SEEN = (
    "/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/etc/ssl", "/etc/pki", "/etc/ca-certificates",
    "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/host.conf", "/etc/services",
    "/etc/ld.so.cache", "/etc/passwd", "/run/systemd/resolve", "/run/nscd", "/run/avahi-daemon",
)  # fmt: skip
PLACE = "/tmp"  # noqa: S108 - a point to mount on, where this process sees nothing else


def confine(user: str) -> None:
    """Give up all rights for ever and become `user`. Failed: this process still has them."""
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise Failed(f"there is no user {user} to fetch as", "Name one in config.toml: [fetch] user = …") from None
    try:
        _leave()
    except OSError as error:
        # In a container, as a rule. The rest holds all the same.
        log.info("what fetches sees all files that %s may read: %s", user, error.strerror)
    os.chdir("/")
    for what, limit in LIMITS.items():
        resource.setrlimit(what, (limit, limit))
    os.setgroups([])
    os.setresgid(found.pw_gid, found.pw_gid, found.pw_gid)
    os.setresuid(found.pw_uid, found.pw_uid, found.pw_uid)
    syscalls.allow_no_new_privileges()
    if os.getuid() == 0:
        raise Failed(f"{user} is root, who must not fetch", "Name another user in config.toml: [fetch] user = …")


def _leave() -> None:
    """See only what is needed of the file system, and none of it to be written."""
    syscalls.leave_mount_namespace()
    syscalls.mount("tmpfs", PLACE, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "size=64k,mode=755")
    for path in SEEN:
        place = PLACE + path
        if not os.path.exists(path):
            continue
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if os.path.islink(path) and os.path.isdir(path):
            os.symlink(os.readlink(path), place)
            continue
        if os.path.isdir(path):
            os.mkdir(place)
        else:
            with open(place, "xb"):
                pass
        syscalls.bind_read_only(os.path.realpath(path), place)
    syscalls.make_read_only(PLACE)
    os.chroot(PLACE)
