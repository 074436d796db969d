"""The reader: streams tar shards, decodes in worker processes, and yields uint8 batches in tar order.

A thread reads the tars and hands batches of image bytes to the workers. The results come back in the order in which
they were handed out. Reading runs ahead into the next shard, so that a model never waits at a shard's end.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from types import TracebackType

from torch import Tensor

from jobs.errors import ShardError
from jobs.phrases import one_line
from jobs.shards.decoding import Decoded, Decoder, Decoding, is_decoded, result_of
from jobs.shards.groups import ShardContents
from jobs.shards.limits import MAX_BATCH_BYTES
from jobs.shards.samples import Sample, read_samples
from jobs.shards.shard_bytes import ShardBytes
from jobs.shards.shared_memory import has_room
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard
from promptsg_core.images import DEFAULT_MAX_PIXELS

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 5.0  # for a read that hangs; its thread ends with the process
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of one shard; `images` (n, 3, H, W) uint8 RGB are those with status ok, in their order."""

    shard: Shard
    samples: list[Sample]
    images: Tensor


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


@dataclass(frozen=True)
class _Pending:
    """A batch whose images are being decoded; `good` are the samples that they belong to."""

    shard: Shard
    samples: list[Sample]
    good: list[Sample]
    decoded: Decoded


@dataclass(frozen=True)
class _Read:
    """A shard was read to its end, or as far as possible."""

    end: ShardEnd


@dataclass(frozen=True)
class _Stopped:
    """The reading thread has nothing more to read, or cannot go on because of `error`."""

    error: BaseException | None


class ShardReader:
    """Reads shards into batches; a context manager that stops its thread and processes on the way out.

    `workers` 0 decodes in the reading thread. At most `ahead` batches wait in memory. `ranks_on_node` readers like this
    one share the node's memory.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        batch_size: int,
        workers: int,
        interpolation: str = "bilinear",
        max_image_pixels: int = DEFAULT_MAX_PIXELS,
        ahead: int | None = None,
        ranks_on_node: int = 1,
    ) -> None:
        self._how = Decoding(image_size=image_size, interpolation=interpolation, max_image_pixels=max_image_pixels)
        self._batch_size = batch_size
        self._workers = workers
        self._ranks_on_node = ranks_on_node
        self._queue: queue.Queue[_Pending | _Read | _Stopped] = queue.Queue(2 + workers if ahead is None else ahead)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._decoder: Decoder | None = None

    def __enter__(self) -> ShardReader:
        self._decoder = Decoder(self._how, self._workers, shared=self._workers > 0 and self._has_room())
        return self

    def _has_room(self) -> bool:
        """Whether shared memory holds what waits in the queue, and the batches before and behind it."""
        batch = (self._batch_size, 3, *self._how.image_size)
        return has_room(batch, self._queue.maxsize + 3, self._workers, self._ranks_on_node)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            patience = time.monotonic() + _PATIENCE_SECONDS
            while self._thread.is_alive() and time.monotonic() < patience:
                with contextlib.suppress(queue.Empty):  # the thread may be waiting for room in the queue
                    self._queue.get_nowait()
                self._thread.join(timeout=0.02)
        if self._decoder is not None:
            self._decoder.close()

    def read(self, shards: Iterable[Shard], stop: Callable[[], bool] = lambda: False) -> Iterator[Batch | ShardEnd]:
        """Batches of each shard in tar order, then its ShardEnd, shard by shard in the order drawn from `shards`.

        While nothing comes, `stop` is called once a second, and True ends the reading: a read may hang for hours, and a
        decoding process too. A shard that cannot be read on, for whatever reason, ends with its error and the next one
        follows. Raises DecoderDiedError if a decoding process dies, UserError if one hangs, and what drawing the next
        shard raises.
        """
        assert self._decoder is not None, "a ShardReader is a context manager"
        self._thread = threading.Thread(
            target=self._read_all, args=(shards, self._decoder), name="promptsg-reader", daemon=True
        )
        self._thread.start()
        decoding = 0.0
        while not isinstance(item := self._next(stop), _Stopped):
            if isinstance(item, _Read):
                yield replace(item.end, seconds=item.end.seconds + decoding)
                decoding = 0.0
            else:
                if not is_decoded(item.decoded, stop):
                    return
                batch = result_of(item.decoded)
                decoding += batch.seconds
                for sample, outcome in zip(item.good, batch.outcomes, strict=True):
                    outcome.record_in(sample)
                yield Batch(item.shard, item.samples, batch.images)
        if item.error is not None:
            raise item.error

    def _next(self, stop: Callable[[], bool]) -> _Pending | _Read | _Stopped:
        while True:
            try:
                return self._queue.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if stop():
                    return _Stopped(None)

    def _read_all(self, shards: Iterable[Shard], decoder: Decoder) -> None:
        """The reading thread. All that it has to say goes through the queue, its own errors included."""
        try:
            for shard in shards:
                self._read_shard(shard, decoder)
                if self._stop.is_set():
                    return
            self._queue.put(_Stopped(None))
        except BaseException as error:  # noqa: BLE001 -- raised again by the consumer
            self._queue.put(_Stopped(error))

    def _read_shard(self, shard: Shard, decoder: Decoder) -> None:
        """Cuts one shard into batches. Time spent waiting for a place in the queue is not counted as reading."""
        seconds, error, contents = 0.0, None, ShardContents()
        with TarReader(shard) as tar:
            samples = read_samples(tar, shard.name, contents)
            while not self._stop.is_set():
                started = time.perf_counter()
                try:
                    rows = _take(samples, self._batch_size)
                except ShardError as broken:
                    rows, error = [], broken
                except Exception as unknown:  # one shard must not end the job, whatever it holds
                    logger.debug("%s: reading failed", shard.name, exc_info=True)
                    rows, error = [], ShardError(f"{shard.name}: reading {shard.url} failed: {_described(unknown)}")
                seconds += time.perf_counter() - started
                if not rows:
                    break
                self._queue.put(_submit(shard, rows, decoder))
            self._queue.put(_Read(ShardEnd(shard, error, seconds, tar.bytes_read, contents, tar.whole)))


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


def _submit(shard: Shard, rows: list[tuple[Sample, bytes | None]], decoder: Decoder) -> _Pending:
    good = [(sample, data) for sample, data in rows if data is not None]
    decoded = decoder.submit([data for _, data in good])
    return _Pending(shard, [sample for sample, _ in rows], [sample for sample, _ in good], decoded)
