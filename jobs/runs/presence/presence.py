"""A worker's signs of life: it says that it begins and ends, and touches its event log every half minute."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from jobs.phrases import json_text, one_line
from jobs.runs.events import event_log
from jobs.runs.presence.process_mark import ProcessMark
from jobs.runs.presence.worker_lines import WorkerBegan, WorkerEnded, WorkerPlace

logger = logging.getLogger(__name__)

BEAT_SECONDS = 30.0
AT_LIMIT = "stopped at its --limit"  # how a first try ends: the same command again has nothing to do


class Presence:
    """While it is entered, `promptsg status` sees that this process works on the run of a `logs` folder.

    `how` is what is said at the end, unless an error ends it. What cannot be written is only warned of. Where it is not
    known yet whether there is work, or a folder, enter `once_begun` in its place, and call `begin` when it is known.
    """

    def __init__(self, logs: Path, place: WorkerPlace) -> None:
        self.how = "done"
        self._path, self._place = event_log(logs), place
        self._over = threading.Event()
        self._beats: threading.Thread | None = None

    def __enter__(self) -> Presence:
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        self._end(error)

    @contextlib.contextmanager
    def once_begun(self) -> Iterator[Presence]:
        """Says the end of what lies within, where `begin` was called in it."""
        try:
            yield self
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)

    def begin(self) -> None:
        """Says that this process works on the run. Says it once, and again where the log was deleted since."""
        if self._beats is not None and self._path.exists():
            return
        self._write(
            WorkerBegan(
                host=os.uname().nodename,
                pid=os.getpid(),
                began=time.time(),
                place=self._place,
                mark=ProcessMark.of_this_process(),
                inode=self._inode(),
            )
        )
        if self._beats is None:
            self._beats = threading.Thread(target=self._beat, daemon=True, name="signs of life")
            self._beats.start()

    def _end(self, error: BaseException | None) -> None:
        if self._beats is None:
            return
        self._over.set()
        how = self.how if error is None else f"ended by an error: {one_line(error)}"
        self._write(WorkerEnded(ended=time.time(), how=how))

    def _inode(self) -> int | None:
        try:
            self._path.touch()
            return self._path.stat().st_ino
        except OSError:
            return None

    def _write(self, line: WorkerBegan | WorkerEnded) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json_text(asdict(line), indent=None) + "\n")
        except OSError as error:
            logger.warning("cannot write the event log %s: %s", self._path, error.strerror)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._path)  # without times the file's server takes its own clock
