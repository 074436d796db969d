"""What `promptsg bench` finds out: the speed of each stage and of the whole, and what a dataset will take."""

from __future__ import annotations

import math
from dataclasses import dataclass

_HOURS_EACH = 4.0  # of an array element: short enough to be scheduled soon, long beside loading the model
_SPARE = 1.25  # more than the estimated time, for uneven shards and busy file systems


@dataclass(frozen=True, kw_only=True)
class TriedBatch:
    """The model's images per second at a batch size, and the peak memory of the process (or the GPU) in bytes."""

    batch_size: int
    images_per_second: float
    peak_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class StageRates:
    """Images per second of each stage alone, and of the whole job, in which all stages overlap.

    `decoding` is that of one process. `text_tower` is None for a model that reads no texts. `model` has all parts of
    the model, in the pass that the job uses (on a GPU a CUDA graph), and the copies to and from the device. It is timed
    before and after the whole job, and is the mean of both.
    """

    reading: float
    decoding: float
    image_tower: float
    text_tower: float | None
    head_and_maps: float
    writing: float
    model: float
    whole_job: float

    def by_name(self) -> dict[str, float]:
        """The rates under the names that people read, in the order of the stages."""
        rates = {
            "reading": self.reading,
            "decoding, one process": self.decoding,
            "image tower": self.image_tower,
            "text tower": self.text_tower,
            "head and maps": self.head_and_maps,
            "writing": self.writing,
            "model": self.model,
            "whole job": self.whole_job,
        }
        return {name: rate for name, rate in rates.items() if rate is not None}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a dataset takes: hours of one worker in all, array elements and the hours of each, bytes of output."""

    images: int
    worker_hours: float
    array_elements: int
    hours_each: float
    output_bytes: int


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """The speed of this machine with a checkpoint and shards.

    `load` is the machine's average load before. `images_read` is the number of images that were measured with.
    `batch_size` is the best one of `tried`, and the rates are measured with it. `peak_bytes` is its peak memory.
    `sweep_stopped` says, where the memory was the reason, why no larger size was tried.
    """

    device: str
    precision: str
    threads: int
    load: float
    maps: tuple[str, ...]
    images_read: int
    batch_size: int
    tried: tuple[TriedBatch, ...]
    sweep_stopped: str | None
    rates: StageRates
    peak_bytes: int | None
    estimate: Estimate


def estimate(images: int, rate: float, bytes_each: int, shards: int) -> Estimate:
    """What so many images take at `rate` images per second and worker, with a quarter to spare.

    There are no more array elements than shards.
    """
    hours = images / rate / 3600
    elements = min(shards, max(1, math.ceil(hours * _SPARE / _HOURS_EACH)))
    return Estimate(
        images=images,
        worker_hours=hours,
        array_elements=elements,
        hours_each=hours * _SPARE / elements,
        output_bytes=images * bytes_each,
    )
