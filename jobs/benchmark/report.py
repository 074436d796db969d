"""What `promptsg bench` finds out: the speed of each stage and of the whole, and what a dataset will take."""

from __future__ import annotations

import math
from dataclasses import dataclass

_HOURS_EACH = 4.0  # of an array element: short enough to be scheduled soon, long beside loading the model
_SPARE = 1.25  # more than the estimate, for uneven shards and busy file systems
_DECODER_BYTES = 512 * 2**20  # of a decoding process: torch, and the images that it works on


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
    """What a dataset takes: hours of one worker in all, array elements and the hours of each, bytes of output.

    `host_bytes` is the memory to request for an element with one worker, decoding processes included.
    """

    images: int
    worker_hours: float
    array_elements: int
    hours_each: float
    output_bytes: int
    host_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """The speed of this machine with a checkpoint and shards.

    `load` is the machine's average load before, and `cores` those that this process may use. `images_read` is the
    number of images that were measured with. `images_known` says that the number of images that the estimate is for is
    not an estimate itself.
    `batch_size` is the best one of `tried`, and the rates are measured with it. `peak_bytes` is its peak memory.
    `sweep_stopped` says, where the memory was the reason, why no larger size was tried.
    """

    device: str
    precision: str
    threads: int
    load: float
    maps: tuple[str, ...]
    images_read: int
    images_known: bool
    cores: int
    batch_size: int
    tried: tuple[TriedBatch, ...]
    sweep_stopped: str | None
    rates: StageRates
    peak_bytes: int | None
    estimate: Estimate


def memory_to_request(resident: int | None, workers: int) -> int | None:
    """Bytes for a worker that had `resident` bytes at most, and its decoding processes; whole GiB, a quarter to spare.

    None where the system does not tell.
    """
    if resident is None:
        return None
    return math.ceil(_SPARE * (resident + workers * _DECODER_BYTES) / 2**30) * 2**30


def estimate(images: int, rate: float, bytes_each: int, shards: int, host_bytes: int | None = None) -> Estimate:
    """What so many images take at `rate` images per second and worker, with a quarter to spare.

    There are no more array elements than shards. `host_bytes` is passed on.
    """
    hours = images / rate / 3600
    elements = min(shards, max(1, math.ceil(hours * _SPARE / _HOURS_EACH)))
    return Estimate(
        images=images,
        worker_hours=hours,
        array_elements=elements,
        hours_each=hours * _SPARE / elements,
        output_bytes=images * bytes_each,
        host_bytes=host_bytes,
    )
