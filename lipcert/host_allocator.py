"""Memory that a training step frees is kept for the next one, in place of a return to the system and back."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""What glibc's `mallopt` calls them (malloc.h)."""

UNLIMITED = 2**31 - 1
"""The largest value that `mallopt` takes."""

LARGEST_KEPT = 32 * 2**20
"""Bytes of a block above which it goes back to the system whatever is asked; glibc's own upper limit."""


def keep_freed_memory() -> bool:
    """Let this process keep freed blocks of up to 32 MB, so that pages are not cleared anew at every step.

    The most memory a process holds stays as it is; between its peaks it holds more. Returns False where the C library
    is not glibc: nothing changes there.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(TRIM_THRESHOLD, UNLIMITED))
