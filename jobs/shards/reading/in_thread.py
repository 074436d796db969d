"""Reading and decoding in a thread of this process, for `--workers 0`."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from jobs.shards.columns import SampleColumns
from jobs.shards.decoding import Decoding, decode_batch, record_outcomes
from jobs.shards.reading.batches import RawBatch, SamplesLeft, ShardEnd, cut
from jobs.shards.urls import Shard

PATIENCE_SECONDS = 5.0  # for a read that hangs; its thread ends with the process
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class DecodedSamples:
    """A batch whose images are decoded: `images` (n, 3, H, W), in the reader's ring if there is a `slot`.

    `seconds` is the time that decoding took.
    """

    shard: Shard
    samples: SampleColumns
    images: Tensor
    seconds: float
    slot: int | None = None


@dataclass(frozen=True)
class _Stopped:
    """The thread has nothing more to read, or cannot go on because of `error`."""

    error: BaseException | None


class InThread:
    """Reads shards up to `limit` samples and decodes their images; at most `ahead` batches wait in memory."""

    ring: Tensor | None = None

    def __init__(self, how: Decoding, batch_size: int, ahead: int, limit: int | None = None) -> None:
        self._how, self._batch_size = how, batch_size
        self._wanted = SamplesLeft(limit)
        self._queue: queue.Queue[DecodedSamples | ShardEnd | _Stopped] = queue.Queue(ahead)
        self._stop = threading.Event()
        self.thread: threading.Thread | None = None

    def items(self, shards: Iterable[Shard], stop: Callable[[], bool]) -> Iterator[DecodedSamples | ShardEnd]:
        """What ShardReader.read yields, before it is made a Batch."""
        self.thread = threading.Thread(target=self._read, args=(shards,), name="promptsg-reader", daemon=True)
        self.thread.start()
        while True:
            try:
                item = self._queue.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if stop():
                    return
                continue
            if not isinstance(item, _Stopped):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                return

    def give_back(self, slot: int) -> None:
        """There are no slots here."""

    def close(self) -> None:
        """Ends the thread, or leaves it behind where a read hangs."""
        self._stop.set()
        patience = time.monotonic() + PATIENCE_SECONDS
        while self.thread is not None and self.thread.is_alive() and time.monotonic() < patience:
            with contextlib.suppress(queue.Empty):  # the thread may be waiting for room in the queue
                self._queue.get_nowait()
            self.thread.join(timeout=0.02)

    def _read(self, shards: Iterable[Shard]) -> None:
        """The thread. All that it has to say goes through the queue, its own errors included."""
        try:
            for shard in shards:
                for item in cut(shard, self._batch_size, self._wanted):
                    if self._stop.is_set():
                        return
                    self._queue.put(self._decoded(item) if isinstance(item, RawBatch) else item)
                if self._wanted.is_used_up:
                    break
            self._queue.put(_Stopped(None))
        except BaseException as error:  # noqa: BLE001 -- raised again by the consumer
            self._queue.put(_Stopped(error))

    def _decoded(self, batch: RawBatch) -> DecodedSamples:
        decoded = decode_batch(batch.images, self._how)
        record_outcomes(batch.samples, decoded.outcomes)
        return DecodedSamples(batch.shard, batch.samples, decoded.images, decoded.seconds)
