"""A shard cut into batches of samples and the bytes of their images, strictly and in tar order (no torch)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from jobs.errors import ShardError
from jobs.phrases import one_line
from jobs.shards.columns import SampleColumns
from jobs.shards.groups import ShardContents
from jobs.shards.limits import MAX_BATCH_BYTES
from jobs.shards.samples import Sample, read_samples
from jobs.shards.shard_bytes import ShardBytes
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RawBatch:
    """Consecutive samples of one shard; `images` are the bytes of those with status ok, in their order."""

    shard: Shard
    samples: SampleColumns
    images: list[bytes]


@dataclass(frozen=True)
class ShardEnd:
    """A shard is over: read to its end, or broken off with `error`. `seconds` were spent reading and decoding.

    `contents` is what the shard holds. `whole` tells its bytes from any others, and is None where it broke off.
    `only_first` says that it has more samples than were to be read; `whole` then tells its file from any others.
    """

    shard: Shard
    error: ShardError | None
    seconds: float
    bytes_read: int
    contents: ShardContents = field(default_factory=ShardContents)
    whole: ShardBytes | None = None
    only_first: bool = False


class SamplesLeft:
    """How many samples are still to be read of all shards together; None means all."""

    def __init__(self, limit: int | None) -> None:
        self.left = limit

    def take(self, count: int) -> None:
        """Counts samples that were read."""
        if self.left is not None:
            self.left -= count

    def give_back(self, count: int) -> None:
        """Samples that were read are of no use, since their shard has failed: others are read instead."""
        self.take(-count)

    @property
    def is_used_up(self) -> bool:
        """Whether no shard is to be begun any more."""
        return self.left is not None and self.left <= 0


def cut(shard: Shard, batch_size: int, wanted: SamplesLeft | None = None) -> Iterator[RawBatch | ShardEnd]:
    """The batches of a shard, then its end, whose `seconds` are those spent reading here.

    It is read as far as samples are `wanted`. Whatever reading the shard raises is in its end: nothing of it is used
    then, and its samples are still wanted.
    """
    wanted = wanted or SamplesLeft(None)
    seconds, error, contents, only_first, taken = 0.0, None, ShardContents(), False, 0
    with TarReader(shard) as tar:
        samples = read_samples(tar, shard.name, contents)
        while True:
            started = time.perf_counter()
            try:
                # The sample after the last one that is wanted tells whether the shard has more.
                rows = _take(samples, batch_size if wanted.left is None else max(1, min(batch_size, wanted.left)))
                only_first = bool(rows) and wanted.is_used_up
                whole = tar.file_so_far() if only_first else tar.whole
            except ShardError as broken:
                rows, error, whole = [], broken, None
            except Exception as unknown:  # one shard must not end the job, whatever it holds
                logger.debug("%s: reading failed", shard.name, exc_info=True)
                rows, whole = [], None
                error = ShardError(f"{shard.name}: reading {shard.url} failed: {_described(unknown)}")
            seconds += time.perf_counter() - started
            if not rows or only_first:
                break
            wanted.take(len(rows))
            taken += len(rows)
            images = [data for _, data in rows if data is not None]
            yield RawBatch(shard, SampleColumns.of(sample for sample, _ in rows), images)
        if error is not None:
            wanted.give_back(taken)
        yield ShardEnd(shard, error, seconds, tar.bytes_read, contents, whole, only_first)


def _take(samples: Iterator[tuple[Sample, bytes | None]], most: int) -> list[tuple[Sample, bytes | None]]:
    """The next samples: `most`, or fewer where their images are very large."""
    rows, size = [], 0
    for sample, data in islice(samples, most):
        rows.append((sample, data))
        size += len(data or b"")
        if size > MAX_BATCH_BYTES:
            break
    return rows


def _described(error: Exception) -> str:
    """An error that was not foreseen: its type helps whoever looks for the cause."""
    return "not enough memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {one_line(error)}"
