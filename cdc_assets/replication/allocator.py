"""What the C library does with memory that was freed.

Batches of megabytes come and go in two threads. By default glibc learns from them to keep blocks of
up to 32 MB, scattered over its arenas, and the same run peaks a tenth higher or lower by chance.
"""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE_BYTES = 1024 * 1024


def return_freed_memory() -> None:
    """Have large blocks go back to the system as they are freed, where the C library can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
