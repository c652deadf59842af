"""A bare tree: the contents of a listing at their paths, without owners, modes and devices; any user can make it.

What an image is made of is a listing and the contents of its files. The listing is in an image, so that of what the
image leads to only the contents have to be on disk, and nobody has to be root for that.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tbdiff.descent import Descent
from tbdiff.entry import Entry, Kind, Listing
from tbdiff.metadata import copy_content
from tbdiff.staging import Staging


def lay_out(target: Listing, staging: Staging, base: Listing, place: Path) -> None:
    """Lay out in the empty directory `place` what of `target` is staged, and what the bare tree of `base` has.

    Files of one content are one file, also with the base's: they are only read.
    """
    held = {digest: number for number, digest in base.digests()}
    with Descent(place) as tree:
        for entry in target:
            if not entry.path:
                continue
            directory, name = tree.parent(entry.path)
            if entry.kind is Kind.DIRECTORY:
                os.mkdir(name, 0o700, dir_fd=directory)
            elif entry.kind is Kind.FILE:
                fd = _content(entry, staging, held)
                try:
                    _put(fd, directory, name)
                finally:
                    os.close(fd)


def _content(entry: Entry, staging: Staging, held: dict[bytes, int]) -> int:
    number = held.get(entry.digest)
    return staging.file(entry.digest.hex().encode()) if number is None else os.dup(staging.base_file(number))


def _put(fd: int, directory: int, name: bytes) -> None:
    try:
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory, follow_symlinks=True)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        # A file has only so many names.
        new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            copy_content(fd, new)
        finally:
            os.close(new)
