"""The reader: streams tar shards, decodes in worker processes, and yields uint8 batches in tar order.

One process reads the tars, others decode (jobs/shards/reading). Reading runs ahead into the next shard, so that a model
never waits at a shard's end.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from jobs.shards.columns import SampleColumns
from jobs.shards.decoding import Decoding
from jobs.shards.reading.batches import ShardEnd
from jobs.shards.reading.in_processes import InProcesses
from jobs.shards.reading.in_thread import DecodedSamples, InThread
from jobs.shards.shared_memory import can_take, has_room
from jobs.shards.urls import Shard
from promptsg_core.images import DEFAULT_MAX_PIXELS

__all__ = ["Batch", "Lender", "ShardEnd", "ShardReader"]

_WITH_THE_CONSUMER = 3  # slots: one that the model works on, one that is copied to the device, one that is given back


class Lender(Protocol):
    """Whoever owns the slots of a ring."""

    def give_back(self, slot: int) -> None:
        """Takes a slot back, to be written again."""


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of one shard; `images` (n, 3, H, W) uint8 RGB are those with status ok, in their order.

    With a `slot`, the images lie in that slot of the reader's ring of shared buffers: they are `ring[slot, :n]`.
    Whoever took the batch calls `release` once, from any thread, when nothing reads the images any more, a copy to a
    device included: the next pixels are written there. Without a slot the images are the batch's own, and `release`
    does nothing.
    """

    shard: Shard
    samples: SampleColumns
    images: Tensor
    slot: int | None = None
    lender: Lender | None = None

    def release(self) -> None:
        """Gives the slot back, if there is one."""
        if self.lender is not None and self.slot is not None:
            self.lender.give_back(self.slot)


class ShardReader:
    """Reads shards into batches; a context manager that stops its thread and processes on the way out.

    `workers` 0 decodes in the reading thread. `ranks_on_node` readers like this one share the node's memory. After
    `limit` samples, over all shards, the reading ends: the shard that it ends in is then `only_first`.

    `ring` (slots, batch_size, 3, H, W) uint8 is the shared memory that decoding processes write, made once on entering;
    None without processes, and where shared memory is too small. With `lend` the batches lie in it and must be given
    back by `Batch.release`; else each batch is a copy.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        batch_size: int,
        workers: int,
        interpolation: str = "bilinear",
        max_image_pixels: int = DEFAULT_MAX_PIXELS,
        ranks_on_node: int = 1,
        lend: bool = False,
        limit: int | None = None,
    ) -> None:
        self._how = Decoding(image_size=image_size, interpolation=interpolation, max_image_pixels=max_image_pixels)
        self._batch_size = batch_size
        self._workers = workers
        self._ahead = 2 + workers
        self._ranks_on_node = ranks_on_node
        self._lend, self._limit = lend, limit
        self._source: InThread | InProcesses | None = None

    @property
    def ring(self) -> Tensor | None:
        """The shared memory that batches lie in, from entering on."""
        return None if self._source is None else self._source.ring

    def __enter__(self) -> ShardReader:
        if not self._workers:
            self._source = InThread(self._how, self._batch_size, self._ahead, self._limit)
        else:
            slots = self._ahead + _WITH_THE_CONSUMER
            ring = self._made_ring(slots)
            self._source = InProcesses(self._how, self._batch_size, self._workers, slots, ring, self._limit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._source is not None:
            self._source.close()

    def read(self, shards: Iterable[Shard], stop: Callable[[], bool] = lambda: False) -> Iterator[Batch | ShardEnd]:
        """Batches of each shard in tar order, then its ShardEnd, shard by shard in the order drawn from `shards`.

        A thread of this process draws them. To be called once. While nothing comes, `stop` is called once a second, and
        True ends the reading: a read may hang for hours, and a decoding process too. A shard that cannot be read on,
        for whatever reason, ends with its error and the next one follows. Raises DecoderDiedError if a process dies,
        UserError if one hangs while it decodes, and what drawing the next shard raises.
        """
        assert self._source is not None, "a ShardReader is a context manager"
        decoding = 0.0
        for item in self._source.items(shards, stop):
            if isinstance(item, ShardEnd):
                yield replace(item, seconds=item.seconds + decoding)
                decoding = 0.0
            else:
                decoding += item.seconds
                yield self._batch_of(item, self._source)

    def _made_ring(self, slots: int) -> Tensor | None:
        """Shared memory for so many batches; None where there is no room for them."""
        shape = (slots, self._batch_size, 3, *self._how.image_size)
        roomy = has_room(shape[1:], slots, self._workers, self._ranks_on_node)
        if roomy and can_take(math.prod(shape)):
            with contextlib.suppress(RuntimeError, OSError):  # other programs have filled it just now
                ring = torch.empty(shape, dtype=torch.uint8)
                return ring.share_memory_()  # type: ignore[no-untyped-call, no-any-return]
        return None

    def _batch_of(self, item: DecodedSamples, lender: Lender) -> Batch:
        if item.slot is None:
            return Batch(item.shard, item.samples, item.images)
        if self._lend:
            return Batch(item.shard, item.samples, item.images, item.slot, lender)
        batch = Batch(item.shard, item.samples, item.images.clone())
        lender.give_back(item.slot)
        return batch
