"""The loop of a worker: batches from the reader, through the model, results to the writer."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from jobs.launch.drain import Drain
from jobs.mining.batch import mine_batch
from jobs.mining.config import MineConfig
from jobs.mining.summary import MiningSummary
from jobs.mining.targets import TargetSource
from jobs.progress import ShardProgress
from jobs.runs.events import EventLog, ShardReport
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.writer import Writer
from jobs.shards.reader import Batch, ShardEnd, ShardReader
from jobs.shards.samples import Sample
from jobs.shards.urls import Shard
from promptsg_core.model import PromptSG

logger = logging.getLogger(__name__)


@dataclass
class _CurrentShard:
    """The shard that is being mined: the byte of its tar that is reached, and the seconds spent in the model."""

    shard: Shard
    began: float = field(default_factory=time.monotonic)
    position: int = 0
    seconds_model: float = 0.0

    def advance(self, samples: Sequence[Sample]) -> None:
        """Moves the position to the last image of a batch. In a compressed tar it stays 0."""
        self.position = max([self.position, *(sample.image_offset or 0 for sample in samples)])

    def seconds_left(self) -> float | None:
        """The time that the rest will take at the speed so far; None where it cannot be estimated."""
        if not self.shard.size or not self.position:
            return None
        return (time.monotonic() - self.began) * max(0.0, self.shard.size / self.position - 1)


class Worker:
    """Draws shards and mines them, with one pass of the model for each batch. A shard that fails stops no other.

    `progress` counts the batches and the shards. `drain` says before each batch whether to stop; without it the worker
    stops only at the end. With `replace` a shard that is published already is replaced.
    """

    def __init__(
        self,
        model: PromptSG,
        config: MineConfig,
        manifest: Manifest,
        targets: TargetSource,
        *,
        progress: ShardProgress | None = None,
        drain: Drain | None = None,
        replace: bool = False,
    ) -> None:
        self.model, self.config, self.manifest, self.targets = model, config, manifest, targets
        self.progress, self.drain, self.replace = progress, drain, replace
        self.layout = RunLayout(config.output)
        self.summary = MiningSummary(run=config.output)
        self._current: _CurrentShard | None = None

    def run(self, shards: Iterable[Shard], workers: int) -> MiningSummary:
        """Mines the shards in the order in which they are drawn, and decodes images in `workers` processes.

        Raises UserError where a decoding process dies, and what drawing the next shard raises.
        """
        with (
            contextlib.closing(EventLog(self.layout.logs)) as events,
            self._reader(workers) as reader,
            self._writer(events) as writer,
        ):
            stopped = self._mine(reader.read(shards, stop=self._must_stop), writer)
            drained = stopped or self._must_stop()  # the reader also ends when it is stopped while it waits
        reason = self.drain.requested if drained and self.drain is not None else None
        return replace(self.summary, drained=reason)

    def _reader(self, workers: int) -> ShardReader:
        return ShardReader(
            image_size=self.model.config.image_size,
            batch_size=self.config.batch_size,
            workers=workers,
            interpolation=self.config.interpolation,
            max_image_pixels=self.config.max_image_pixels,
        )

    def _writer(self, events: EventLog) -> Writer:
        reported = partial(self._note, events)
        return Writer(self.layout, self.manifest, self.config.max_failed_fraction, reported, replace=self.replace)

    def _note(self, events: EventLog, report: ShardReport) -> None:
        """Counts and records what became of a shard. The writing thread calls it."""
        self.summary = self.summary.plus(report)
        events.shard(report)
        _log(report)

    def _mine(self, items: Iterable[Batch | ShardEnd], writer: Writer) -> bool:
        """Mines what the reader yields. Returns whether it stopped before the end."""
        for item in items:
            if self._must_stop():
                return True
            if self._current is None:
                self._current = _CurrentShard(item.shard)
                writer.begin(item.shard.name)
            if isinstance(item, Batch):
                self._mine_batch(self._current, item, writer)
            else:
                self._end(self._current, item, writer)
                self._current = None
        return False

    def _mine_batch(self, current: _CurrentShard, batch: Batch, writer: Writer) -> None:
        started = time.perf_counter()
        results = mine_batch(self.model, batch, self.config, self.targets) if len(batch.images) else None
        current.seconds_model += time.perf_counter() - started
        writer.add(batch.samples, results)
        current.advance(batch.samples)
        if self.progress is not None:
            self.progress.advance(len(batch.samples), current.position or None)

    def _end(self, current: _CurrentShard, end: ShardEnd, writer: Writer) -> None:
        error = None if end.error is None else str(end.error)
        writer.end(error, seconds_reading=end.seconds, seconds_model=current.seconds_model)
        if self.progress is not None:
            self.progress.finish_shard(end.shard.size)

    def _must_stop(self) -> bool:
        """Whether the job is requested to stop, and there is no time for the rest of the current shard."""
        if self.drain is None or not self.drain.requested:
            return False
        return self._current is None or not self.drain.allows(self._current.seconds_left())


def _log(report: ShardReport) -> None:
    """One line for a shard."""
    if report.error is not None:
        logger.error("%s: failed: %s", report.shard, report.error)
        return
    notes = [f"{count} {reason}" for reason, count in sorted(report.failed.items())]
    notes += [f"{count} {reason}, kept" for reason, count in sorted(report.partial.items())]
    notes += [f"{count} all-zero {name}" for name, count in report.zero_maps.items() if count]
    logger.info(
        "%s: %d images%s; reading %.1f s, model %.1f s, writing %.1f s",
        report.shard,
        report.images,
        f" ({', '.join(notes)})" if notes else "",
        report.seconds_reading,
        report.seconds_model,
        report.seconds_writing,
    )
