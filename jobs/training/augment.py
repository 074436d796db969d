"""Augmentation of training batches: flips, padded crops and random erasing, on uint8 pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_TRIES = 10  # how often an area and an aspect are drawn, until the rectangle fits into the image


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images are changed.

    `flip` and `erase` are the shares of the images that are flipped and erased. A crop moves an image by up to
    `padding` pixels; None means 10 for a height of 256, and in proportion for others. Random erasing fills a rectangle
    with random pixels: its `area`, as a share of the image, and its `aspect` are those of Zhong et al. 2020,
    arXiv:1708.04896.
    """

    flip: float = 0.5
    padding: int | None = None
    erase: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """(B, 3, H, W) uint8 -> a changed copy. Equal states of the generator give equal copies."""
        padding = round(10 * images.shape[2] / 256) if self.padding is None else self.padding
        changed = []
        for image in images:
            flipped = image.flip(2) if rng.random() < self.flip else image
            cropped = padded_crop(flipped, padding, rng)
            changed.append(self._erased(cropped, rng) if rng.random() < self.erase else cropped)
        return torch.stack(changed)

    def _erased(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """(3, H, W) -> a copy with one rectangle of noise; the image itself if no rectangle fits."""
        _, height, width = image.shape
        for _ in range(_TRIES):
            area = rng.uniform(*self.area) * height * width
            aspect = math.exp(rng.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < h < height and 0 < w < width:
                top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                erased = image.clone()
                erased[:, top : top + h, left : left + w] = torch.from_numpy(
                    rng.integers(0, 256, (3, h, w), dtype=np.uint8)
                )
                return erased
        return image


def padded_crop(image: Tensor, padding: int, rng: np.random.Generator) -> Tensor:
    """(3, H, W) -> (3, H, W): moved by up to `padding` pixels in each direction, and black at the border."""
    _, height, width = image.shape
    top, left = (int(offset) for offset in rng.integers(2 * padding + 1, size=2))
    padded = torch.nn.functional.pad(image, (padding,) * 4)
    return padded[:, top : top + height, left : left + width]
