"""What the C library does with large pieces of memory when they are given back."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3
LARGE = 4 << 20


def return_large_pieces() -> None:
    """Let large pieces go back to the system at once, where the C library (glibc's) would keep them for later."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE)
