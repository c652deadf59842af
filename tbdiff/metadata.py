"""Owner, mode, attributes, times and holes, set exactly on one thing of a tree, never through a link."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from tbdiff.descent import through
from tbdiff.entry import Entry, Extents, Kind, printable
from tbdiff.errors import Malformed
from tbdiff.tree import data_extents

STEP = 1 << 18
BLOCK = 1 << 16
FALLOC_KEEP_SIZE = 1
FALLOC_PUNCH_HOLE = 2
FICLONE = 0x40049409
# A security module puts its label on everything and lets nobody take it off.
LABELS_OF_THE_KERNEL = frozenset({"security.selinux", "security.SMACK64"})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def set_metadata(entry: Entry, fd: int) -> None:
    """Give the open file or directory `fd` the metadata of `entry`."""
    status = os.fstat(fd)
    if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
        os.fchown(fd, entry.uid, entry.gid)
    # Changing the owner clears setuid and capabilities, so mode and attributes come behind it.
    if stat.S_IMODE(os.fstat(fd).st_mode) != entry.mode:
        os.fchmod(fd, entry.mode)
    _set_xattrs(entry, through(fd), follow=True)
    # An ACL may have changed the mode's group bits.
    if stat.S_IMODE(os.fstat(fd).st_mode) != entry.mode:
        os.fchmod(fd, entry.mode)
    os.utime(fd, ns=(entry.mtime, entry.mtime))


def set_metadata_at(entry: Entry, directory: int, name: bytes) -> None:
    """Give the link, device or FIFO `name` in `directory` the metadata of `entry`; it is never opened."""
    os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
    if entry.kind is not Kind.SYMLINK:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise OSError(errno.ELOOP, "it became a symbolic link")
            os.chmod(through(fd), entry.mode)
        finally:
            os.close(fd)
    _set_xattrs(entry, through(directory, name), follow=False)
    os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=directory, follow_symlinks=False)


def _set_xattrs(entry: Entry, path: bytes, *, follow: bool) -> None:
    wanted = {os.fsdecode(name): value for name, value in entry.xattrs}
    try:
        present = os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        present = []
    for name in present:
        if name not in wanted and name not in LABELS_OF_THE_KERNEL:
            os.removexattr(path, name, follow_symlinks=follow)
    for name, value in wanted.items():
        if name not in present or os.getxattr(path, name, follow_symlinks=follow) != value:
            os.setxattr(path, name, value, follow_symlinks=follow)


def copy_content(source: int, target: int) -> None:
    """Make the empty file `target` a copy of `source`; on Btrfs and XFS they share their extents."""
    import fcntl  # noqa: PLC0415 - the module is needed nowhere else

    try:
        fcntl.ioctl(target, FICLONE, source)
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS):
            raise
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    for offset, length in data_extents(source, size) or ((0, size),):
        _copy_range(source, target, offset, length)


def _copy_range(source: int, target: int, offset: int, length: int) -> None:
    while length:
        part = os.pread(source, min(length, STEP), offset)
        if not part:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        write_at(target, part, offset)
        offset += len(part)
        length -= len(part)


def write_at(fd: int, data: bytes | memoryview, position: int) -> None:
    """Write all of `data`; a short write is a full disk."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        position += written
        view = view[written:]


def set_holes(entry: Entry, fd: int) -> None:
    """Make the holes of a file those of `entry`; its content stays the same, byte by byte."""
    if not entry.size:
        return
    wanted: Extents = ((0, entry.size),) if entry.extents is None else entry.extents
    found = data_extents(fd, entry.size)
    present: Extents = ((0, entry.size),) if found is None else found
    if present == wanted:
        return
    for offset, length in _gaps(present, entry.size):
        for start, count in _overlaps(offset, length, wanted):
            _fill(fd, start, count)
    for offset, length in _gaps(wanted, entry.size):
        for start, count in _overlaps(offset, length, present):
            _punch(entry, fd, start, count)


def _gaps(extents: Extents, size: int) -> Extents:
    """What of a file of `size` bytes is in none of the extents."""
    gaps = []
    end = 0
    for offset, length in extents:
        if offset > end:
            gaps.append((end, offset - end))
        end = offset + length
    if size > end:
        gaps.append((end, size - end))
    return tuple(gaps)


def _overlaps(offset: int, length: int, extents: Extents) -> Extents:
    """The parts of one run that are in the extents."""
    parts = ((max(offset, o), min(offset + length, o + n)) for o, n in extents)
    return tuple((start, end - start) for start, end in parts if end > start)


def _fill(fd: int, offset: int, length: int) -> None:
    while length:
        step = min(length, STEP)
        write_at(fd, bytes(step), offset)
        offset += step
        length -= step


def check_holes(entry: Entry, fd: int) -> None:
    """Rejected where what is to be a hole of `entry` holds data in the file `fd`."""
    found = data_extents(fd, entry.size)
    for offset, length in _gaps(entry.extents or (), entry.size) if entry.extents is not None else ():
        for start, count in _overlaps(offset, length, ((0, entry.size),) if found is None else found):
            _check_zeros(entry, fd, start, count)


def _check_zeros(entry: Entry, fd: int, offset: int, length: int) -> None:
    position, left = offset, length
    while left:
        part = os.pread(fd, min(left, STEP), position)
        if not part or any(part):
            raise Malformed(f"the image calls a hole in {printable(entry.path)!r} what holds data")
        position += len(part)
        left -= len(part)


def _punch(entry: Entry, fd: int, offset: int, length: int) -> None:
    if offset + length == entry.size:
        # Of a block that is punched only in part the zeros stay; behind the end there is nothing to keep.
        length += -entry.size % BLOCK
    if _libc.fallocate(fd, FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, offset, length):
        number = ctypes.get_errno()
        # A file system without holes keeps the zeros.
        if number != errno.EOPNOTSUPP:
            raise OSError(number, os.strerror(number))
