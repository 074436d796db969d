"""Draining: on request, a worker finishes its current shard if time allows, else drops it, and exits with 75."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

# The time that is left where no deadline is known: Slurm kills 30 s after SIGTERM, and whoever presses Ctrl-C waits.
_GRACE_SECONDS = {"SIGTERM": 20.0, "SIGINT": 3.0}
_FILE_GRACE_SECONDS = 120.0  # the batch script makes its request 180 s before the limit, and may be 60 s late
_MARGIN_SECONDS = 15.0  # between the last commit and the end of the job
_POLL_SECONDS = 1.0

_Handler = Callable[[int, FrameType | None], object] | int | None


class Drain:
    """Turns SIGTERM, SIGINT and a file's appearance into a request, which the worker looks at between batches.

    A second SIGINT interrupts at once. `deadline` is when the job will be killed, in seconds since 1970, if known.
    """

    def __init__(self, file: Path | None = None, deadline: float | None = None) -> None:
        self.file = file
        self.deadline = deadline
        self._reason: str | None = None
        self._since = 0.0
        self._looked = float("-inf")
        self._before: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> Drain:
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> str | None:
        """Why to stop, or None. Looks for the file once a second."""
        if self._reason is None and self.file is not None and time.monotonic() - self._looked >= _POLL_SECONDS:
            self._looked = time.monotonic()
            if self.file.exists():
                self._set("a drain request")
        return self._reason

    def allows(self, seconds: float | None) -> bool:
        """Whether there is time for `seconds` more of work; never for None, an unknown time."""
        if seconds is None:
            return False
        spent = time.monotonic() - self._since
        left = _GRACE_SECONDS.get(self._reason or "", _FILE_GRACE_SECONDS) - spent
        if self.deadline is not None and self._reason != "SIGINT":
            left = self.deadline - time.time() - _MARGIN_SECONDS
        return seconds <= left

    def _set(self, reason: str) -> None:
        self._reason, self._since = reason, time.monotonic()

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._reason is None:
            self._set(signal.Signals(number).name)
