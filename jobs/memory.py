"""How this process keeps the memory that it has freed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGE_SIZES = (1 << 30, 32 << 20)  # the second is the most that older versions allow


def keep_freed_memory(mallopt: Callable[[int, int], int] | None = None) -> bool:
    """Makes glibc's malloc reuse large blocks instead of returning each to the system. Returns whether it will.

    A batch allocates and frees tensors of tens of megabytes, and the system clears every page of them each time. On
    two cores that was a fifth of the time of the head and its gradients (measured). In return the process keeps as much
    memory as it has ever used. Without glibc nothing happens. `mallopt` is glibc's own unless it is given.
    """
    try:
        set_option = mallopt or ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc
        return False
    for size in _LARGE_SIZES:
        if set_option(_MMAP_THRESHOLD, size):
            # Only now: the trim threshold alone would fix the other one at its small default.
            return bool(set_option(_TRIM_THRESHOLD, size))
    return False
