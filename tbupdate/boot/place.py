"""The file system that a boot loader reads: where it is, and how what is written comes to where a loader sees it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator

from tbdiff.errors import OUR_FAULT, Failed, Rejected
from tbdiff.signals import held_back
from tbupdate import programs, syscalls
from tbupdate.mounts import Mount, read_mounts

_FREEZE, _THAW = 0xC0045877, 0xC0045878
BLOCK = 1024
# For some hundred entries of FAT, of which a long name takes several.
ROOM = 16 << 10
PARTIAL = ".partial"


def mount_of(directory: str) -> Mount:
    """The mount that `directory` is the root of: /boot has to be a file system of its own."""
    real = os.path.realpath(directory)
    with open("/proc/self/mountinfo") as file:
        found = [one for one in read_mounts(file.read()) if one.point == real]
    if not found:
        raise Rejected(
            f"{directory} is no file system of its own; nothing was changed",
            'Mount the boot partition there, name it with --boot DIR, or set [boot] chooser = "none".',
        )
    return found[-1]


def uuid_of(directory: str) -> str:
    """By what name the initramfs finds it."""
    source = mount_of(directory).source
    told = programs.run(["blkid", "-p", "-s", "UUID", "-o", "value", source])
    if not told.out.strip():
        raise Failed(
            f"the boot partition {source} has no UUID that blkid knows",
            f'See what `blkid {source}` says; or set [boot] chooser = "none".',
        )
    return told.out.strip()


def flush(directory: str) -> None:
    """Bring everything to its place: a boot loader does not replay a journal, and fsync leaves it in there."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.syncfs(descriptor)
        # Nothing may end this process while the file system stands still.
        with held_back():
            try:
                fcntl.ioctl(descriptor, _FREEZE, 0)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY):
                    raise
                # FAT has no journal to be emptied; but there syncfs leaves in the disk's own memory what it wrote.
                os.fsync(descriptor)
            else:
                fcntl.ioctl(descriptor, _THAW, 0)
    finally:
        os.close(descriptor)


def require_directory(boot: str, name: str) -> None:
    """Refuse a boot partition on which our own directory is something else: a boot loader sees nothing elsewhere."""
    path = os.path.join(boot, name)
    if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
        raise Rejected(
            f"{path} is no directory, where the boot loader is to find what it boots; nothing was changed",
            "Move it away, then run: tb-update init",
        )


def remove_directory(boot: str, name: str) -> None:
    """Remove our own directory, all of it, or say why that cannot be."""
    path = os.path.join(boot, name)
    if os.path.lexists(path):
        shutil.rmtree(path)
        flush(boot)


def make_room(boot: str, directory: str) -> None:
    """Let a directory on a FAT partition have room for the names to come.

    When one grows, it is written in two places; after a power cut between them firmware finds nothing in it any more.
    So it grows once, and not with the deployments. (It never shrinks.)
    """
    if not _is_fat(boot):
        return
    filling = "room" * 50
    # A cut in the middle leaves them, and with them no room.
    made = [os.path.join(directory, name) for name in os.listdir(directory) if name.endswith(filling)]
    if not made and os.stat(directory).st_size >= ROOM:
        return
    try:
        while os.stat(directory).st_size < ROOM and len(made) < 99:
            path = os.path.join(directory, f"{len(made):02}-{filling}")
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            made.append(path)
    finally:
        for path in made:
            os.unlink(path)
    flush(boot)


def _is_fat(boot: str) -> bool:
    real = os.path.realpath(boot)
    with open("/proc/self/mountinfo") as file:
        kinds = [one.kind for one in read_mounts(file.read()) if one.point == real]
    return kinds[-1:] in (["vfat"], ["msdos"])


def read_block(path: str) -> bytes | None:
    """A block; None where there is none of the proper size."""
    content = read_file(path, BLOCK + 1)
    return content if len(content) == BLOCK else None


def read_file(path: str, limit: int) -> bytes:
    """What a file of ours holds, the first `limit` bytes; nothing where there is none, or something else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return b""
        raise
    try:
        return os.read(descriptor, limit) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def is_plain(path: str) -> bool:
    """Whether it is a file, and no link to one."""
    return not os.path.islink(path) and os.path.isfile(path)


def read_text(path: str) -> str:
    """What a block says, without what it is filled up with."""
    block = read_block(path) or b""
    return "".join(c for c in block.decode("ascii", "replace").strip() if c.isprintable())


def make_block(path: str, content: bytes) -> None:
    """A block where there was none: allocated, and with its final size."""
    if read_block(path) is None:
        with open(path + PARTIAL, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + PARTIAL, path)


def write_block(path: str, content: bytes) -> None:
    """Overwrite a block in place: neither its length nor where it lies changes, so no reader sees half of it."""
    if len(content) != BLOCK:
        raise Failed(
            f"what is to be written to {path} does not fit into one block; it was left as it was",
            OUR_FAULT,
        )
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size != BLOCK:
            raise Failed(f"{path} is damaged", "Set the boot loader up again with: tb-update init")
        if os.pread(descriptor, BLOCK, 0) != content:
            os.pwrite(descriptor, content, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _cleared(path: str) -> Iterator[None]:
    """Leave nothing behind of a file that could not be written."""
    try:
        yield
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def write_new(path: str, content: bytes, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
    """A file under a temporary name first, then in its place."""
    with _cleared(path + PARTIAL), open(path + PARTIAL, "wb") as file:
        if owner != (0, 0):
            os.fchown(file.fileno(), *owner)
        try:
            os.fchmod(file.fileno(), mode)
        except PermissionError:
            # FAT has the modes that it was mounted with.
            pass
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + PARTIAL, path)
