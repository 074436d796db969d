"""Decoding batches of images, in this process or in workers: bytes to uint8 pixels at the model's size."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TypeAlias

import numpy as np
import torch
import torch.multiprocessing  # registers how tensors travel between processes: through shared memory
from numpy.typing import NDArray
from torch import Tensor

from jobs.errors import UserError
from jobs.memory import is_out_of_memory
from jobs.phrases import one_line
from jobs.processes import available_cores, end_pool, start_worker
from jobs.shards.samples import IMAGE_CORRUPT, IMAGE_TOO_LARGE, Sample
from promptsg_core.errors import ImageError
from promptsg_core.images import DEFAULT_MAX_PIXELS, ImageTooLargeError
from promptsg_core.preprocess import decode_image, resize_image

logger = logging.getLogger(__name__)

_MOST_WORKERS = 8  # past this the decoders outrun any model that the maps are taken from
_LOOK_SECONDS, _SLOW_SECONDS, _STALLED_SECONDS = 1.0, 60.0, 600.0
_DIED = (
    "a decoding process died, perhaps killed for want of memory; try fewer --workers or a smaller --batch-size, or ask "
    "for more memory"
)


class DecoderDiedError(UserError):
    """A decoding process ended before its work was done."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How images are decoded: target size (height, width), interpolation, and the limit on pixels."""

    image_size: tuple[int, int]
    interpolation: str = "bilinear"
    max_image_pixels: int = DEFAULT_MAX_PIXELS


@dataclass(frozen=True)
class DecodedSize:
    """An image was decoded; `width` and `height` are those of the upright original, in pixels."""

    width: int
    height: int

    def record_in(self, sample: Sample) -> None:
        """Puts the outcome into the image's sample."""
        sample.width, sample.height = self.width, self.height


@dataclass(frozen=True)
class DecodingFailure:
    """An image was not decoded; `status` is one of the reasons of jobs.shards.samples."""

    status: str
    error: str

    def record_in(self, sample: Sample) -> None:
        """Puts the outcome into the image's sample."""
        sample.fail(self.status, self.error)


@dataclass(frozen=True)
class DecodedBatch:
    """`images` (n, 3, H, W) uint8 RGB are those that were decoded, `outcomes` has one entry for every image.

    `seconds` is the time that it took.
    """

    images: Tensor
    outcomes: list[DecodedSize | DecodingFailure]
    seconds: float


@dataclass(frozen=True)
class _PipedBatch:
    """A DecodedBatch on its way through a pipe: a tensor would go through shared memory."""

    pixels: NDArray[np.uint8]
    outcomes: list[DecodedSize | DecodingFailure]
    seconds: float


Decoded: TypeAlias = "Future[DecodedBatch | _PipedBatch]"


def decode_batch(images: Sequence[bytes], how: Decoding) -> DecodedBatch:
    """Decodes the bytes of image files, one after the other."""
    started = time.perf_counter()
    pixels: list[Tensor] = []
    outcomes: list[DecodedSize | DecodingFailure] = []
    for data in images:
        try:
            image = decode_image(data, max_pixels=how.max_image_pixels)
            pixels.append(resize_image(image, how.image_size, how.interpolation))
        except Exception as error:  # noqa: BLE001 -- whatever one image makes a library raise is in its row
            outcomes.append(_failure_of(error))
        else:
            outcomes.append(DecodedSize(width=image.shape[2], height=image.shape[1]))
    batch = torch.stack(pixels) if pixels else torch.empty((0, 3, *how.image_size), dtype=torch.uint8)
    return DecodedBatch(batch, outcomes, time.perf_counter() - started)


def _failure_of(error: Exception) -> DecodingFailure:
    if isinstance(error, ImageTooLargeError):
        return DecodingFailure(IMAGE_TOO_LARGE, str(error))
    if is_out_of_memory(error):
        return DecodingFailure(IMAGE_TOO_LARGE, "not enough memory to decode it")
    if isinstance(error, ImageError):
        return DecodingFailure(IMAGE_CORRUPT, str(error))
    return DecodingFailure(IMAGE_CORRUPT, f"{type(error).__name__}: {one_line(error)}")


def default_workers(device_type: str, local_world_size: int = 1) -> int:
    """Decoding processes for one rank: one beside a model on the CPU, else what the cores allow, eight at most."""
    if device_type == "cpu":
        return 1
    return max(1, min(_MOST_WORKERS, available_cores() // local_world_size - 1))


class Decoder:
    """Decodes batches in `workers` processes, or at once in the caller's thread if there are none.

    With `shared` the pixels come back through shared memory; else, and where that is full, through a pipe. Raises
    UserError where processes cannot be started at all.
    """

    def __init__(self, how: Decoding, workers: int, *, shared: bool = True) -> None:
        self._how = how
        self._shared = shared
        self._pool = _start_pool(workers) if workers else None

    def submit(self, images: Sequence[bytes]) -> Decoded:
        """Begins to decode a batch; see `result_of`. Raises DecoderDiedError."""
        if self._pool is not None:
            try:
                return self._pool.submit(_decode_in_worker, images, self._how, self._shared)
            except BrokenProcessPool as error:
                raise DecoderDiedError(_DIED) from error
        done: Decoded = Future()
        done.set_result(decode_batch(images, self._how))
        return done

    def close(self) -> None:
        """Ends the workers, by force where they do not answer. What has not begun is not decoded."""
        if self._pool is not None:
            end_pool(self._pool)


def is_decoded(decoded: Decoded, stop: Callable[[], bool]) -> bool:
    """Waits until a batch is decoded, or its process died, or `stop`, which is called once a second, says to stop.

    Returns whether there is a result. Raises UserError after minutes in which nothing came.
    """
    began = time.monotonic()
    warned = False
    while not wait([decoded], timeout=_LOOK_SECONDS).done:
        if stop():
            return False
        waited = time.monotonic() - began
        if waited > _STALLED_SECONDS:
            raise UserError(
                f"a batch was not decoded in {_STALLED_SECONDS / 60:.0f} minutes: the decoding process hangs; run the "
                "same command again, with a smaller --batch-size if the images are very large"
            )
        if waited > _SLOW_SECONDS and not warned:
            logger.warning("waiting for a decoding process that has not answered for %.0f s", waited)
            warned = True
    return True


def result_of(decoded: Decoded) -> DecodedBatch:
    """The batch, once it is decoded. Raises DecoderDiedError if a decoding process died."""
    try:
        batch = decoded.result()
    except BrokenProcessPool as error:
        raise DecoderDiedError(_DIED) from error
    if isinstance(batch, DecodedBatch):
        return batch
    return DecodedBatch(torch.from_numpy(batch.pixels), batch.outcomes, batch.seconds)


def _start_pool(workers: int) -> ProcessPoolExecutor:
    context = get_context("forkserver")
    context.set_forkserver_preload(["jobs.shards.decoding"])
    try:
        return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    except OSError as error:  # their locks are files in /dev/shm
        raise UserError(
            f"decoding processes cannot be started ({one_line(error)}): they need a writable /dev/shm with a little "
            "room; mount one, or give --workers 0 to decode without them"
        ) from error


def _decode_in_worker(images: Sequence[bytes], how: Decoding, shared: bool) -> DecodedBatch | _PipedBatch:
    batch = decode_batch(images, how)
    if shared:
        with contextlib.suppress(RuntimeError, OSError):  # other programs have filled it
            batch.images.share_memory_()  # type: ignore[no-untyped-call]
            return batch
    return _PipedBatch(batch.images.numpy(), batch.outcomes, batch.seconds)


def _start_worker() -> None:
    """Runs once in each decoding process."""
    start_worker()
    torch.set_num_threads(1)
