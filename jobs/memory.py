"""How the process keeps its memory."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGE = 1 << 30


def keep_freed_memory() -> None:
    """Lets glibc's malloc reuse large blocks instead of giving each back to the system; elsewhere nothing happens.

    A batch takes and frees tensors of tens of megabytes, and the system clears every page of them anew each time: on
    two cores a fifth of the time of the head and its way back (measured). The process holds on to its peak for it.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, _LARGE)
