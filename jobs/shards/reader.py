"""The reader: streams tar shards, decodes in worker processes, and yields uint8 batches in tar order.

A thread reads the tars and hands batches of image bytes to the workers; results come back in the order they were
handed out, and reading runs ahead into the next shard, so that a model never waits at a shard's end.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any

import torch
import torch.multiprocessing  # registers how tensors travel between processes: through shared memory
from torch import Tensor

from jobs.errors import ShardError, UserError
from jobs.shards.samples import IMAGE_CORRUPT, IMAGE_TOO_LARGE, Sample, read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard
from promptsg_core.errors import ImageError
from promptsg_core.images import DEFAULT_MAX_PIXELS, ImageTooLargeError
from promptsg_core.preprocess import decode_image, resize_image

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 5.0  # for a read that hangs; its thread ends with the process
_MOST_WORKERS = 8  # past this the decoders outrun any model that the maps are taken from


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of one shard; `images` (n, 3, H, W) uint8 RGB are those with status ok, in their order."""

    shard: Shard
    samples: list[Sample]
    images: Tensor


@dataclass(frozen=True)
class ShardEnd:
    """A shard is over: read to its end, or broken off with `error`. `seconds` were spent reading and decoding."""

    shard: Shard
    error: ShardError | None
    seconds: float
    bytes_read: int


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How images are decoded: target size (height, width), interpolation, and the limit on pixels."""

    image_size: tuple[int, int]
    interpolation: str = "bilinear"
    max_image_pixels: int = DEFAULT_MAX_PIXELS


# What a worker says of one image: (width, height) of the upright original, or (status, error).
Outcome = tuple[int, int] | tuple[str, str]


def decode_batch(images: Sequence[bytes], how: Decoding) -> tuple[Tensor, list[Outcome], float]:
    """Image bytes -> uint8 (n, 3, H, W) of those that decode, an Outcome for each image, and the seconds it took."""
    started = time.perf_counter()
    pixels, outcomes = [], []
    for data in images:
        outcome: Outcome
        try:
            image = decode_image(data, max_pixels=how.max_image_pixels)
            pixels.append(resize_image(image, how.image_size, how.interpolation))
            outcome = (image.shape[2], image.shape[1])
        except ImageTooLargeError as error:
            outcome = (IMAGE_TOO_LARGE, str(error))
        except ImageError as error:
            outcome = (IMAGE_CORRUPT, str(error))
        outcomes.append(outcome)
    batch = torch.stack(pixels) if pixels else torch.empty((0, 3, *how.image_size), dtype=torch.uint8)
    return batch, outcomes, time.perf_counter() - started


def default_workers(device_type: str, local_world_size: int = 1) -> int:
    """Decoding processes for one rank: one beside a model on the CPU, else what the cores allow, eight at most."""
    if device_type == "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_WORKERS, cores // local_world_size - 1))


@dataclass(frozen=True)
class _Pending:
    """A batch whose images are being decoded."""

    shard: Shard
    samples: list[Sample]
    good: list[Sample]
    decoded: Future[tuple[Tensor, list[Outcome], float]]


@dataclass(frozen=True)
class _Read:
    """A shard is read to its end, or as far as it goes."""

    shard: Shard
    error: ShardError | None
    seconds: float
    bytes_read: int


class ShardReader:
    """Reads shards into batches; a context manager that stops its thread and processes on the way out.

    `workers` 0 decodes in the reading thread. At most `ahead` batches wait in memory.
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
    ) -> None:
        self._how = Decoding(image_size=image_size, interpolation=interpolation, max_image_pixels=max_image_pixels)
        self._batch_size = batch_size
        self._workers = workers
        self._queue: queue.Queue[_Pending | _Read | BaseException | None] = queue.Queue(
            maxsize=ahead if ahead is not None else 2 + workers
        )
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> ShardReader:
        if self._workers:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["jobs.shards.reader"])
            self._pool = ProcessPoolExecutor(
                self._workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),)
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            patience = time.monotonic() + _PATIENCE_SECONDS
            while self._thread.is_alive() and time.monotonic() < patience:  # it may be waiting for room in the queue
                _drop_one(self._queue)
                self._thread.join(timeout=0.02)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def read(self, shards: Iterable[Shard], stop: Callable[[], bool] = lambda: False) -> Iterator[Batch | ShardEnd]:
        """Batches of each shard in tar order, then its ShardEnd, shard by shard in the order drawn from `shards`.

        `stop` is asked once a second while nothing comes, and ends it: a read may hang for hours. A shard that cannot
        be read on ends with its error and the next one follows. Raises UserError if a decoding process dies, and
        whatever else goes wrong in the reading thread.
        """
        self._thread = threading.Thread(target=self._read_all, args=(shards,), name="promptsg-reader", daemon=True)
        self._thread.start()
        decoding = 0.0
        while (item := self._next(stop)) is not None:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, _Read):
                yield ShardEnd(item.shard, item.error, item.seconds + decoding, item.bytes_read)
                decoding = 0.0
            else:
                images, outcomes, seconds = _result(item.decoded)
                decoding += seconds
                for sample, outcome in zip(item.good, outcomes, strict=True):
                    _apply(sample, outcome)
                yield Batch(item.shard, item.samples, images)

    def _next(self, stop: Callable[[], bool]) -> _Pending | _Read | BaseException | None:
        while True:
            try:
                return self._queue.get(timeout=1.0)
            except queue.Empty:
                if stop():
                    return None

    def _read_all(self, shards: Iterable[Shard]) -> None:
        """The reading thread: everything it has to say goes through the queue, its own errors included."""
        try:
            for shard in shards:
                self._read_shard(shard)
                if self._stop.is_set():
                    return
            self._queue.put(None)
        except BaseException as error:  # raised again by the consumer
            self._queue.put(error)

    def _read_shard(self, shard: Shard) -> None:
        """Cuts one shard into batches. Time spent waiting for a place in the queue is not counted as reading."""
        seconds, error = 0.0, None
        with TarReader(shard) as tar:
            samples = read_samples(tar, shard.name)
            while not self._stop.is_set():
                started = time.perf_counter()
                try:
                    rows = list(islice(samples, self._batch_size))
                except ShardError as broken:
                    rows, error = [], broken
                seconds += time.perf_counter() - started
                if not rows:
                    break
                self._queue.put(self._submit(shard, rows))
            self._queue.put(_Read(shard, error, seconds, tar.bytes_read))

    def _submit(self, shard: Shard, rows: list[tuple[Sample, bytes | None]]) -> _Pending:
        samples = [sample for sample, _ in rows]
        good = [(sample, data) for sample, data in rows if data is not None]
        images = [data for _, data in good]
        future: Future[Any]
        if self._pool is None:
            future = Future()
            future.set_result(decode_batch(images, self._how))
        else:
            future = self._pool.submit(decode_batch, images, self._how)
        return _Pending(shard, samples, [sample for sample, _ in good], future)


def _apply(sample: Sample, outcome: Outcome) -> None:
    """Puts what a worker said of an image into its sample."""
    first, second = outcome
    if isinstance(first, int) and isinstance(second, int):
        sample.width, sample.height = first, second
    else:
        sample.fail(str(first), str(second))


def _result(decoded: Future[tuple[Tensor, list[Outcome], float]]) -> tuple[Tensor, list[Outcome], float]:
    try:
        return decoded.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a decoding process died, perhaps for want of memory; try fewer --workers or a smaller --batch-size"
        ) from error


def _drop_one(waiting: queue.Queue[Any]) -> None:
    try:
        waiting.get_nowait()
    except queue.Empty:
        return


def _start_worker(parent: int) -> None:
    """Runs once in each decoding process: one thread, no Ctrl-C of its own, and no life without its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    """A worker of a killed parent would wait for work for ever: the fork server, not the worker, is its child."""
    while True:
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            os._exit(1)
        time.sleep(1)
