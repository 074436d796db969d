"""The loop of a worker: batches from the reader, through the model, results to the writer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from jobs.launch.drain import Drain
from jobs.mining.batch import MiningSetup
from jobs.mining.camera_rows.source import NO_CAMERAS, CameraSource
from jobs.mining.config import MineConfig
from jobs.mining.devices.choose import device_of
from jobs.mining.devices.device import Device
from jobs.mining.devices.device_measures import DeviceMeasures
from jobs.mining.fitting import FittingBatches
from jobs.mining.in_order import CurrentShard, ShardsInOrder
from jobs.mining.limits.fp32_repeats import Fp32Repeats
from jobs.mining.passes.choice import choose_pass
from jobs.mining.passes.wish import CompileWish
from jobs.mining.summary import MiningSummary
from jobs.mining.targets import TargetSource
from jobs.mining.telling.shard_lines import ShardLines, Tally
from jobs.progress import ShardProgress
from jobs.runs.events import EventLog, ShardReport
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.writer import Writer
from jobs.shards.decoding import DecoderDiedError
from jobs.shards.reader import Batch, ShardEnd, ShardReader
from jobs.shards.urls import Shard
from promptsg_core.model import AnyModel

_ENOUGH_FAILED = 3  # shards of a first try, until it is taken to be of no use


class Worker:
    """Draws shards and mines them, with one pass of the model for each batch. A shard that fails stops no other.

    `progress` counts the batches and the shards. `drain` says before each batch whether to stop; without it the worker
    stops only at the end. With `replace` a shard that is published already is replaced. `repeats` does images again in
    fp32 whose numbers are not finite. With an `addition` (its number) the maps are added to shards that are published
    already. `compiling` says when the image tower is compiled. `tally` counts the shards of all ranks. It stops after
    `limit` images.
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
        repeats: Fp32Repeats | None = None,
        addition: int | None = None,
        compiling: CompileWish = CompileWish(),  # noqa: B008 - it is frozen
        limit: int | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.model, self.config, self.manifest = model, config, manifest
        self._targets, self._cameras = targets, cameras
        self.progress, self.drain, self.replace = progress, drain, replace
        self._repeats, self.addition, self._compiling, self._limit = repeats, addition, compiling, limit
        self._lines = ShardLines(tally)
        self.layout = RunLayout(config.output)
        self.summary = MiningSummary(run=config.output)
        self._current: CurrentShard | None = None

    def run(self, shards: Iterable[Shard], workers: int, ranks_on_node: int = 1) -> MiningSummary:
        """Mines the shards in the order in which they are drawn, and decodes images in `workers` processes.

        `ranks_on_node` workers like this one share the node's memory. Raises UserError where a decoding process dies or
        the memory does not suffice, and what drawing the next shard raises.
        """
        drawn, left = iter(shards), self._limit
        with contextlib.closing(EventLog(self.layout.logs)) as events:
            while True:
                failed_before = len(self.summary.failed_shards)
                reason = self._read(drawn, workers, ranks_on_node, left, events)
                left = None if self._limit is None else self._limit - self.summary.rows
                # Shards that failed after they were read leave the limit unmet: others are mined instead.
                goes_on = failed_before < len(self.summary.failed_shards) < _ENOUGH_FAILED
                if reason is not None or not (goes_on and left is not None and left > 0):
                    return replace(self.summary, drained=reason)

    def _read(
        self, shards: Iterator[Shard], workers: int, ranks_on_node: int, limit: int | None, events: EventLog
    ) -> str | None:
        """Mines shards up to `limit` images. Returns why it was stopped before, or None."""
        with (
            self._reader(workers, ranks_on_node, limit) as reader,
            contextlib.closing(device_of(self.model.device)) as device,
            self._writer(events) as writer,
        ):
            if reader.ring is not None:
                device.pin(reader.ring)
            ordered = ShardsInOrder(FittingBatches(self._setup(device), self._repeats), writer, self.progress)
            try:
                items = reader.read(shards, stop=partial(self._while_waiting, ordered))
                stopped = self._mine(items, ordered)
            except DecoderDiedError:  # a signal to the whole job also ends the decoding processes
                if self.drain is None or not self.drain.requested:
                    raise
                stopped = True
            drained = stopped or self._must_stop()  # the reader also ends when it is stopped while it waits
        return self.drain.requested if drained and self.drain is not None else None

    def _setup(self, device: Device) -> MiningSetup:
        """On a GPU the maps are measured where they are; the CPU's measures are the writing thread's work."""
        measures = None
        if self.model.device.type == "cuda" and self.addition is None:
            measures = DeviceMeasures(self.model.grid, self.manifest.measured_placement, self.model.device)
        return MiningSetup(
            model=self.model,
            run=choose_pass(self.model, self.config, self._compiling),
            config=self.config,
            targets=self._targets,
            cameras=self._cameras,
            device=device,
            measures=measures,
            measured=self.manifest.maps,
        )

    def _reader(self, workers: int, ranks_on_node: int, limit: int | None) -> ShardReader:
        return ShardReader(
            image_size=self.model.config.image_size,
            batch_size=self.config.images_at_once,
            workers=workers,
            interpolation=self.config.interpolation,
            max_image_pixels=self.config.max_image_pixels,
            ranks_on_node=ranks_on_node,
            lend=True,
            limit=limit,
        )

    def _writer(self, events: EventLog) -> Writer:
        reported = partial(self._note, events)
        return Writer(
            self.layout,
            self.manifest,
            self.config.max_failed_fraction,
            reported,
            replace=self.replace,
            addition=self.addition,
        )

    def _note(self, events: EventLog, report: ShardReport) -> None:
        """Counts and records what became of a shard. The writing thread calls it."""
        self.summary = self.summary.plus(report)
        events.shard(report)
        self._lines.tell(report)

    def _mine(self, items: Iterable[Batch | ShardEnd], ordered: ShardsInOrder) -> bool:
        """Mines what the reader yields. Returns whether it stopped before the end."""
        try:
            for item in items:
                if self._must_stop():
                    return True
                current = self._current = self._current or CurrentShard(item.shard)
                if isinstance(item, Batch):
                    ordered.launch(current, item)
                else:
                    self._current = None
                    ordered.end(current, item)
            return False
        finally:
            ordered.finish_shards()

    def _while_waiting(self, ordered: ShardsInOrder) -> bool:
        """What is done while the reader has nothing: nothing that is finished waits for it. Whether to stop."""
        ordered.settle()
        return self._must_stop()

    def _must_stop(self) -> bool:
        """Whether the job is requested to stop, and there is no time for the rest of the current shard."""
        if self.drain is None or not self.drain.requested:
            return False
        return self._current is None or not self.drain.allows(self._current.seconds_left())
