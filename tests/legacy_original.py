"""What the original deploy tool did with a stream, on real files: naive, without any check, and with its faults.

It shares no code with what it checks. Where the original goes wrong on a stream that is right, this one fails.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class Original:
    """One run of it."""

    def __init__(self, stream: bytes, root: Path) -> None:
        self.stream = stream
        self.at = 0
        self.here = [os.open(root, DIRECTORY)]

    def run(self) -> None:
        try:
            assert self.number(1) == 0
            assert self.text() == b"Codethink:TBDIFFv0"
            while (code := self.number(1)) != 1:
                getattr(self, f"do_{code:02x}")()
            assert self.at == len(self.stream)
        finally:
            for fd in self.here:
                os.close(fd)

    # --- fields

    def take(self, size: int) -> bytes:
        assert self.at + size <= len(self.stream)
        self.at += size
        return self.stream[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> bytes:
        return self.take(self.number(2))

    def time(self) -> int:
        return struct.unpack("<q", self.take(8))[0]

    def change(self) -> tuple[int, int, int, int, int]:
        mask, seconds, uid, gid, mode = struct.unpack("<HqIII", self.take(22))
        return mask, seconds, uid, gid, mode

    # --- effects

    @property
    def cwd(self) -> int:
        return self.here[-1]

    def near(self, name: bytes) -> bytes:
        return b"/proc/self/fd/%d/%s" % (self.cwd, name)

    def utime(self, name: bytes, seconds: int, **how: bool) -> None:
        os.utime(name, (0, seconds), dir_fd=self.cwd, **how)

    def create(self, name: bytes, data: bytes, seconds: int, mode: int, uid: int, gid: int) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode & 0o7777, dir_fd=self.cwd)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        self.utime(name, seconds)
        os.chown(name, uid, gid, dir_fd=self.cwd)
        os.chmod(name, mode & 0o7777, dir_fd=self.cwd)

    # --- commands

    def do_10(self) -> None:
        name, seconds, uid, gid, mode = self.text(), self.time(), self.number(4), self.number(4), self.number(4)
        os.mkdir(name, mode & 0o7777, dir_fd=self.cwd)
        self.utime(name, seconds)
        os.chown(name, uid, gid, dir_fd=self.cwd)
        os.chmod(name, mode & 0o7777, dir_fd=self.cwd)

    def do_11(self) -> None:
        self.here.append(os.open(self.text(), DIRECTORY, dir_fd=self.cwd))

    def do_12(self) -> None:
        self.utime(b".", self.time())
        os.close(self.here.pop())

    def do_13(self) -> None:
        mask, seconds, uid, gid, mode = self.change()
        self.metadata(self.text(), mask, seconds, uid, gid, mode)

    do_22 = do_13

    def metadata(self, name: bytes, mask: int, seconds: int, uid: int, gid: int, mode: int) -> None:
        if mask & 1:
            self.utime(name, seconds)
        if mask & 12:
            os.chown(name, uid, gid, dir_fd=self.cwd)
        os.chmod(name, mode & 0o7777, dir_fd=self.cwd)

    def do_20(self) -> None:
        name, seconds, mode, uid, gid = self.text(), self.time(), self.number(4), self.number(4), self.number(4)
        self.create(name, self.take(self.number(4)), seconds, mode, uid, gid)

    def do_21(self) -> None:
        name = self.text()
        _, seconds, uid, gid, mode = self.change()
        start, end = self.number(4), self.number(4)
        data = self.take(self.number(4))
        fd = os.open(name, os.O_RDONLY, dir_fd=self.cwd)
        os.unlink(name, dir_fd=self.cwd)
        with os.fdopen(fd, "rb") as file:
            old = file.read()
        assert len(old) >= end >= start
        self.create(name, old[:start] + data + old[end:], seconds, mode, uid, gid)

    def do_32(self) -> None:
        self.remove(self.cwd, self.text())

    def remove(self, directory: int, name: bytes) -> None:
        try:
            os.unlink(name, dir_fd=directory)
        except IsADirectoryError:
            fd = os.open(name, DIRECTORY, dir_fd=directory)
            for held in os.listdir(fd):
                self.remove(fd, os.fsencode(held))
            os.close(fd)
            os.rmdir(name, dir_fd=directory)

    def do_40(self) -> None:
        seconds, uid, gid, name, target = self.time(), self.number(4), self.number(4), self.text(), self.text()
        os.symlink(target, name, dir_fd=self.cwd)
        self.utime(name, seconds, follow_symlinks=False)
        os.chown(name, uid, gid, dir_fd=self.cwd, follow_symlinks=False)

    def do_50(self) -> None:
        name, seconds, mode, uid, gid, dev = self.text(), self.time(), *(self.number(4) for _ in range(4))
        os.mknod(name, mode, dev, dir_fd=self.cwd)
        self.utime(name, seconds)
        os.chown(name, uid, gid, dir_fd=self.cwd)
        os.chmod(name, mode & 0o7777, dir_fd=self.cwd)

    def do_60(self) -> None:
        path = self.near(self.text())
        for name in os.listxattr(path, follow_symlinks=False):
            os.removexattr(path, name, follow_symlinks=False)
        longest = 0
        for _ in range(self.number(4)):
            name, size = self.text(), self.number(8)
            # Its buffer never shrinks, and it reads as much as the buffer holds.
            longest = max(longest, size)
            os.setxattr(path, name, self.take(longest), follow_symlinks=False)
