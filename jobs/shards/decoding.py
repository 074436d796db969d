"""Decoding batches of images: bytes to uint8 pixels at the model's size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor

from jobs.arrays import UInt8Array
from jobs.errors import UserError
from jobs.memory import is_out_of_memory
from jobs.phrases import one_line
from jobs.processes import available_cores
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import IMAGE_CORRUPT, IMAGE_TOO_LARGE, OK, shortened_error
from promptsg_core.errors import ImageError
from promptsg_core.images import DEFAULT_MAX_PIXELS, ImageTooLargeError, decode_pixels
from promptsg_core.preprocess import resize_image

_MOST_WORKERS = 8  # past this the decoders outrun any model that the maps are taken from
# Neighbours of one size are resized in one call: calling costs more than resizing (measured; more than 8 gain nothing).
_RESIZED_AT_ONCE, _RESIZED_BYTES = 8, 4 << 20


class DecoderDiedError(UserError):
    """A process that reads or decodes ended before its work was done."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How images are decoded: target size (height, width), interpolation, and the limit on pixels."""

    image_size: tuple[int, int]
    interpolation: str = "bilinear"
    max_image_pixels: int = DEFAULT_MAX_PIXELS

    def decode(self, images: Sequence[bytes], into: Tensor | None = None) -> DecodedBatch:
        """The pixels of a batch; see `decode_batch`."""
        return decode_batch(images, self, into)


@dataclass(frozen=True)
class DecodedSize:
    """An image was decoded; `width` and `height` are those of the upright original, in pixels."""

    width: int
    height: int

    def record_in(self, samples: SampleColumns, row: int) -> None:
        """Puts the outcome into the image's row."""
        samples.width[row], samples.height[row] = self.width, self.height


@dataclass(frozen=True)
class DecodingFailure:
    """An image was not decoded; `status` is one of the reasons of jobs.shards.samples."""

    status: str
    error: str

    def record_in(self, samples: SampleColumns, row: int) -> None:
        """Puts the outcome into the image's row."""
        samples.mark(row, self.status, shortened_error(self.error))


@dataclass(frozen=True)
class DecodedBatch:
    """`images` (n, 3, H, W) uint8 RGB are those that were decoded, `outcomes` has one entry for every image.

    `seconds` is the time that it took.
    """

    images: Tensor
    outcomes: list[DecodedSize | DecodingFailure]
    seconds: float


def decode_batch(images: Sequence[bytes], how: Decoding, into: Tensor | None = None) -> DecodedBatch:
    """Decodes the bytes of image files, one after the other, into the first rows of `into`, or into new memory."""
    started = time.perf_counter()
    if into is None:
        into = torch.empty((len(images), 3, *how.image_size), dtype=torch.uint8)
    resized = _Resized(how, into.numpy())
    for data in images:
        try:
            pixels = decode_pixels(data, max_pixels=how.max_image_pixels)
        except Exception as error:  # noqa: BLE001 -- whatever one image makes a library raise is in its row
            resized.fail(error)
        else:
            resized.add(pixels)
    resized.flush()
    return DecodedBatch(into[: resized.count], resized.outcomes, time.perf_counter() - started)


def record_outcomes(samples: SampleColumns, outcomes: Sequence[DecodedSize | DecodingFailure]) -> None:
    """Puts the outcomes of the images of a batch into the rows of the samples that are ok so far."""
    for row, outcome in zip(samples.rows_with({OK}), outcomes, strict=True):
        outcome.record_in(samples, row)


@dataclass
class _Resized:
    """Images of any sizes put into `into` (n, 3, H, W) at one size, in their order; `count` of them are there."""

    how: Decoding
    into: UInt8Array
    count: int = 0
    outcomes: list[DecodedSize | DecodingFailure] = field(default_factory=list)
    _waiting: list[UInt8Array] = field(default_factory=list)  # of one size; their outcomes come when they are resized

    def add(self, pixels: UInt8Array) -> None:
        """Takes the pixels (h, w, 3) of the next image."""
        if self._waiting and self._waiting[0].shape != pixels.shape:
            self.flush()
        self._waiting.append(pixels)
        if len(self._waiting) == _RESIZED_AT_ONCE or len(self._waiting) * pixels.nbytes >= _RESIZED_BYTES:
            self.flush()

    def fail(self, error: Exception) -> None:
        """Notes why the next image has no pixels."""
        self.flush()
        self.outcomes.append(_failure_of(error))

    def flush(self) -> None:
        """Resizes what waits: together or, where that fails, one by one."""
        waiting, self._waiting = self._waiting, []
        try:
            self._resize(waiting)
        except Exception as error:  # noqa: BLE001 -- it is in the row of its image
            if len(waiting) == 1:
                self.outcomes.append(_failure_of(error))
                return
            for pixels in waiting:
                self._waiting = [pixels]
                self.flush()

    def _resize(self, images: list[UInt8Array]) -> None:
        if not images:
            return
        # (n, 3, h, w), in memory (n, h, w, 3): resizing is faster on that than on separate planes.
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        pixels = resize_image(stacked, self.how.image_size, self.how.interpolation).permute(0, 2, 3, 1).numpy()
        for image in pixels:
            cv2.split(image, list(self.into[self.count]))
            self.count += 1
        height, width, _ = images[0].shape
        self.outcomes += [DecodedSize(width=width, height=height)] * len(images)


def _failure_of(error: Exception) -> DecodingFailure:
    if isinstance(error, ImageTooLargeError):
        return DecodingFailure(IMAGE_TOO_LARGE, str(error))
    if is_out_of_memory(error):
        return DecodingFailure(IMAGE_TOO_LARGE, "not enough memory to decode it")
    if isinstance(error, ImageError):
        return DecodingFailure(IMAGE_CORRUPT, str(error))
    return DecodingFailure(IMAGE_CORRUPT, f"{type(error).__name__}: {one_line(error)}")


def default_workers(device_type: str, ranks_sharing_cores: int = 1) -> int:
    """Decoding processes for one rank: one beside a model on the CPU, else what the cores allow, eight at most.

    `ranks_sharing_cores` ranks, this one included, share the cores that this process may use.
    """
    if device_type == "cpu":
        return 1
    return max(1, min(_MOST_WORKERS, available_cores() // ranks_sharing_cores - 1))
