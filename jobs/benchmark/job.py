"""Mining as a whole, and its writing alone, timed on a temporary run: from the tar to the published shard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.benchmark.model_speed import SHARD, run_model
from jobs.benchmark.samples import pack
from jobs.errors import UserError
from jobs.leftovers import scratch_folder
from jobs.mining.config import MineConfig
from jobs.mining.request import request_of
from jobs.progress import told
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, create_manifest
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import Sample
from jobs.shards.urls import Shard, expand_shards

if TYPE_CHECKING:
    import torch

    from jobs.mining.model import LoadedModel
    from jobs.runs.events import ShardReport


@dataclass(frozen=True, kw_only=True)
class JobSpeed:
    """Images per second of one worker, and the bytes that an image takes on disk."""

    images_per_second: float
    bytes_per_image: int


@told("measuring the writing")
def rate_of_writing(
    config: MineConfig, loaded: LoadedModel, shards: Sequence[Shard], images: torch.Tensor, batches: int
) -> float:
    """Images per second from results in memory to a published shard.

    The results are those of uint8 images (B, 3, H, W), `batches` times.
    """
    from jobs.runs.writer import Writer

    size, results = len(images), run_model(loaded, images, config)
    reports: list[ShardReport] = []
    with scratch_folder(config.output) as folder:
        layout = RunLayout(folder)
        manifest = _start_run(layout, config, loaded, shards)
        started = time.perf_counter()
        with Writer(layout, manifest, 1.0, reports.append) as writer:
            writer.begin(SHARD.name)
            for batch in range(batches):
                rows = range(batch * size, (batch + 1) * size)
                writer.add(SampleColumns.of(Sample(key=str(row), tar_index=row) for row in rows), results)
            writer.end()
        seconds = time.perf_counter() - started
    _refuse_failure(reports)
    return batches * size / seconds


class _Clock:
    """In the place of a progress bar: notes when images are done."""

    def __init__(self) -> None:
        self.images = 0
        self.first_batch = 0
        self.first_time = 0.0

    def advance(self, images: int, position: int | None) -> None:
        if not self.images:
            self.first_batch, self.first_time = images, time.perf_counter()
        self.images += images

    def finish_shard(self, size: int | None) -> None:
        pass

    def rate(self, ended: float) -> float:
        """Images per second after the end of the first batch."""
        return (self.images - self.first_batch) / (ended - self.first_time)


@told("measuring the whole job")
def speed_of_job(
    config: MineConfig, loaded: LoadedModel, shards: Sequence[Shard], images: Sequence[bytes], batches: int
) -> JobSpeed:
    """The speed of a worker, from the tar to the published shard, over `batches` batches of the images.

    It is timed from the end of the first batch: the start of the decoding processes does not matter in a long job.
    """
    from jobs.mining.worker import Worker
    from jobs.shards.decoding import default_workers

    clock = _Clock()
    workers = default_workers(loaded.device.type) if config.workers is None else config.workers
    with scratch_folder(config.output) as folder:
        layout, tar = RunLayout(folder / "run"), folder / f"{SHARD.name}.tar"
        captions = loaded.model.reads_captions(config.target, config.maps)
        pack(tar, images, (batches + 1) * config.images_at_once, captions=captions)
        manifest = _start_run(layout, config, loaded, shards)
        there = config.model_copy(update={"output": layout.root, "max_failed_fraction": 1.0})
        worker = Worker(loaded.model, there, manifest, loaded.targets, loaded.cameras, progress=clock)
        summary = worker.run(expand_shards([str(tar)]), workers)
        ended = time.perf_counter()
        _refuse_failure(summary.failed_shards)
        bytes_per_image = _size_of(layout) // max(1, summary.images)
    return JobSpeed(images_per_second=clock.rate(ended), bytes_per_image=bytes_per_image)


def _start_run(layout: RunLayout, config: MineConfig, loaded: LoadedModel, shards: Sequence[Shard]) -> Manifest:
    return create_manifest(layout, request_of(config, shards), loaded.resolved)


def _size_of(layout: RunLayout) -> int:
    """Bytes of all maps and metadata of a run."""
    return sum(path.stat().st_size for folder in (layout.maps, layout.metadata) for path in folder.iterdir())


def _refuse_failure(reports: Sequence[ShardReport]) -> None:
    """Raises UserError if a shard of the measurement failed."""
    for report in reports:
        if report.error is not None:
            raise UserError(f"writing a run for the measurement failed: {report.error}")
