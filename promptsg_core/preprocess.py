"""Image bytes to uint8 pixels to a normalised batch, with the functions that re-ID training codes call.

All images here are RGB, channels first, (3, H, W). Resizing works on uint8, antialiased. Bilinear, it gives Pillow's
bytes where an image grows, as pedestrian crops do, and stays within one grey level of them where it shrinks.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from promptsg_core.errors import ImageError
from promptsg_core.images import DEFAULT_MAX_PIXELS, decode_pixels


def decode_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Tensor:
    """Image bytes -> uint8 RGB (3, H, W), upright; see `decode_pixels` for what is read and raised.

    In memory it stays (H, W, 3): resizing is faster on that than on separate planes.
    """
    return torch.from_numpy(decode_pixels(data, max_pixels=max_pixels)).permute(2, 0, 1)


def resize_image(image: Tensor, size: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """uint8 (3, H, W) -> uint8 (3, *size), antialiased; `interpolation` is bilinear or bicubic."""
    resized: Tensor = transforms.resize(image, list(size), InterpolationMode(interpolation), antialias=True)
    return resized


def read_image(path: str | Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Tensor:
    """An image file -> uint8 RGB (3, H, W). Raises ImageError naming the file."""
    try:
        return decode_image(Path(path).read_bytes(), max_pixels=max_pixels)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error
    except ImageError as error:
        raise type(error)(f"{path}: {error}") from error


class Normaliser:
    """Normalises images by the mean and the standard deviation of the RGB channels.

    Both stay on the device and in the type in which they were last needed: a copy to a GPU for each batch would make
    the host wait for it.
    """

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        self.mean, self.std = mean, std
        self._there: tuple[Tensor, Tensor] | None = None

    def normalise(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 (B, 3, H, W) -> (images / 255 - mean) / std as `dtype`, on the images' own device."""
        wide = torch.promote_types(dtype, torch.float32)
        # Divided, as ToTensor does: to_dtype(scale=True) multiplies by 1 / 255, which differs in the last bit.
        zero_to_one: Tensor = transforms.to_dtype(images, wide).div_(255)
        mean, std = self._on(zero_to_one)
        return zero_to_one.sub_(mean).div_(std).to(dtype)

    def _on(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(3, 1, 1) mean and standard deviation, of the type and on the device of the images."""
        there = self._there
        if there is None or there[0].device != images.device or there[0].dtype != images.dtype:
            with torch.inference_mode(False):
                mean, std = (
                    torch.tensor(values, dtype=images.dtype, device=images.device).view(3, 1, 1)
                    for values in (self.mean, self.std)
                )
            there = self._there = mean, std
        return there

    def __reduce__(self) -> tuple[type[Normaliser], tuple[tuple[float, float, float], tuple[float, float, float]]]:
        return type(self), (self.mean, self.std)


def normalise(
    images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float], dtype: torch.dtype
) -> Tensor:
    """uint8 (B, 3, H, W) -> (images / 255 - mean) / std as `dtype`, on the images' own device."""
    return Normaliser(mean, std).normalise(images, dtype)
