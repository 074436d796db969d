"""The loop of a worker: batches from the reader, one pass through the model, results to the writer."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from cam.extract import Extraction, extract_maps
from cam.names import MapName
from jobs.launch.drain import Drain
from jobs.mining.config import MineConfig
from jobs.mining.targets import BatchTarget, TargetSource
from jobs.progress import Progress
from jobs.runs.events import EventLog, ShardReport
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.maps_file import HEADS
from jobs.runs.shard_output import Results
from jobs.runs.writer import Writer
from jobs.shards.reader import Batch, ShardEnd, ShardReader
from jobs.shards.samples import OK, Sample
from jobs.shards.urls import Shard
from promptsg_core.model import PromptSG

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Summary:
    """What a worker did, over all shards that it drew."""

    images: int = 0
    failed_images: int = 0
    partial_images: int = 0
    shards: int = 0
    failed_shards: list[ShardReport] = field(default_factory=list)
    zero_maps: int = 0
    drained: str | None = None
    seconds_model: float = 0.0

    def count(self, report: ShardReport) -> None:
        """Adds one shard."""
        if report.error is not None:
            self.failed_shards.append(report)
            return
        self.shards += 1
        self.images += report.images
        self.failed_images += report.failed_images
        self.partial_images += sum(report.partial.values())
        self.zero_maps += sum(report.zero_maps.values())


class Worker:
    """Draws shards and mines them, one pass per batch; a shard that fails does not stop the others."""

    def __init__(
        self,
        model: PromptSG,
        config: MineConfig,
        manifest: Manifest,
        targets: TargetSource,
        *,
        progress: Progress,
        drain: Drain,
        replace: bool = False,
    ) -> None:
        self.model, self.config, self.manifest, self.targets = model, config, manifest, targets
        self.progress, self.drain, self.replace = progress, drain, replace
        self.summary = Summary()
        self._shard: Shard | None = None  # in hand
        self._began, self._position = 0.0, 0

    def run(self, shards: Iterable[Shard], workers: int) -> Summary:
        """Mines the shards in the order in which they are drawn, decoding in `workers` processes.

        With `replace`, a shard that is published already is published anew.
        """
        layout = RunLayout(self.config.output)
        events = EventLog(layout.logs)

        def reported(report: ShardReport) -> None:
            self.summary.count(report)
            events.shard(report)
            log_shard(report)

        reader = ShardReader(
            image_size=self.model.config.image_size,
            batch_size=self.config.batch_size,
            workers=workers,
            interpolation=self.config.interpolation,
            max_image_pixels=self.config.max_image_pixels,
        )
        writer = Writer(layout, self.manifest, self.config.max_failed_fraction, reported, replace=self.replace)
        with reader, writer:
            self._mine(reader.read(shards, stop=self._must_stop), writer)
            if self.summary.drained is None and self._must_stop():  # while it waited for a read
                self.summary.drained = self.drain.requested
        events.close()
        return self.summary

    def _mine(self, items: Iterable[Batch | ShardEnd], writer: Writer) -> None:
        seconds = 0.0
        for item in items:
            if self._must_stop():
                self.summary.drained = self.drain.requested
                return
            if self._shard is None:
                self._shard, seconds, self._began, self._position = item.shard, 0.0, time.monotonic(), 0
                writer.begin(item.shard.name)
            if isinstance(item, Batch):
                started = time.perf_counter()
                results = mine_batch(self.model, item, self.config, self.targets) if len(item.images) else None
                seconds += time.perf_counter() - started
                writer.add(item.samples, results)
                self._position = max(self._position, *(sample.image_offset or 0 for sample in item.samples), 0)
                self.progress.advance(len(item.samples), self._position or None)
            else:
                error = None if item.error is None else str(item.error)
                writer.end(error, seconds_reading=item.seconds, seconds_model=seconds)
                self.progress.finish_shard(item.shard.size)
                self.summary.seconds_model += seconds
                self._shard = None

    def _must_stop(self) -> bool:
        """Whether the job is asked to stop and the rest of the shard in hand, at its pace so far, takes too long."""
        if not self.drain.requested:
            return False
        if self._shard is None or not self._shard.size or not self._position:
            return True  # nothing begun, or nothing that the time left could be told from
        spent = time.monotonic() - self._began
        return not self.drain.allows(spent * max(0.0, self._shard.size / self._position - 1))


def mine_batch(model: PromptSG, batch: Batch, config: MineConfig, targets: TargetSource) -> Results:
    """One pass over a batch's uint8 images (B, 3, H, W); results on the host."""
    good = [sample for sample in batch.samples if sample.status == OK]
    goal = targets(good)
    extraction = extract_maps(
        model, batch.images, maps=config.maps, target=goal.target, gradcam_plus_plus=config.gradcam_plus_plus
    )
    results = to_host(extraction, config.attention_heads == "all")
    if goal.known is not None:
        _blank(good, results, goal)
    return results


def _blank(samples: Sequence[Sample], results: Results, goal: BatchTarget) -> None:
    """Takes the target's maps from the rows that have no target, and lets each such row say so."""
    lacking = [] if goal.known is None else np.flatnonzero(~goal.known).tolist()
    for row in lacking:
        samples[row].status, samples[row].error = goal.status, goal.error
        results.score[row] = np.nan
        for name, maps in results.maps.items():
            if MapName.parse(name).needs_target:
                maps[row] = np.nan


@torch.no_grad()
def to_host(extraction: Extraction, heads: bool = False) -> Results:
    """Device tensors to numpy arrays; with `heads`, the attention of each of the MIM's heads is stored too."""
    return Results(
        stored={HEADS: extraction.attention_heads.contiguous().cpu().numpy()} if heads else {},
        maps={name: maps.contiguous().cpu().numpy() for name, maps in extraction.maps.items()},
        features=extraction.features.cpu().numpy(),
        score=extraction.score.cpu().numpy(),
        predicted=extraction.predicted.cpu().numpy(),
        probability=extraction.probability.cpu().numpy(),
    )


def log_shard(report: ShardReport) -> None:
    """One line per shard."""
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
