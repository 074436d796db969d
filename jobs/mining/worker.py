"""The loop of a worker: batches from the reader, through the model, results to the writer."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from cam.errors import CamError
from jobs.errors import UserError
from jobs.launch.drain import Drain
from jobs.mining.camera_rows.source import NO_CAMERAS, CameraSource
from jobs.mining.config import MineConfig
from jobs.mining.fitting import FittingBatches
from jobs.mining.summary import MiningSummary
from jobs.mining.targets import TargetSource
from jobs.phrases import counted_kinds, one_line
from jobs.progress import ShardProgress
from jobs.runs.events import EventLog, ShardReport
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.writer import Writer
from jobs.shards.decoding import DecoderDiedError
from jobs.shards.reader import Batch, ShardEnd, ShardReader
from jobs.shards.samples import Sample
from jobs.shards.urls import Shard
from promptsg_core.errors import ModelError
from promptsg_core.model import AnyModel

logger = logging.getLogger(__name__)

_ACCELERATORS = ("CUDA", "cuDNN", "CUBLAS", "HIP", "MPS")  # as their errors say


@dataclass
class _CurrentShard:
    """The shard that is being mined: the byte of its tar that is reached, and the seconds spent in the model.

    With an `error` it has failed, and its other batches are passed over.
    """

    shard: Shard
    began: float = field(default_factory=time.monotonic)
    position: int = 0
    seconds_model: float = 0.0
    error: str | None = None

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
        model: AnyModel,
        config: MineConfig,
        manifest: Manifest,
        targets: TargetSource,
        cameras: CameraSource = NO_CAMERAS,
        *,
        progress: ShardProgress | None = None,
        drain: Drain | None = None,
        replace: bool = False,
    ) -> None:
        self.model, self.config, self.manifest = model, config, manifest
        self._batches = FittingBatches(model, config, targets, cameras)
        self.progress, self.drain, self.replace = progress, drain, replace
        self.layout = RunLayout(config.output)
        self.summary = MiningSummary(run=config.output)
        self._current: _CurrentShard | None = None

    def run(self, shards: Iterable[Shard], workers: int, ranks_on_node: int = 1) -> MiningSummary:
        """Mines the shards in the order in which they are drawn, and decodes images in `workers` processes.

        `ranks_on_node` workers like this one share the node's memory. Raises UserError where a decoding process dies or
        the memory does not suffice, and what drawing the next shard raises.
        """
        with (
            contextlib.closing(EventLog(self.layout.logs)) as events,
            self._reader(workers, ranks_on_node) as reader,
            self._writer(events) as writer,
        ):
            try:
                stopped = self._mine(reader.read(shards, stop=self._must_stop), writer)
            except DecoderDiedError:  # a signal to the whole job also ends the decoding processes
                if self.drain is None or not self.drain.requested:
                    raise
                stopped = True
            drained = stopped or self._must_stop()  # the reader also ends when it is stopped while it waits
        reason = self.drain.requested if drained and self.drain is not None else None
        return replace(self.summary, drained=reason)

    def _reader(self, workers: int, ranks_on_node: int) -> ShardReader:
        return ShardReader(
            image_size=self.model.config.image_size,
            batch_size=self.config.batch_size,
            workers=workers,
            interpolation=self.config.interpolation,
            max_image_pixels=self.config.max_image_pixels,
            ranks_on_node=ranks_on_node,
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
        if current.error is None:
            started = time.perf_counter()
            try:
                results = self._batches.mine(batch) if len(batch.images) else None
            except Exception as error:
                if _ends_the_run(error):
                    raise
                logger.debug("%s: the model failed", current.shard.name, exc_info=True)
                current.error = f"{current.shard.name}: the model failed with {type(error).__name__}: {one_line(error)}"
                results = None
            current.seconds_model += time.perf_counter() - started
            writer.add(batch.samples, results)
        current.advance(batch.samples)
        if self.progress is not None:
            self.progress.advance(len(batch.samples), current.position or None)

    def _end(self, current: _CurrentShard, end: ShardEnd, writer: Writer) -> None:
        error = current.error or _without_images(end) if end.error is None else str(end.error)
        writer.end(
            error,
            seconds_reading=end.seconds,
            seconds_model=current.seconds_model,
            tar=end.whole,
            passed_over=end.contents.passed_over,
        )
        if self.progress is not None:
            self.progress.finish_shard(end.shard.size)

    def _must_stop(self) -> bool:
        """Whether the job is requested to stop, and there is no time for the rest of the current shard."""
        if self.drain is None or not self.drain.requested:
            return False
        return self._current is None or not self.drain.allows(self._current.seconds_left())


def _without_images(end: ShardEnd) -> str | None:
    """The error of a shard that was read to its end and holds no image; None for any other."""
    if end.contents.images:
        return None
    held = end.contents.held_instead() or "the tar is empty"
    return f"{end.shard.name}: no image in it: {held}; leave {end.shard.url} out of --shards, or pack it again"


def _ends_the_run(error: Exception) -> bool:
    """Whether an error of the model concerns more than the shard: after an error of the GPU nothing works any more."""
    if isinstance(error, (UserError, ModelError, CamError)):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in _ACCELERATORS)


def _log(report: ShardReport) -> None:
    """One line for a shard."""
    if report.error is not None:
        logger.error("%s: failed: %s", report.shard, report.error)
        return
    notes = [f"{count} {reason}" for reason, count in sorted(report.failed.items())]
    notes += [f"{count} {reason}, kept" for reason, count in sorted(report.partial.items())]
    notes += [f"{count} all-zero {name}" for name, count in report.zero_maps.items() if count]
    if report.passed_over:
        notes.append(f"passed over {counted_kinds(report.passed_over)}")
    logger.info(
        "%s: %d images%s; reading %.1f s, model %.1f s, writing %.1f s",
        report.shard,
        report.images,
        f" ({', '.join(notes)})" if notes else "",
        report.seconds_reading,
        report.seconds_model,
        report.seconds_writing,
    )
