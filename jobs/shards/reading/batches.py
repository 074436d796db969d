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
    """

    shard: Shard
    error: ShardError | None
    seconds: float
    bytes_read: int
    contents: ShardContents = field(default_factory=ShardContents)
    whole: ShardBytes | None = None


def cut(shard: Shard, batch_size: int) -> Iterator[RawBatch | ShardEnd]:
    """The batches of a shard, then its end, whose `seconds` are those spent reading here.

    Whatever reading the shard raises is in its end.
    """
    seconds, error, contents = 0.0, None, ShardContents()
    with TarReader(shard) as tar:
        samples = read_samples(tar, shard.name, contents)
        while True:
            started = time.perf_counter()
            try:
                rows = _take(samples, batch_size)
            except ShardError as broken:
                rows, error = [], broken
            except Exception as unknown:  # one shard must not end the job, whatever it holds
                logger.debug("%s: reading failed", shard.name, exc_info=True)
                rows, error = [], ShardError(f"{shard.name}: reading {shard.url} failed: {_described(unknown)}")
            seconds += time.perf_counter() - started
            if not rows:
                break
            images = [data for _, data in rows if data is not None]
            yield RawBatch(shard, SampleColumns.of(sample for sample, _ in rows), images)
        yield ShardEnd(shard, error, seconds, tar.bytes_read, contents, tar.whole)


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
