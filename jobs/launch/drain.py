"""Draining: asked to stop, a worker ends the shard in hand if time allows, else drops it, and exits with 75."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType

# What is left when nobody says more: Slurm kills 30 s after SIGTERM, and a Ctrl-C wants an end.
_GRACE_SECONDS = {"SIGTERM": 20.0, "SIGINT": 3.0}
_FILE_GRACE_SECONDS = 120.0  # the batch script asks 180 s before the limit, and the signal may come 60 s late
_MARGIN_SECONDS = 15.0  # between the last commit and the end of the job
_POLL_SECONDS = 1.0


class Drain:
    """Turns SIGTERM, SIGINT and a file's appearance into a request that is looked at between batches.

    A second SIGINT interrupts at once. `deadline` is when the job will be killed, in seconds since 1970, if known.
    """

    def __init__(self, file: Path | None = None, deadline: float | None = None) -> None:
        self.file = file
        self.deadline = deadline
        self._reason: str | None = None
        self._since = 0.0
        self._looked = float("-inf")
        self._before: dict[int, object] = {}

    def __enter__(self) -> Drain:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def requested(self) -> str | None:
        """Why to stop, or None."""
        if self._reason is None and self.file is not None and time.monotonic() - self._looked >= _POLL_SECONDS:
            self._looked = time.monotonic()
            if self.file.exists():
                self._set("a drain request")
        return self._reason

    def allows(self, seconds: float | None) -> bool:
        """Whether there is time for `seconds` more of work; None, an unknown time, is never allowed."""
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
