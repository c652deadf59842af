"""What the C library does with pieces of memory when they are given back."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3
# Where images are made: what is smaller is wanted again soon.
LARGE = 4 << 20
# Where memory is small: already a decompressor's window goes back.
SMALL = 1 << 16


def return_pieces(least: int) -> None:
    """Let pieces of `least` bytes go back to the system at once, where the C library (glibc's) would keep them."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, least)
