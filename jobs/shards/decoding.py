"""Decoding batches of images, in this process or in workers: bytes to uint8 pixels at the model's size."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import torch
import torch.multiprocessing  # registers how tensors travel between processes: through shared memory
from torch import Tensor

from jobs.errors import UserError
from jobs.processes import available_cores, start_worker
from jobs.shards.samples import IMAGE_CORRUPT, IMAGE_TOO_LARGE, Sample
from promptsg_core.errors import ImageError
from promptsg_core.images import DEFAULT_MAX_PIXELS, ImageTooLargeError
from promptsg_core.preprocess import decode_image, resize_image

_MOST_WORKERS = 8  # past this the decoders outrun any model that the maps are taken from


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


def decode_batch(images: Sequence[bytes], how: Decoding) -> DecodedBatch:
    """Decodes the bytes of image files, one after the other."""
    started = time.perf_counter()
    pixels: list[Tensor] = []
    outcomes: list[DecodedSize | DecodingFailure] = []
    for data in images:
        try:
            image = decode_image(data, max_pixels=how.max_image_pixels)
        except ImageTooLargeError as error:
            outcomes.append(DecodingFailure(IMAGE_TOO_LARGE, str(error)))
        except ImageError as error:
            outcomes.append(DecodingFailure(IMAGE_CORRUPT, str(error)))
        else:
            pixels.append(resize_image(image, how.image_size, how.interpolation))
            outcomes.append(DecodedSize(width=image.shape[2], height=image.shape[1]))
    batch = torch.stack(pixels) if pixels else torch.empty((0, 3, *how.image_size), dtype=torch.uint8)
    return DecodedBatch(batch, outcomes, time.perf_counter() - started)


def default_workers(device_type: str, local_world_size: int = 1) -> int:
    """Decoding processes for one rank: one beside a model on the CPU, else what the cores allow, eight at most."""
    if device_type == "cpu":
        return 1
    return max(1, min(_MOST_WORKERS, available_cores() // local_world_size - 1))


class Decoder:
    """Decodes batches in `workers` processes, or at once in the caller's thread if there are none."""

    def __init__(self, how: Decoding, workers: int) -> None:
        self._how = how
        self._pool: ProcessPoolExecutor | None = None
        if workers:
            context = get_context("forkserver")
            context.set_forkserver_preload(["jobs.shards.decoding"])
            self._pool = ProcessPoolExecutor(
                workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),)
            )

    def submit(self, images: Sequence[bytes]) -> Future[DecodedBatch]:
        """Begins to decode a batch; see `result_of`."""
        if self._pool is not None:
            return self._pool.submit(decode_batch, images, self._how)
        done: Future[DecodedBatch] = Future()
        done.set_result(decode_batch(images, self._how))
        return done

    def close(self) -> None:
        """Ends the workers. What has not begun is not decoded."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def result_of(decoded: Future[DecodedBatch]) -> DecodedBatch:
    """The batch, once it is decoded. Raises UserError if a decoding process died."""
    try:
        return decoded.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a decoding process died, perhaps for want of memory; try fewer --workers or a smaller --batch-size"
        ) from error


def _start_worker(parent: int) -> None:
    """Runs once in each decoding process."""
    start_worker(parent)
    torch.set_num_threads(1)
