"""Draining: on request, a worker finishes its current shard if time allows, else drops it, and exits with 75."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from jobs.errors import EXIT_DRAINED
from jobs.processes import end_commands

_FILE = "a drain request"
# The time that is left for work: Slurm kills 30 s after SIGTERM, and whoever presses Ctrl-C waits. The batch script
# asks by the file 180 s before the limit, and may be 60 s late.
_GRACE_SECONDS = {"SIGTERM": 20.0, "SIGINT": 3.0, _FILE: 120.0}
# From the request until a process is ended that still waits for something.
_PATIENCE_SECONDS = {"SIGTERM": 27.0, "SIGINT": 30.0, _FILE: 140.0}
# Between the last commit and the end of the job; and between the end of a process that is stuck and that of the job.
_MARGIN_SECONDS, _STUCK_MARGIN_SECONDS = 15.0, 5.0
_POLL_SECONDS = 1.0

_Handler = Callable[[int, FrameType | None], object] | int | None


class Drain:
    """Turns SIGTERM, SIGINT and a file's appearance into a request, which the worker looks at between batches.

    A second SIGINT interrupts at once. `deadline` is when the job will be killed, in seconds since 1970, if known. A
    file that holds the word SIGTERM stands for the signal: the batch script writes it for processes that no signal
    reaches. Of several requests the one that leaves the least time counts.

    Inside the `with` block a process that is requested to stop and does not is ended with exit status 75, and says so:
    it may wait for a process or a file system that will never answer. Nothing half done is published by that.
    """

    def __init__(self, file: Path | None = None, deadline: float | None = None) -> None:
        self.file = file
        self.deadline = deadline
        self._reason: str | None = None
        self._until = self._lost = float("inf")  # the ends of grace and patience, by the monotonic clock
        self._looked = float("-inf")
        self._before: dict[signal.Signals, _Handler] = {}
        self._over = threading.Event()

    def __enter__(self) -> Drain:
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._request)
        threading.Thread(target=self._watch, daemon=True, name="drain watch").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> str | None:
        """Why to stop, or None. Looks for the file once a second."""
        file_may_say_more = self.file is not None and self._reason in (None, _FILE)
        if file_may_say_more and time.monotonic() - self._looked >= _POLL_SECONDS:
            self._looked = time.monotonic()
            self._look()
        return self._reason

    def allows(self, seconds: float | None) -> bool:
        """Whether there is time for `seconds` more of work; never for None, an unknown time."""
        return seconds is not None and seconds <= self._seconds_left()

    def _seconds_left(self) -> float:
        """For work: until the grace of the request is over or the job's end is near, whichever comes first."""
        return min(self._until - time.monotonic(), self._seconds_of_job() - _MARGIN_SECONDS)

    def _seconds_of_job(self) -> float:
        return float("inf") if self.deadline is None else self.deadline - time.time()

    def _look(self) -> None:
        assert self.file is not None
        try:
            words = self.file.read_text(errors="replace").split()
        except FileNotFoundError:
            return
        except OSError:  # it is there, whatever it is
            words = []
        if "SIGTERM" in words:
            self._set("SIGTERM")
        elif self._reason is None:
            self._set(_FILE)

    def _set(self, reason: str) -> None:
        self._reason = reason
        if reason == _FILE and self.deadline is not None:
            return  # the deadline alone says how much time is left
        now = time.monotonic()
        self._until = min(self._until, now + _GRACE_SECONDS[reason])
        self._lost = min(self._lost, now + _PATIENCE_SECONDS[reason])

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._reason in (None, _FILE):
            self._set(signal.Signals(number).name)

    def _watch(self) -> None:
        """Ends the process where a request to stop was not met in time."""
        while not self._over.wait(_POLL_SECONDS):
            if self.requested is not None and (
                time.monotonic() > self._lost or self._seconds_of_job() < _STUCK_MARGIN_SECONDS
            ):
                os.write(2, self._gave_up().encode())  # the stream's lock may be with a thread that is stuck
                end_commands()
                os._exit(EXIT_DRAINED)

    def _gave_up(self) -> str:
        return (
            f"promptsg: stopped on {self.requested} without finishing: something that this process waits for does not "
            "answer (a decoding process, the GPU or a file system); the current shard is dropped, and the same command "
            "goes on from here\n"
        )
