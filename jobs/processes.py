"""Worker processes: how many cores there are for them, and how they end with the process that they work for."""

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
    """To be called once in each worker process, which then leaves Ctrl-C to `parent` and ends when that has ended.

    `parent` is the process id of the process that the work is for. It is not always the worker's own parent process,
    which may be a fork server.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True, name="parent watch").start()


def _end_with(parent: int) -> None:
    while True:
        try:
            os.kill(parent, 0)
        except (ProcessLookupError, PermissionError):  # it has ended; its number may be another user's process now
            os._exit(1)
        time.sleep(_LOOK_SECONDS)
