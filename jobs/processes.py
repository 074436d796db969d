"""Processes that work for this one: how many cores there are for them, and that none outlives its parent."""

from __future__ import annotations

import os
import signal
import threading
import time

_LOOK_SECONDS = 1.0


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS has no affinities


def start_worker(parent: int) -> None:
    """To be called once in each worker process: it leaves Ctrl-C to its parent, and ends when the parent has ended.

    `parent` is the process id of the one that the work is for. The fork server stands between the two, so the
    worker's own parent process says nothing.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True, name="parent watch").start()


def _end_with(parent: int) -> None:
    while True:
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            os._exit(1)
        time.sleep(_LOOK_SECONDS)
