"""Make an initrd in a system that has none, by the system's own tool; nothing of it stays in the system's tree."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tbdiff.errors import Rejected
from tbupdate import programs
from tbupdate.boot.kernel import is_program, opened

OUT = "/run/tb-update-initrd"
# Each with what it is called with; the version and the file to make come behind.
TOOLS = (
    ("usr/sbin/mkinitramfs", "mkinitramfs -o {out}/initrd {version}"),
    ("usr/bin/dracut", "dracut --quiet --force --no-hostonly --kver {version} {out}/initrd"),
    # What the machine that it runs on has (autodetect) says little about the one that the system is for.
    ("usr/bin/mkinitcpio", "mkinitcpio --nocolor --skiphooks autodetect --kernel {version} --generate {out}/initrd"),
)
_PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
# The tree is read-only; what a tool writes while it works goes into memory.
_SCRIPT = """
cd {tree}
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
for place in run tmp var/tmp; do mount -t tmpfs -o mode=1777 tmpfs "$place"; done
mkdir run/tb-update-initrd
mount --bind {out} run/tb-update-initrd
exec env -i {path} TMPDIR=/var/tmp chroot . {command}
"""


def find_tool(tree: str) -> str | None:
    """How the system in `tree` makes an initrd; None where it has no tool for it."""
    with opened(tree) as root:
        return next((command for path, command in TOOLS if is_program(root, path)), None)


@contextmanager
def made(tree: str, version: str) -> Iterator[str]:
    """A directory with the new `initrd`, for a while."""
    command = find_tool(tree)
    if command is None:
        raise no_initrd(version)
    with tempfile.TemporaryDirectory(prefix="tb-update-") as out:
        words = command.format(out=OUT, version=shlex.quote(version))
        script = _SCRIPT.format(tree=shlex.quote(tree), out=shlex.quote(out), path=_PATH, command=words)
        done = programs.run(["unshare", "--mount", "--propagation", "private", "sh", "-ec", script])
        if done.code != 0 or not os.path.isfile(os.path.join(out, "initrd")):
            raise Rejected(
                f"the system's own {words.split()[0]} could not make an initrd for kernel {version}: {done.last_line}; "
                "nothing was changed",
                "Make it in the system before the image is made.",
            )
        yield out


def no_initrd(version: str) -> Rejected:
    """There is none, and nothing that could make one."""
    return Rejected(
        f"the system has no initrd for its kernel {version}, and no tool that makes one; nothing was changed",
        "Make one in it (update-initramfs -c -k VERSION) before the image is made.",
    )
