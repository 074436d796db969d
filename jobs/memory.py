"""How the process keeps its memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGE = (1 << 30, 32 << 20)  # what older versions allow comes second


def keep_freed_memory(mallopt: Callable[[int, int], int] | None = None) -> bool:
    """Lets glibc's malloc reuse large blocks instead of giving each back to the system; whether it will.

    A batch takes and frees tensors of tens of megabytes, and the system clears every page of them anew each time: on
    two cores a fifth of the time of the head and its way back (measured). The process holds on to its peak for it.
    Elsewhere nothing happens. `mallopt` is glibc's own unless given.
    """
    try:
        set_option = mallopt or ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc
        return False
    for size in _LARGE:
        if set_option(_MMAP_THRESHOLD, size):
            # Only then: this option alone would fix the other one at its small default.
            return bool(set_option(_TRIM_THRESHOLD, size))
    return False
