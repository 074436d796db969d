"""The writing thread: takes batches of results shard by shard, so that the model does not wait for the disk."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jobs.errors import ShardError
from jobs.runs.events import ShardReport
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.shard_output import Results, ShardOutput
from jobs.shards.samples import Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Add:
    samples: Sequence[Sample]
    results: Results | None


@dataclass(frozen=True)
class _Begin:
    shard: str


@dataclass(frozen=True)
class _End:
    error: str | None
    seconds_reading: float
    seconds_model: float


class Writer:
    """Feeds a writing thread through a short queue, so that the model waits only when the disk is slower than it.

    Call `begin`, `add`, `end` for one shard after another, on one thread. `reported` is called on the writing thread
    with a ShardReport for each shard; with `replace`, published shards are replaced. Use as a context manager: leaving
    it waits for the last commit.
    """

    def __init__(
        self,
        layout: RunLayout,
        manifest: Manifest,
        max_failed_fraction: float,
        reported: Callable[[ShardReport], None],
        ahead: int = 4,
        replace: bool = False,
    ) -> None:
        self._replace = replace
        self._layout, self._manifest, self._max_failed_fraction = layout, manifest, max_failed_fraction
        self._reported = reported
        self._queue: queue.Queue[_Begin | _Add | _End | None] = queue.Queue(maxsize=ahead)
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

    def add(self, samples: Sequence[Sample], results: Results | None) -> None:
        """Hands over one batch; waits only while the queue is full."""
        self._put(_Add(samples, results))

    def end(self, error: str | None = None, seconds_reading: float = 0.0, seconds_model: float = 0.0) -> None:
        """Commits the open shard, or with an error drops it."""
        self._put(_End(error, seconds_reading, seconds_model))

    def _put(self, item: _Begin | _Add | _End) -> None:
        self._raise_crash()
        self._queue.put(item)

    def _raise_crash(self) -> None:
        if self._crash is not None:
            raise self._crash

    def _items(self) -> Iterator[_Begin | _Add | _End]:
        while (item := self._queue.get()) is not None:
            yield item
        self._queue.put(None)  # the end is an end for whoever asks again, too

    def _run(self) -> None:
        try:
            for item in self._items():
                if isinstance(item, _Begin):
                    self._write_shard(item.shard)
        except BaseException as error:  # handed to the feeding thread, which raises it at its next call
            self._crash = error
            for _ in self._items():  # keep taking, or the feeding thread would wait for ever
                pass

    def _write_shard(self, shard: str) -> None:
        """Takes items up to the shard's end; an error drops the shard, and the rest of its items are passed over."""
        output: ShardOutput | None = None
        failure: str | None = None
        seconds = 0.0
        for item in self._items():
            started = time.perf_counter()
            try:
                if failure is None and output is None:
                    output = ShardOutput(
                        self._layout, self._manifest, shard, self._max_failed_fraction, replace=self._replace
                    )
                if isinstance(item, _End):
                    report = self._finish(shard, output, failure or item.error)
                    report.seconds_reading, report.seconds_model = item.seconds_reading, item.seconds_model
                    report.seconds_writing = seconds + time.perf_counter() - started
                    self._reported(report)
                    return
                if isinstance(item, _Add) and output is not None and failure is None:
                    output.add(item.samples, item.results)
            except ShardError as error:
                failure = str(error)
            seconds += time.perf_counter() - started
        if output is not None:  # closed in the middle of a shard: the job is ending
            output.discard()

    def _finish(self, shard: str, output: ShardOutput | None, failure: str | None) -> ShardReport:
        if output is None:
            return ShardReport(shard=shard, error=failure)
        try:
            if failure is not None:
                return ShardReport(shard=shard, error=failure)
            published, report = output.commit()
            if not published:
                logger.info("%s: another worker had published it already; its result stands", shard)
            return report
        except ShardError as error:
            return ShardReport(shard=shard, error=str(error))
        finally:
            output.discard()
