"""Measures how fast this machine mines shards with a checkpoint, and estimates what a dataset takes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.benchmark.job import rate_of_writing, speed_of_job
from jobs.benchmark.model_speed import rate_of_model, rates_of_parts, try_batch_sizes
from jobs.benchmark.report import BenchReport, StageRates, TriedBatch, estimate, memory_to_request
from jobs.benchmark.samples import DecodedImages, ReadImages, decode_images, read_images, repeated
from jobs.benchmark.timing import most_resident
from jobs.mining.camera_rows.options import CameraOptions
from jobs.mining.config import MineConfig
from jobs.mining.request import refuse_wrong_mining
from jobs.processes import available_cores
from jobs.progress import loading_torch
from jobs.shards.urls import Shard, expand_shards

if TYPE_CHECKING:
    from jobs.mining.model import LoadedModel

LIMIT = 512
SECONDS = 1.5
_LEAST_BATCHES = 4
_JOB_PARTS = 10  # the whole job takes so many times the seconds of another part


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What to measure.

    `mining` says what is mined. The temporary runs are written below its `output`, and removed. At most `limit` images
    are read. Each part takes about `seconds`, and the whole job ten times that. `images` is the size of the dataset to
    estimate for, by default that of the shards.
    """

    mining: MineConfig
    limit: int = LIMIT
    seconds: float = SECONDS
    images: int | None = None


def bench(config: BenchConfig) -> BenchReport:
    """Loads the model and measures every stage. Raises UserError if no image of the shards decodes."""
    refuse_wrong_mining(config.mining)
    shards = expand_shards(config.mining.shards)
    with loading_torch():
        import torch

        from jobs.mining.family_maps import with_maps
        from jobs.mining.model import load
        from jobs.shards.decoding import default_workers

    config = replace(config, mining=with_maps(config.mining))
    any_camera = config.mining.cameras == CameraOptions()  # the time does not depend on it
    loaded = load(config.mining, (), shards, any_camera=any_camera)
    average_load = os.getloadavg()[0]
    read = read_images(shards, config.limit)
    decoded = decode_images(read.images, loaded.model.config.image_size, config.mining)
    sweep = try_batch_sizes(loaded, decoded.pixels, config.mining, config.seconds)
    best = max(sweep.tried, key=lambda one: one.images_per_second)
    rates, bytes_per_image = _measure(config, loaded, shards, read, decoded, best)
    images = read.total if config.images is None else config.images
    workers = default_workers(loaded.device.type) if config.mining.workers is None else config.mining.workers
    host_bytes = memory_to_request(most_resident(), workers)
    dataset_shards = max(1, round(len(shards) * images / read.total))
    return BenchReport(
        device=torch.cuda.get_device_name(loaded.device) if loaded.device.type == "cuda" else str(loaded.device),
        precision=str(loaded.resolved.precision),
        threads=torch.get_num_threads(),
        load=average_load,
        maps=config.mining.maps,
        images_read=len(read.images),
        images_known=config.images is not None or read.total == len(read.images),
        cores=available_cores(),
        batch_size=best.batch_size,
        tried=sweep.tried,
        sweep_stopped=sweep.stopped,
        rates=rates,
        peak_bytes=best.peak_bytes,
        estimate=estimate(images, rates.whole_job, bytes_per_image, dataset_shards, host_bytes),
    )


def _measure(
    config: BenchConfig,
    loaded: LoadedModel,
    shards: Sequence[Shard],
    read: ReadImages,
    decoded: DecodedImages,
    best: TriedBatch,
) -> tuple[StageRates, int]:
    """The rates with the best batch size, and the bytes that an image takes on disk."""
    chosen = config.mining.model_copy(update={"batch_size": best.batch_size})
    batch = repeated(decoded.pixels, best.batch_size)
    batches = max(_LEAST_BATCHES, math.ceil(_JOB_PARTS * config.seconds * best.images_per_second / best.batch_size))
    parts = rates_of_parts(loaded, batch, chosen, config.seconds)
    writing = rate_of_writing(chosen, loaded, shards, batch, batches)
    # The best of several sizes is partly luck, and a machine's speed drifts: the model is timed again around the job.
    before = rate_of_model(loaded, batch, chosen, config.seconds)
    job = speed_of_job(chosen, loaded, shards, read.images, batches)
    after = rate_of_model(loaded, batch, chosen, config.seconds)
    rates = StageRates(
        reading=len(read.images) / read.seconds,
        decoding=len(read.images) / decoded.seconds,
        image_tower=parts.image_tower,
        text_tower=parts.text_tower,
        head_and_maps=parts.head_and_maps,
        writing=writing,
        model=(before + after) / 2,
        whole_job=job.images_per_second,
    )
    return rates, job.bytes_per_image
