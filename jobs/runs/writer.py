"""The writing thread: takes results shard by shard, so that the model does not wait for the disk."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from jobs.errors import ShardError, UserError
from jobs.phrases import one_line
from jobs.runs.events import ShardReport
from jobs.runs.growth.added_output import AddedOutput
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.metadata_rows import Results
from jobs.runs.shard_output import ShardOutput
from jobs.shards.columns import SampleColumns
from jobs.shards.shard_bytes import ShardBytes

logger = logging.getLogger(__name__)

_AHEAD = 4  # batches and ends of shards that wait for the disk


@dataclass(frozen=True)
class _Begin:
    shard: str


@dataclass(frozen=True)
class _Add:
    samples: SampleColumns
    results: Results | None


@dataclass(frozen=True)
class _End:
    error: str | None
    seconds_reading: float
    seconds_model: float
    tar: ShardBytes | None
    passed_over: Mapping[str, int]
    only_first: bool


_Message = _Begin | _Add | _End


class Writer:
    """Feeds a writing thread through a short queue, so that the model waits only where the disk is slower.

    Call `begin`, `add` and `end` for one shard after another, from one thread. The writing thread calls `reported` with
    the report of each shard. With `replace`, published shards are replaced. With an `addition` (its number), its maps
    are added to published shards, and with `replace` those that some images lack are replaced. Use as a context
    manager: leaving it waits for the last commit. An unexpected error of the writing thread is raised by the next call.
    """

    def __init__(
        self,
        layout: RunLayout,
        manifest: Manifest,
        max_failed_fraction: float,
        reported: Callable[[ShardReport], None],
        replace: bool = False,
        addition: int | None = None,
    ) -> None:
        self._layout, self._manifest, self._max_failed_fraction = layout, manifest, max_failed_fraction
        self._reported = reported
        self._replace, self._addition = replace, addition
        self._queue: queue.Queue[_Message | None] = queue.Queue(maxsize=_AHEAD)
        self._crash: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="promptsg-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise_crash()

    def begin(self, shard: str) -> None:
        """Opens a shard."""
        self._put(_Begin(shard))

    def add(self, samples: SampleColumns, results: Results | None) -> None:
        """Hands over one batch. Waits only while the queue is full."""
        self._put(_Add(samples, results))

    def end(
        self,
        error: str | None = None,
        seconds_reading: float = 0.0,
        seconds_model: float = 0.0,
        *,
        tar: ShardBytes | None = None,
        passed_over: Mapping[str, int] | None = None,
        only_first: bool = False,
    ) -> None:
        """Commits the open shard with what is known of its tar, or drops it if there is an error.

        With `only_first` what was added are its first images, and it is not done.
        """
        self._put(_End(error, seconds_reading, seconds_model, tar, passed_over or {}, only_first))

    def _put(self, message: _Message) -> None:
        self._raise_crash()
        self._queue.put(message)

    def _raise_crash(self) -> None:
        if self._crash is not None:
            raise self._crash

    def _run(self) -> None:
        try:
            self._write_all()
        except BaseException as error:  # noqa: BLE001 - the feeding thread raises it at its next call
            self._crash = error
            while self._queue.get() is not None:  # or the feeding thread would wait for ever for room in the queue
                pass

    def _write_all(self) -> None:
        """Writes shards until the end of the queue. A shard that is open then is dropped: the job is ending."""
        shard: _OpenShard | None = None
        try:
            while (message := self._queue.get()) is not None:
                if isinstance(message, _Begin):
                    shard = _OpenShard(message.shard, self._open)
                    continue
                assert shard is not None, "add and end come after begin"
                if isinstance(message, _Add):
                    shard.add(message)
                else:
                    self._reported(shard.end(message))
                    shard = None
        finally:
            if shard is not None:
                shard.discard()

    def _open(self, shard: str) -> ShardOutput | AddedOutput:
        if self._addition is not None:
            return AddedOutput(
                self._layout, self._manifest, self._addition, shard, self._max_failed_fraction, replace=self._replace
            )
        return ShardOutput(self._layout, self._manifest, shard, self._max_failed_fraction, replace=self._replace)


class _OpenShard:
    """The shard that is being written. After an error its other batches are ignored, and its report has the error."""

    def __init__(self, name: str, open_output: Callable[[str], ShardOutput | AddedOutput]) -> None:
        started = time.perf_counter()
        self._name = name
        self._output: ShardOutput | AddedOutput | None = None
        self._error: str | None = None
        try:
            self._output = open_output(name)
        except Exception as error:  # noqa: BLE001 - see _reason_of
            self._error = _reason_of(error, name)
        self._seconds = time.perf_counter() - started

    def add(self, batch: _Add) -> None:
        started = time.perf_counter()
        if self._output is not None and self._error is None:
            try:
                self._output.add(batch.samples, batch.results)
            except Exception as error:  # noqa: BLE001 - see _reason_of
                self._error = _reason_of(error, self._name)
        self._seconds += time.perf_counter() - started

    def end(self, end: _End) -> ShardReport:
        """Commits or drops the shard."""
        started = time.perf_counter()
        report = self._finish(self._error or end.error, end)
        return replace(
            report,
            seconds_reading=end.seconds_reading,
            seconds_model=end.seconds_model,
            seconds_writing=self._seconds + time.perf_counter() - started,
        )

    def discard(self) -> None:
        """Removes what was not published."""
        if self._output is not None:
            self._output.discard()

    def _finish(self, error: str | None, end: _End) -> ShardReport:
        if self._output is None or error is not None:
            self.discard()
            return ShardReport(shard=self._name, error=error)
        try:
            if end.only_first and isinstance(self._output, ShardOutput):
                published, report = self._output.commit(end.tar, end.passed_over, only_first=True)
            else:
                published, report = self._output.commit(end.tar, end.passed_over)
        except Exception as failure:  # noqa: BLE001 - see _reason_of
            return ShardReport(shard=self._name, error=_reason_of(failure, self._name))
        finally:
            self.discard()
        if not published:
            logger.info("%s: another worker had published it already; its result stands", self._name)
        return report


def _reason_of(error: Exception, shard: str) -> str:
    """Why a shard cannot be written. An error that was not foreseen costs the shard alone, too, and shows its type.

    Raises the error again where it concerns the run.
    """
    if isinstance(error, ShardError):
        return str(error)
    if isinstance(error, UserError):
        raise error
    logger.debug("%s: writing failed", shard, exc_info=True)
    return f"{shard}: it cannot be written: {type(error).__name__}: {one_line(error)}"
