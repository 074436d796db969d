"""Reading in one process and decoding in others: this process only takes what they have done, in the order of the tars.

The reading process asks for shards and hands batches of bytes to the decoding processes through one queue. Each batch
takes a slot first, so that a bounded number of them is on its way.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch
from torch import Tensor

from jobs.errors import UserError
from jobs.phrases import one_line
from jobs.processes import Surroundings, end_processes
from jobs.shards.decoding import DecoderDiedError, Decoding
from jobs.shards.reading.batches import ShardEnd
from jobs.shards.reading.children import Done, Ended, HandedOn, decode_tasks, read_shards
from jobs.shards.reading.in_thread import LOOK_SECONDS, PATIENCE_SECONDS, DecodedSamples
from jobs.shards.urls import Shard

logger = logging.getLogger(__name__)

_SLOW_SECONDS, _STALLED_SECONDS = 60.0, 600.0
_DIED = (
    "a decoding process died, perhaps killed for want of memory; try fewer --workers or a smaller --batch-size, or ask "
    "for more memory"
)
_READER_DIED = (
    "the process that reads the shards died, perhaps killed for want of memory; try a smaller --batch-size, or ask for "
    "more memory"
)


class InProcesses:
    """One reading and `workers` decoding processes, with `slots` batches on their way at most.

    `ring` (slots, batch_size, 3, H, W) is shared memory for the pixels; without one they come through pipes. Reading
    ends after `limit` samples. Raises UserError where processes cannot be started at all.
    """

    def __init__(
        self,
        how: Decoding,
        batch_size: int,
        workers: int,
        slots: int,
        ring: Tensor | None,
        limit: int | None = None,
    ) -> None:
        self.ring = ring
        self.thread: threading.Thread | None = None
        self.reading: BaseProcess | None = None
        self.decoders: list[BaseProcess] = []
        self._come: dict[int, Done | Ended] = {}
        self._handed_on = -1  # the last number that is to be decoded
        self._drawing_failed: BaseException | None = None
        self._selector = selectors.DefaultSelector()
        self._connections: list[Connection] = []
        context = get_context("forkserver")
        context.set_forkserver_preload([read_shards.__module__])
        try:
            # Kept: its locks are files in /dev/shm, which go with it.
            self._tasks = tasks = context.SimpleQueue()
            self._shards, shards = context.Pipe()
            slots_out, self._slots = context.Pipe(duplex=False)
            told, telling = context.Pipe(duplex=False)
            reading = context.Process(
                target=read_shards,
                args=(Surroundings.of_this_process(), shards, slots_out, tasks, telling, batch_size, limit),
                daemon=True,
            )
            self._start(reading, told, (shards, slots_out, telling), _READER_DIED)
            self.reading = reading
            for _ in range(workers):
                told, telling = context.Pipe(duplex=False)
                decoder = context.Process(target=decode_tasks, args=(tasks, telling, how, ring), daemon=True)
                self._start(decoder, told, (telling,), _DIED)
                self.decoders.append(decoder)
        except OSError as error:
            self.close()
            raise UserError(
                f"decoding processes cannot be started ({one_line(error)}): they need a writable /dev/shm with a "
                "little room; mount one, or give --workers 0 to decode without them"
            ) from error
        for slot in range(slots):
            self.give_back(slot)

    @property
    def processes(self) -> list[BaseProcess]:
        """All processes that were started."""
        return [*([] if self.reading is None else [self.reading]), *self.decoders]

    def items(self, shards: Iterable[Shard], stop: Callable[[], bool]) -> Iterator[DecodedSamples | ShardEnd]:
        """What ShardReader.read yields, before it is made a Batch."""
        self.thread = threading.Thread(target=self._draw, args=(shards,), name="promptsg-draw", daemon=True)
        self.thread.start()
        number = 0
        while (item := self._item(number, stop)) is not None:
            number += 1
            yield item
        if self._drawing_failed is not None:
            raise self._drawing_failed

    def give_back(self, slot: int) -> None:
        """Lets the reading process fill a slot again. May be called from any thread."""
        with contextlib.suppress(OSError):  # it has died, or the reader is closed
            self._slots.send(slot)

    def close(self) -> None:
        """Ends the processes: the reading one by asking it, and by force where it does not answer."""
        for decoder in self.decoders:
            decoder.kill()
        if self.reading is not None:
            self.reading.terminate()
        end_processes(self.processes)
        if self.thread is not None:
            self.thread.join(PATIENCE_SECONDS)
        self._selector.close()
        for connection in self._connections:
            connection.close()

    def _start(self, process: BaseProcess, told: Connection, given: tuple[Connection, ...], died: str) -> None:
        process.start()
        for connection in given:  # or a process that has died would never be noticed
            connection.close()
        self._connections.append(told)
        self._selector.register(told, selectors.EVENT_READ, died)

    def _draw(self, shards: Iterable[Shard]) -> None:
        """The drawing thread: hands a shard to the reading process whenever it asks for one."""
        drawn = iter(shards)
        shard: Shard | None = None
        with contextlib.suppress(OSError, EOFError):  # the reading process has ended
            while True:
                self._shards.recv()
                try:
                    shard = next(drawn, None)
                except BaseException as error:  # noqa: BLE001 -- raised again by the consumer
                    shard, self._drawing_failed = None, error
                self._shards.send(shard)
                if shard is None:
                    return

    def _item(self, number: int, stop: Callable[[], bool]) -> DecodedSamples | ShardEnd | None:
        """The item of this number, once it has come; None after the last one, and where `stop` says to stop."""
        began, warned = time.monotonic(), False
        while number not in self._come:
            if self._take():
                continue
            if stop():
                return None
            waited = time.monotonic() - began
            if number <= self._handed_on and waited > _STALLED_SECONDS:
                raise UserError(
                    f"a batch was not decoded in {_STALLED_SECONDS / 60:.0f} minutes: the decoding process hangs; run "
                    "the same command again, with a smaller --batch-size if the images are very large"
                )
            if number <= self._handed_on and waited > _SLOW_SECONDS and not warned:
                logger.warning("waiting for a decoding process that has not answered for %.0f s", waited)
                warned = True
        item = self._come.pop(number)
        return item.end if isinstance(item, Ended) else self._samples_of(item)

    def _take(self) -> bool:
        """Takes what has come, and waits a second for it. Returns whether anything came."""
        ready = self._selector.select(LOOK_SECONDS)
        for key, _ in ready:
            assert isinstance(key.fileobj, Connection)
            try:
                message = key.fileobj.recv()
            except (EOFError, OSError) as error:
                raise DecoderDiedError(key.data) from error
            if isinstance(message, HandedOn):
                self._handed_on = message.number
            else:
                self._come[message.number] = message
        return bool(ready)

    def _samples_of(self, done: Done) -> DecodedSamples:
        if self.ring is not None:
            images, slot = self.ring[done.slot, : done.count], done.slot
            return DecodedSamples(done.shard, done.samples, images, done.seconds, slot)
        assert done.pixels is not None, "pixels come through the ring or through the pipe"
        self.give_back(done.slot)
        return DecodedSamples(done.shard, done.samples, torch.from_numpy(done.pixels), done.seconds)
