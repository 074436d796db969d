"""What the processes of a reader do: one reads the shards, the others decode the images."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from typing import NoReturn

import torch
import torch.multiprocessing  # registers how tensors travel between processes: through shared memory
from torch import Tensor

from jobs.arrays import UInt8Array
from jobs.processes import Surroundings, start_worker
from jobs.shards.columns import SampleColumns
from jobs.shards.decoding import Decoding, record_outcomes
from jobs.shards.reading.batches import RawBatch, SamplesLeft, ShardEnd, cut
from jobs.shards.urls import Shard


@dataclass(frozen=True)
class Task:
    """A batch to be decoded into a slot. `number` counts batches and ends of shards in the order of reading."""

    number: int
    slot: int
    batch: RawBatch


@dataclass(frozen=True)
class HandedOn:
    """The reading process has handed on the batch of this number to be decoded."""

    number: int


@dataclass(frozen=True)
class Ended:
    """A shard is over; None: there is no shard any more."""

    number: int
    end: ShardEnd | None


@dataclass(frozen=True)
class Done:
    """A batch is decoded: `count` images lie in the slot or, where there is no ring, are in `pixels`."""

    number: int
    slot: int
    shard: Shard
    samples: SampleColumns
    count: int
    seconds: float
    pixels: UInt8Array | None


def read_shards(
    surroundings: Surroundings,
    shards: Connection,
    slots: Connection,
    tasks: SimpleQueue[Task],
    told: Connection,
    size: int,
    limit: int | None,
) -> None:
    """Asks for one shard after another, and hands on its batches of `size` samples as slots come free.

    It ends after `limit` samples. Commands and credentials of shards depend on the `surroundings` of whoever reads.
    """
    start_worker()
    surroundings.take_over()
    signal.signal(signal.SIGTERM, _leave)
    number, wanted = 0, SamplesLeft(limit)
    while not wanted.is_used_up:
        shards.send(None)
        shard: Shard | None = shards.recv()
        if shard is None:
            break
        for item in cut(shard, size, wanted):
            if isinstance(item, ShardEnd):
                told.send(Ended(number, item))
            else:
                slot: int = slots.recv()
                told.send(HandedOn(number))
                tasks.put(Task(number, slot, item))
            number += 1
    told.send(Ended(number, None))
    while True:  # until the reader closes
        slots.recv()


def decode_tasks(tasks: SimpleQueue[Task], told: Connection, how: Decoding, ring: Tensor | None) -> None:
    """Decodes one batch after another into its slot of `ring`, or without a ring to be sent."""
    start_worker()
    torch.set_num_threads(1)
    while True:
        told.send(_decoded(tasks.get(), how, ring))


def _decoded(task: Task, how: Decoding, ring: Tensor | None) -> Done:
    batch = task.batch
    decoded = how.decode(batch.images, None if ring is None else ring[task.slot])
    record_outcomes(batch.samples, decoded.outcomes)
    pixels = decoded.images.numpy() if ring is None else None
    count, seconds = len(decoded.images), decoded.seconds
    return Done(task.number, task.slot, batch.shard, batch.samples, count, seconds, pixels)


def _leave(*_: object) -> NoReturn:
    """Ends what is being read, so that a `pipe:` command is stopped."""
    sys.exit(1)
